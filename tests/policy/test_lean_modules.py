"""Parts that keep less stand in where they compute the same, and nowhere else."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    FalconH1Config,
    GemmaConfig,
    LlamaConfig,
    Qwen3Config,
)
from transformers.models.falcon_h1.modeling_falcon_h1 import FalconH1MLP
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

from g2rl.engines.lean_decoder import is_plain
from g2rl.policy.gated_mlp import LeanGatedMLP
from g2rl.policy.lean_modules import (
    _is_repeated_mlp,
    _is_repeated_norm,
    is_plain_mlp,
    is_plain_norm,
    replacement_of,
    with_lean_modules,
)
from g2rl.policy.loading import set_checkpointing
from g2rl.policy.lora import LoraSettings, add_lora
from g2rl.policy.norms import LeanRMSNorm
from g2rl.policy.policy import Policy
from tests.policy.lean import assert_same, run

SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 96,
    "vocab_size": 50,
}
LLAMA = LlamaConfig(**SIZES)


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


class BuiltOtherwiseRMSNorm(LlamaRMSNorm):
    """A norm whose constructor asks for more than a width, and which computes the same."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__(width)


class NamelessRMSNorm(nn.Module):
    """A norm without a forward."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.variance_epsilon = 1e-6


class CompiledRMSNorm(NamelessRMSNorm):
    """A norm whose forward is no function of Python."""

    forward = max


class FlaggedRMSNorm(LlamaRMSNorm):
    """A norm with a setting of its own that changes what it computes."""

    def __init__(self, width: int, is_centred: bool = False) -> None:
        super().__init__(width)
        self.is_centred = is_centred

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean(-1, keepdim=True) if self.is_centred else x)


class OutsideRMSNorm(LlamaRMSNorm):
    """The epsilon stands outside of the root, which large vectors do not show."""

    def forward(self, x: Tensor) -> Tensor:
        root = x.float().pow(2).mean(-1, keepdim=True).sqrt().clamp(min=self.variance_epsilon**0.5)
        return self.weight * (x.float() * torch.rsqrt(root**2)).to(x.dtype)


class KernelError(Exception):
    """What a library raises that is none of Python's own errors."""


class KernelRMSNorm(LlamaRMSNorm):
    """A norm that runs on some devices only."""

    def forward(self, x: Tensor) -> Tensor:
        raise KernelError("no GPU")


class PairRMSNorm(LlamaRMSNorm):
    """A norm that may be handed a second vector."""

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        return super().forward(x if other is None else x + other)


LouderRMSNorm = type("LouderRMSNorm", (Louder,), {})


def test_norms_that_are_not_repeated_stay() -> None:
    gemma = AutoModelForCausalLM.from_config(GemmaConfig(**SIZES))
    assert with_lean_modules(gemma) == 0
    assert not is_plain_norm(LouderRMSNorm(8))
    assert not is_plain_norm(NamelessRMSNorm(8))
    assert not is_plain_norm(OutsideRMSNorm(8))
    assert not is_plain_norm(CompiledRMSNorm(8))
    assert not is_plain_norm(KernelRMSNorm(8))
    assert not is_plain_norm(PairRMSNorm(8))
    assert is_plain_norm(BuiltOtherwiseRMSNorm(8, 2))
    assert not is_plain_norm(nn.LayerNorm(8))
    assert not is_plain_norm(nn.RMSNorm(8))
    assert is_plain_norm(LlamaRMSNorm(8))


CASES = [
    (torch.float32, torch.float32, False),
    (torch.bfloat16, torch.bfloat16, False),
    (torch.float32, torch.float32, True),
    (torch.float32, torch.bfloat16, True),
]
"""Dtype of the weight, dtype of the vectors, and whether autocast is on."""


@pytest.mark.parametrize("case", CASES)
def test_a_norm_that_differs_in_one_case_stays(case: tuple[torch.dtype, torch.dtype, bool]) -> None:
    class OddRMSNorm(LlamaRMSNorm):
        """Twice as large with one choice of dtypes and precision."""

        def forward(self, x: Tensor) -> Tensor:
            is_odd = (self.weight.dtype, x.dtype, torch.is_autocast_enabled("cpu")) == case
            return super().forward(x) * (2 if is_odd else 1)

    assert not is_plain_norm(OddRMSNorm(8))


