"""Norms that keep less: equal to those of transformers bit by bit, and left out where not."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GemmaConfig, LlamaConfig, Qwen3Config
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from g2rl.engines.lean_decoder import is_plain
from g2rl.policy.loading import set_checkpointing
from g2rl.policy.norms import LeanRMSNorm, is_replaceable, with_lean_norms
from g2rl.policy.policy import Policy

KINDS = [LlamaRMSNorm, MistralRMSNorm, Qwen2RMSNorm, Qwen3RMSNorm]
SHAPES = [(7, 96), (2, 300, 64), (1, 40, 4, 33)]
SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 96,
    "vocab_size": 50,
}


def norm_of(kind: Any, width: int, dtype: torch.dtype) -> Any:
    """A norm whose weights are no ones."""
    norm = kind(width).to(dtype)
    with torch.no_grad():
        norm.weight.normal_()
    return norm


def run(norm: Any, x: Tensor, grad: Tensor, mixed: bool = False) -> list[Tensor]:
    """Output and gradients; the input comes from an operation, as in a model."""
    x = x.clone().requires_grad_()
    norm.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        output = norm(x * 1)
    output.backward(grad.to(output.dtype))
    assert x.grad is not None
    return [output.detach(), x.grad, norm.weight.grad.clone()]


def assert_same(expected: list[Tensor], found: list[Tensor]) -> None:
    for one, other in zip(expected, found, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


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


@pytest.mark.parametrize("config", [Qwen3Config(**SIZES), LlamaConfig(**SIZES)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_model_computes_the_same(config: Any, dtype: torch.dtype, checkpointing: bool) -> None:
    torch.manual_seed(0)
    plain = AutoModelForCausalLM.from_config(config, dtype=dtype)
    lean = copy.deepcopy(plain)
    kept = dict(lean.named_parameters())
    count = sum(type(module).__name__.endswith("RMSNorm") for module in plain.modules())
    assert with_lean_norms(lean) == count > 0
    assert with_lean_norms(lean) == 0

    # names and parameters are the same objects, and nothing else has changed
    assert list(lean.state_dict()) == list(plain.state_dict())
    assert all(kept[name] is parameter for name, parameter in lean.named_parameters())
    assert is_plain(lean.model)

    tokens = torch.arange(40).reshape(2, 20)
    for model in (plain, lean):
        if checkpointing:
            set_checkpointing(model, True)
        model.train()
        model(tokens, labels=tokens).loss.backward()
    for one, other in zip(plain.parameters(), lean.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


class Louder(LlamaRMSNorm):
    """The same looks with another forward."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 1.0001


class BuiltOtherwiseRMSNorm(nn.Module):
    """A norm that asks for more than a width."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.variance_epsilon = 1e-6


LouderRMSNorm = type("LouderRMSNorm", (Louder,), {})


def test_norms_that_are_not_repeated_stay() -> None:
    gemma = AutoModelForCausalLM.from_config(GemmaConfig(**SIZES))
    assert with_lean_norms(gemma) == 0
    assert not is_replaceable(LouderRMSNorm(8))
    assert not is_replaceable(BuiltOtherwiseRMSNorm(8, 2))
    assert not is_replaceable(nn.LayerNorm(8))
    assert not is_replaceable(nn.RMSNorm(8))
    assert is_replaceable(LlamaRMSNorm(8))


def test_what_somebody_altered_stays() -> None:
    hooked, patched, biased = (LlamaRMSNorm(8) for _ in range(3))
    hooked.register_forward_hook(lambda *_: None)
    patched.forward = lambda x: x
    biased.bias = nn.Parameter(torch.zeros(8))
    for norm in (hooked, patched, biased):
        assert not is_replaceable(norm)


def test_a_replaced_forward_of_a_class_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_replaceable(LlamaRMSNorm(24))
    monkeypatch.setattr(LlamaRMSNorm, "forward", lambda self, x: self.weight * x)
    assert not is_replaceable(LlamaRMSNorm(24))


def test_one_norm_in_two_places_stays_one() -> None:
    norm = LlamaRMSNorm(8)
    inner = nn.Sequential(norm)
    model = nn.Sequential(norm, inner)
    assert with_lean_norms(model) == 1
    assert isinstance(model[0], LeanRMSNorm)
    assert model[0] is inner[0]


def test_a_model_without_memory_is_tried_as_well() -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(Qwen3Config(**SIZES))
        assert with_lean_norms(model) == 9
    assert all(parameter.is_meta for parameter in model.parameters())


def test_a_policy_replaces_them_and_can_be_told_not_to() -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(Qwen3Config(**SIZES))
    untouched = Policy(copy.deepcopy(model), lean_norms=False)
    assert not any(isinstance(module, LeanRMSNorm) for module in untouched.modules())
    assert any(isinstance(module, LeanRMSNorm) for module in Policy(model).modules())
