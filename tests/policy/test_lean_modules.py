"""Parts that keep less stand in where they compute the same, and nowhere else."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GemmaConfig, LlamaConfig, Qwen3Config
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

from g2rl.engines.lean_decoder import is_plain
from g2rl.policy.gated_mlp import LeanGatedMLP
from g2rl.policy.lean_modules import (
    _is_repeated_mlp,
    is_plain_mlp,
    is_plain_norm,
    replacement_of,
    with_lean_modules,
)
from g2rl.policy.loading import set_checkpointing
from g2rl.policy.lora import LoraSettings, add_lora
from g2rl.policy.norms import LeanRMSNorm
from g2rl.policy.policy import Policy

SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 96,
    "vocab_size": 50,
}


@pytest.mark.parametrize("config", [Qwen3Config(**SIZES), LlamaConfig(**SIZES)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_model_computes_the_same(config: Any, dtype: torch.dtype, checkpointing: bool) -> None:
    torch.manual_seed(0)
    plain = AutoModelForCausalLM.from_config(config, dtype=dtype)
    lean = copy.deepcopy(plain)
    kept = dict(lean.named_parameters())
    endings = ("RMSNorm", "MLP")
    count = sum(type(module).__name__.endswith(endings) for module in plain.modules())
    assert with_lean_modules(lean) == count > 2
    assert with_lean_modules(lean) == 0

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
    assert with_lean_modules(gemma) == 0
    assert not is_plain_norm(LouderRMSNorm(8))
    assert not is_plain_norm(BuiltOtherwiseRMSNorm(8, 2))
    assert not is_plain_norm(nn.LayerNorm(8))
    assert not is_plain_norm(nn.RMSNorm(8))
    assert is_plain_norm(LlamaRMSNorm(8))


def test_what_somebody_altered_stays() -> None:
    hooked, patched, biased = (LlamaRMSNorm(8) for _ in range(3))
    hooked.register_forward_hook(lambda *_: None)
    patched.forward = lambda x: x
    biased.bias = nn.Parameter(torch.zeros(8))
    for norm in (hooked, patched, biased):
        assert replacement_of(norm) is None
    assert replacement_of(LlamaRMSNorm(8)) is not None


def test_a_replaced_forward_of_a_class_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_plain_norm(LlamaRMSNorm(24))
    monkeypatch.setattr(LlamaRMSNorm, "forward", lambda self, x: self.weight * x)
    assert not is_plain_norm(LlamaRMSNorm(24))


def test_one_norm_in_two_places_stays_one() -> None:
    norm = LlamaRMSNorm(8)
    inner = nn.Sequential(norm)
    model = nn.Sequential(norm, inner)
    assert with_lean_modules(model) == 1
    assert isinstance(model[0], LeanRMSNorm)
    assert model[0] is inner[0]


def test_a_model_without_memory_is_tried_as_well() -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(Qwen3Config(**SIZES))
        assert with_lean_modules(model) == 11
    assert all(parameter.is_meta for parameter in model.parameters())


def test_a_trial_moves_no_random_numbers() -> None:
    model = AutoModelForCausalLM.from_config(Qwen3Config(**SIZES))
    _is_repeated_mlp.cache_clear()
    before = torch.get_rng_state()
    assert with_lean_modules(model) == 11
    assert torch.equal(before, torch.get_rng_state())


def test_a_policy_replaces_them_and_can_be_told_not_to() -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(Qwen3Config(**SIZES))
    untouched = Policy(copy.deepcopy(model), lean_modules=False)
    for kind in (LeanRMSNorm, LeanGatedMLP):
        assert not any(isinstance(module, kind) for module in untouched.modules())
        assert any(isinstance(module, kind) for module in Policy(copy.deepcopy(model)).modules())


class LouderMLP(LlamaMLP):
    """The same looks with another forward."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 1.0001


class SquaredMLP(LlamaMLP):
    """Another product of the same layers."""

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.up_proj(x)) * self.gate_proj(x))


def test_mlps_that_are_not_repeated_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    config = LlamaConfig(**SIZES)
    assert is_plain_mlp(LlamaMLP(config))
    assert is_plain_mlp(LlamaMLP(LlamaConfig(**SIZES, mlp_bias=True)))
    assert not is_plain_mlp(LouderMLP(config))
    assert not is_plain_mlp(SquaredMLP(config))
    assert not is_plain_mlp(LlamaMLP(LlamaConfig(**SIZES, hidden_act="gelu")))

    # an activation that was exchanged, and one more layer
    exchanged, longer = LlamaMLP(config), LlamaMLP(config)
    exchanged.act_fn = nn.GELU()
    longer.another = nn.Linear(4, 4)
    assert not is_plain_mlp(exchanged)
    assert not is_plain_mlp(longer)
    monkeypatch.setattr(LlamaMLP, "forward", lambda self, x: x)
    assert not is_plain_mlp(LlamaMLP(config))


@pytest.mark.parametrize("lora", [LoraSettings(r=3)])
def test_adapters_get_the_same_gradients(lora: LoraSettings) -> None:
    pytest.importorskip("peft")
    torch.manual_seed(0)
    plain = AutoModelForCausalLM.from_config(Qwen3Config(**SIZES))
    add_lora(plain, lora, "here")
    for name, parameter in plain.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    lean = copy.deepcopy(plain)
    assert with_lean_modules(lean) == 11

    tokens = torch.arange(40).reshape(2, 20)
    for model in (plain, lean):
        model(tokens, labels=tokens).loss.backward()
    trained = 0
    for one, other in zip(plain.parameters(), lean.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None)
        if one.grad is not None and other.grad is not None:
            trained += 1
            assert torch.equal(one.grad, other.grad)
    assert trained > 10