def test_what_was_tried_is_the_module_with_its_own_settings() -> None:
    """One that computes the same with the defaults of its class may do something else."""
    assert is_plain_norm(FlaggedRMSNorm(8))
    assert not is_plain_norm(FlaggedRMSNorm(8, is_centred=True))
    for multipliers, is_same in (([1.0, 1.0], True), ([0.88, 1.0], False), ([1.0, 0.59], False)):
        config = FalconH1Config(hidden_size=64, intermediate_size=96, mlp_multipliers=multipliers)
        assert is_plain_mlp(FalconH1MLP(config)) == is_same


HOOKS = [
    "register_forward_hook",
    "register_forward_pre_hook",
    "register_full_backward_hook",
    "register_full_backward_pre_hook",
    "register_state_dict_post_hook",
    "register_state_dict_pre_hook",
    "register_load_state_dict_pre_hook",
    "register_load_state_dict_post_hook",
]


@pytest.mark.parametrize("hook", HOOKS)
def test_what_has_hooks_stays(hook: str) -> None:
    norm, mlp, inside = LlamaRMSNorm(8), LlamaMLP(LLAMA), LlamaMLP(LLAMA)
    for module in (norm, mlp, inside.act_fn):
        getattr(module, hook)(lambda *_: None)
    for module in (norm, mlp, inside):
        assert replacement_of(module) is None


@pytest.mark.parametrize(
    "name", ["__call__", "get_extra_state", "_save_to_state_dict", "_apply", "train"]
)
def test_what_is_called_or_saved_in_a_way_of_its_own_stays(name: str) -> None:
    """A replacement would save no state that only this class writes."""
    way = getattr(nn.Module, name)
    members = {name: lambda self, *inputs, **named: way(self, *inputs, **named)}
    config = LlamaConfig(**SIZES)
    assert not is_plain_norm(type("OtherRMSNorm", (LlamaRMSNorm,), members)(8))
    assert not is_plain_mlp(type("OtherMLP", (LlamaMLP,), members)(config))
    mlp = LlamaMLP(config)
    mlp.act_fn = type("OtherSiLU", (nn.SiLU,), members)()
    assert not is_plain_mlp(mlp)


@pytest.mark.parametrize("what", ["count", "size", "list", "of the class", "activation"])
def test_what_keeps_something_of_its_calls_stays(what: str) -> None:
    """Numbers would be the same, but the statistics of a monitor would be those of no call."""

    class CountingRMSNorm(LlamaRMSNorm):
        calls = 0
        sizes: ClassVar[list[torch.Tensor]] = []

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if what == "count":
                self.calls += 1
            elif what == "size":
                self.seen = x.detach().abs().max()
            elif what == "list":
                self.sizes.append(x.detach().abs().max())
            elif what == "of the class":
                CountingRMSNorm.calls += 1
            return super().forward(x)

    class CountingSiLU(nn.SiLU):
        calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return super().forward(x)

    config = LlamaConfig(**SIZES)
    if what == "activation":
        mlp = LlamaMLP(config)
        mlp.act_fn = CountingSiLU()
        assert not is_plain_mlp(mlp)
    else:
        assert not is_plain_norm(CountingRMSNorm(8))


def test_what_somebody_altered_stays() -> None:
    patched, compiled, biased, inside = (*(LlamaRMSNorm(8) for _ in range(3)), LlamaMLP(LLAMA))
    patched.forward = lambda x: x
    compiled._compiled_call_impl = compiled.forward  # as `compile()` does
    biased.bias = nn.Parameter(torch.zeros(8))
    inside.act_fn.forward = lambda x: x
    for module in (patched, compiled, biased, inside):
        assert replacement_of(module) is None
    assert replacement_of(LlamaRMSNorm(8)) is not None
    assert replacement_of(LlamaMLP(LLAMA)) is not None


def test_a_replaced_forward_of_a_class_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_plain_norm(LlamaRMSNorm(24))
    monkeypatch.setattr(LlamaRMSNorm, "forward", lambda self, x: self.weight * x)
    assert not is_plain_norm(LlamaRMSNorm(24))


@pytest.mark.parametrize("is_training", [True, False])
def test_the_mode_stays_as_it_was(is_training: bool) -> None:
    model = AutoModelForCausalLM.from_config(Qwen3Config(**SIZES)).train(is_training)
    assert with_lean_modules(model) == 11
    assert all(module.training == is_training for module in model.modules())


