"""Norms that keep less have outputs and gradients of those of transformers, bit by bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from g2rl.policy.norms import LeanRMSNorm
from tests.policy.lean import assert_same, run

KINDS = [LlamaRMSNorm, MistralRMSNorm, Qwen2RMSNorm, Qwen3RMSNorm]
SHAPES = [(96,), (7, 96), (2, 300, 64), (1, 40, 4, 33)]


def norm_of(kind: Any, width: int, dtype: torch.dtype) -> Any:
    """A norm whose weights are no ones."""
    norm = kind(width).to(dtype)
    with torch.no_grad():
        norm.weight.normal_()
    return norm


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("dtype", "inputs", "mixed"),
    [
        (torch.float32, torch.float32, False),
        (torch.bfloat16, torch.bfloat16, False),
        (torch.float16, torch.float16, False),
        (torch.float64, torch.float64, False),
        (torch.float32, torch.float32, True),
        (torch.float32, torch.bfloat16, True),
    ],
)
def test_outputs_and_gradients_are_those_of_transformers(
    kind: Any, shape: tuple[int, ...], dtype: torch.dtype, inputs: torch.dtype, mixed: bool
) -> None:
    torch.manual_seed(0)
    norm = norm_of(kind, shape[-1], dtype)
    x, grad = torch.randn(2, *shape).to(inputs)
    lean = LeanRMSNorm(norm)
    assert_same(run(norm, x, grad, mixed), run(lean, x, grad, mixed))
    with torch.no_grad():
        assert torch.equal(norm(x), lean(x))


@pytest.mark.parametrize("scale", [0.0, 1e-38, 1e-20, 1e18])
def test_extreme_numbers_round_alike(scale: float) -> None:
    torch.manual_seed(0)
    norm = norm_of(Qwen3RMSNorm, 64, torch.float32)
    x, grad = torch.randn(2, 9, 64)
    expected, found = run(norm, x * scale, grad), run(LeanRMSNorm(norm), x * scale, grad)
    assert_same(expected, found)


def test_inputs_that_are_not_contiguous_and_frozen_weights() -> None:
    torch.manual_seed(0)
    norm = norm_of(Qwen3RMSNorm, 32, torch.float32)
    lean = LeanRMSNorm(norm)
    x, grad = torch.randn(2, 5, 4, 9, 32).transpose(2, 3)
    assert_same(run(norm, x, grad), run(lean, x, grad))
    assert_same(run(norm, x.contiguous(), grad), run(lean, x.contiguous(), grad))
    assert_same(run(norm, x, grad.contiguous()), run(lean, x, grad.contiguous()))

    # adapters: the weight gets no gradient; the first block: the input gets none
    norm.weight.requires_grad_(False)
    sample = x.clone().requires_grad_()
    [expected] = torch.autograd.grad(norm(sample), sample, grad)
    [found] = torch.autograd.grad(lean(sample), sample, grad)
    assert torch.equal(expected, found)
    norm.weight.requires_grad_(True)
    [expected] = torch.autograd.grad(norm(x), norm.weight, grad)
    [found] = torch.autograd.grad(lean(x), norm.weight, grad)
    assert torch.equal(expected, found)


def test_inputs_and_gradients_are_left_as_they_are() -> None:
    """The backward writes into memory of its own alone."""
    torch.manual_seed(0)
    lean = LeanRMSNorm(norm_of(Qwen3RMSNorm, 16, torch.float32))
    x, grad = torch.randn(3, 16, requires_grad=True), torch.randn(3, 16)
    copies = x.detach().clone(), grad.clone(), lean.weight.detach().clone()
    output = lean(x)
    kept = output.detach().clone()
    output.backward(grad, retain_graph=True)
    first = x.grad.clone()  # type: ignore[union-attr]
    x.grad = None
    output.backward(grad)
    assert torch.equal(first, x.grad)  # type: ignore[arg-type]
    for before, after in zip(copies, (x, grad, lean.weight), strict=True):
        assert torch.equal(before, after)
    assert torch.equal(kept, output)


def test_the_float64_formula() -> None:
    """Against autograd of Eq. 4 in float64, to the precision of float32."""
    torch.manual_seed(0)
    lean = LeanRMSNorm(norm_of(Qwen3RMSNorm, 48, torch.float32))
    x, grad = torch.randn(2, 6, 48)
    exact = x.double().requires_grad_()
    weight = lean.weight.detach().double().requires_grad_()
    output = weight * exact / (exact.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    output.backward(grad.double())
    for expected, found in zip((output, exact.grad, weight.grad), run(lean, x, grad), strict=True):
        assert expected is not None
        torch.testing.assert_close(expected.float(), found, rtol=1e-5, atol=1e-5)
