"""Gated MLPs that keep less have outputs and gradients of those of transformers, bit by bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config
from transformers.models.llama.modeling_llama import LlamaMLP
from transformers.models.mistral.modeling_mistral import MistralMLP
from transformers.models.qwen2.modeling_qwen2 import Qwen2MLP
from transformers.models.qwen3.modeling_qwen3 import Qwen3MLP

from g2rl.policy.gated_mlp import LeanGatedMLP, _GatedProduct
from tests.policy.lean import assert_same, run

SIZES = {"hidden_size": 48, "intermediate_size": 80, "num_attention_heads": 4}
KINDS = [
    (LlamaMLP, LlamaConfig(**SIZES, mlp_bias=True)),
    (MistralMLP, MistralConfig(**SIZES)),
    (Qwen2MLP, Qwen2Config(**SIZES)),
    (Qwen3MLP, Qwen3Config(**SIZES)),
]


@pytest.mark.parametrize(("kind", "config"), KINDS)
@pytest.mark.parametrize("scale", [1e-30, 1.0, 30.0])
@pytest.mark.parametrize(
    ("dtype", "inputs", "mixed"),
    [
        (torch.float32, torch.float32, False),
        (torch.bfloat16, torch.bfloat16, False),
        (torch.float64, torch.float64, False),
        (torch.float32, torch.float32, True),
        (torch.float32, torch.bfloat16, True),
    ],
)
def test_outputs_and_gradients_are_those_of_transformers(
    kind: Any, config: Any, scale: float, dtype: torch.dtype, inputs: torch.dtype, mixed: bool
) -> None:
    torch.manual_seed(0)
    mlp = kind(config).to(dtype)
    x, grad = (scale * torch.randn(2, 3, 70, 48)).to(inputs)
    lean = LeanGatedMLP(mlp)
    assert list(lean.state_dict()) == list(mlp.state_dict())
    assert_same(run(mlp, x, grad, mixed), run(lean, x, grad, mixed))
    with torch.no_grad():
        assert torch.equal(mlp(x.to(dtype)), lean(x.to(dtype)))


@pytest.mark.parametrize(
    "dtypes", [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)]
)
def test_layers_may_answer_in_two_dtypes(dtypes: tuple[torch.dtype, torch.dtype]) -> None:
    """As they do where an adapter or a quantised layer is wider than the others."""
    torch.manual_seed(0)
    inputs = [torch.randn(7, 33).to(dtype).requires_grad_() for dtype in dtypes]
    grad = torch.randn(7, 33)
    plain = torch.nn.functional.silu(inputs[0]) * inputs[1]
    lean = _GatedProduct.apply(*inputs)
    assert_same([plain.detach()], [lean.detach()])
    expected = torch.autograd.grad(plain, inputs, grad)
    assert_same([*expected], [*torch.autograd.grad(lean, inputs, grad)])


def test_a_second_backward_finds_what_the_first_did() -> None:
    """What is kept is not written into."""
    torch.manual_seed(0)
    lean = LeanGatedMLP(Qwen3MLP(Qwen3Config(**SIZES)))
    x, grad = torch.randn(2, 5, 48)
    x.requires_grad_()
    output = lean(x)
    [first] = torch.autograd.grad(output, x, grad, retain_graph=True)
    [second] = torch.autograd.grad(output, x, grad)
    assert torch.equal(first, second)