@pytest.mark.parametrize("module", [LlamaRMSNorm(64), LlamaMLP(LLAMA)])
def test_what_cannot_be_right_is_refused(module: nn.Module) -> None:
    """A second derivative, and weights that changed between forward and backward."""
    lean = replacement_of(copy.deepcopy(module))
    assert lean is not None
    x = torch.randn(3, 64, requires_grad=True)
    [first] = torch.autograd.grad(lean(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="twice"):
        first.square().sum().backward()

    output = lean(x)
    with torch.no_grad():
        for parameter in lean.parameters():
            parameter.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


def test_one_norm_in_two_places_stays_one() -> None:
    norm = LlamaRMSNorm(8)
    inner = nn.Sequential(norm)
    model = nn.Sequential(norm, inner, norm)
    assert with_lean_modules(model) == 1
    assert isinstance(model[0], LeanRMSNorm)
    assert model[0] is inner[0]
    assert model[0] is model[2]


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


SURROUNDINGS: list[Any] = [
    torch.no_grad,
    torch.inference_mode,
    lambda: torch.autocast("cpu", torch.bfloat16),
    lambda: torch.device("meta"),
]


@pytest.mark.parametrize("surrounding", SURROUNDINGS)
def test_what_surrounds_a_trial_does_not_matter(surrounding: Any) -> None:
    model = AutoModelForCausalLM.from_config(Qwen3Config(**SIZES))
    _is_repeated_mlp.cache_clear()
    _is_repeated_norm.cache_clear()
    with surrounding():
        assert with_lean_modules(model) == 11


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


class ConfiguredMLP(LlamaMLP):
    """What it computes is a matter of its configuration."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * getattr(self.config, "factor", 1.0)


class NoisyMLP(LlamaMLP):
    """Another product in one of the modes."""

    noisy_mode = True

    def forward(self, x: Tensor) -> Tensor:
        factor = 2.0 if self.training == self.noisy_mode else 1.0
        return super().forward(x) * factor


class QuietMLP(NoisyMLP):
    """The same in the other mode."""

    noisy_mode = False


class LimitedMLP(LlamaMLP):
    """Large activations are cut."""

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj((self.act_fn(self.gate_proj(x)) * self.up_proj(x)).clamp(max=500.0))


class WeightedMLP(LlamaMLP):
    """Layers are not called, so that their biases and adapters are left out."""

    def forward(self, x: Tensor) -> Tensor:
        up = nn.functional.linear(x, self.up_proj.weight)
        return self.down_proj(self.act_fn(self.gate_proj(x)) * up)


@pytest.mark.parametrize("kind", [ConfiguredMLP, NoisyMLP, QuietMLP, LimitedMLP, WeightedMLP])
def test_mlps_that_differ_somewhere_stay(kind: Any) -> None:
    assert not is_plain_mlp(kind(LLAMA))


class QuantisedLinear(nn.Module):
    """A layer whose weights are whole numbers, and no parameters."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.register_buffer("numbers", (layer.weight.detach() * 100).round().to(torch.int8))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.numbers.to(x.dtype) / 100)


def test_layers_without_parameters_are_called_as_they_are() -> None:
    torch.manual_seed(0)
    mlp = LlamaMLP(LLAMA)
    for name in ("gate_proj", "up_proj", "down_proj"):
        setattr(mlp, name, QuantisedLinear(getattr(mlp, name)))
    lean = replacement_of(mlp)
    assert lean is not None
    x, grad = torch.randn(2, 3, 64)
    assert_same(run(mlp, x, grad), run(lean, x, grad))


def test_mlps_that_are_not_repeated_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    config = LLAMA
    assert is_plain_mlp(LlamaMLP(config))
    assert is_plain_mlp(LlamaMLP(LlamaConfig(**SIZES, mlp_bias=True)))
    assert not is_plain_mlp(LouderMLP(config))
    assert not is_plain_mlp(SquaredMLP(config))
    assert not is_plain_mlp(LlamaMLP(LlamaConfig(**SIZES, hidden_act="gelu")))

    # an activation that was exchanged, also for one with a weight; one more layer, or weight
    exchanged, learnt, longer, heavier = (LlamaMLP(config) for _ in range(4))
    exchanged.act_fn = nn.GELU()
    learnt.act_fn = nn.PReLU()
    longer.another = nn.Linear(4, 4)
    heavier.scale = nn.Parameter(torch.ones(1))
    for mlp in (exchanged, learnt, longer, heavier):
        assert not is_plain_mlp(mlp)
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
