"""What a few tokens show of a model, and what is refused: heads, padding, noise, classes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from g2rl.policy.anatomy import UnsupportedModelError
from g2rl.policy.batching import make_micro_batch
from g2rl.policy.checks import LogitShape, measure_logits, noise_keys
from g2rl.policy.loading import LoadedModel, set_checkpointing
from g2rl.policy.policy import Policy
from tests.models.measures import own_logps, policy_logps, sequences
from tests.models.zoo import tiny_model

PAIRS = sequences((5, 6), (9, 12))


@pytest.mark.parametrize(
    ("model_type", "changes", "shape"),
    [
        ("qwen3", {}, LogitShape()),
        ("gemma2", {}, LogitShape(cap=30.0)),
        ("gemma3_text", {"final_logit_softcapping": 7.0}, LogitShape(cap=7.0)),
        ("cohere", {"logit_scale": 0.0625}, LogitShape(scale=0.0625)),
        ("granite", {"logits_scaling": 8.0}, LogitShape(scale=0.125)),
        ("hyperclovax", {"logits_scaling": 8.0}, LogitShape(scale=8.0)),
    ],
)
def test_scales_and_caps_are_found(
    model_type: str, changes: dict[str, Any], shape: LogitShape
) -> None:
    """Two families divide and multiply by a setting of the same name."""
    policy = Policy(tiny_model(model_type, **changes)).eval()
    assert policy.logit_shape == shape
    with torch.no_grad():
        # what training may do to the head
        policy.model.get_output_embeddings().weight.mul_(30)
        gap = (policy_logps(policy, PAIRS) - own_logps(policy.model, PAIRS)).abs().max()
    assert gap < 2e-4


def changed(model: Any, change: Any) -> Any:
    """A model that does something more to its logits."""
    forward = model.forward

    def more(*args: Any, **options: Any) -> Any:
        output = forward(*args, **options)
        output.logits = change(output.logits)
        return output

    model.forward = more
    return model


@pytest.mark.parametrize(
    "change",
    [
        lambda logits: 300 * torch.tanh(logits / 300),  # invisible in the logits of a new model
        lambda logits: logits + 0.01 * torch.arange(logits.shape[-1]),
        lambda logits: logits[..., :-3],
        lambda logits: logits.clamp_max(500.0),
        lambda logits: logits - logits.mean(-1, keepdim=True).abs() * logits,
    ],
)
def test_what_else_happens_behind_the_head_is_refused(tiny: LoadedModel, change: Any) -> None:
    policy = Policy(changed(copy.deepcopy(tiny.model), change))
    with pytest.raises(UnsupportedModelError, match="Qwen3ForCausalLM"):
        policy.check_head()


def test_a_constant_factor_without_a_key_is_measured(tiny: LoadedModel) -> None:
    model = changed(copy.deepcopy(tiny.model), lambda logits: 0.37 * logits)
    shape = measure_logits(model, model.base_model)
    assert shape.scale == pytest.approx(0.37, rel=1e-6)


def test_the_head_is_left_as_it_was(tiny: LoadedModel) -> None:
    policy = Policy(copy.deepcopy(tiny.model))
    before = copy.deepcopy(policy.state_dict())
    policy.check()
    assert all(torch.equal(before[name], value) for name, value in policy.state_dict().items())
    assert not policy.model.get_output_embeddings()._forward_pre_hooks


@pytest.mark.parametrize("model_type", ["bert-generation", "xlnet", "cpmant"])
def test_what_looks_ahead_is_refused(model_type: str) -> None:
    with pytest.raises(UnsupportedModelError, match="when padding follows"):
        Policy(tiny_model(model_type)).check()


def test_a_part_of_a_larger_model_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="MllamaTextConfig"):
        Policy(tiny_model("mllama")).check()


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        ("mixtral", {"output_router_logits": True}),
        ("gpt_oss", {"output_router_logits": True}),
        ("bamba", {"z_loss_coefficient": 0.1}),
    ],
)
def test_a_loss_of_the_models_own_is_refused(model_type: str, changes: dict[str, Any]) -> None:
    [(name, value)] = changes.items()
    off = "false" if value is True else "0"
    message = f"{name}={value}.*model.overrides.{name}={off} trains without"
    with pytest.raises(UnsupportedModelError, match=message):
        Policy(tiny_model(model_type, **changes)).check()


NOISY = [
    ("opt", {"dropout": 0.3}),
    ("gpt2", {"attn_pdrop": 0.3}),
    ("qwen3", {"attention_dropout": 0.3}),
    ("mixtral", {"router_jitter_noise": 0.3}),
    ("phimoe", {"router_jitter_noise": 0.3}),
]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(value: float) -> None:
    model = tiny_model("qwen3")
    model.model.layers[0].mlp.up_proj.weight.data[3, 2] = value
    with pytest.raises(UnsupportedModelError, match=r"not finite: some of its weights are NaN"):
        Policy(model).check()


@pytest.mark.parametrize(("model_type", "changes"), NOISY)
def test_noise_of_training_mode_is_off_in_the_update(
    model_type: str, changes: dict[str, float]
) -> None:
    calm = Policy(tiny_model(model_type, **changes))
    noisy = Policy(tiny_model(model_type, **changes), training_noise=True)
    before = torch.get_rng_state()
    assert not calm.has_dropout
    assert noisy.has_dropout, "found by comparing forwards, whatever its name"
    assert torch.equal(torch.get_rng_state(), before)

    with torch.no_grad():
        expected = policy_logps(calm.eval(), PAIRS)
        assert torch.equal(policy_logps(calm.train(), PAIRS), expected)
        assert not torch.equal(policy_logps(noisy.train(), PAIRS), expected)
        assert torch.equal(policy_logps(noisy.eval(), PAIRS), expected)
    assert calm.training
    assert noise_keys(noisy.model.config.to_dict())


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        ("opt", {"layerdrop": 0.01, "dropout": 0.0}),
        ("bart", {"decoder_layerdrop": 0.01, "dropout": 0.0, "is_decoder": True}),
    ],
)
def test_a_layer_that_is_rarely_skipped_is_noise(
    model_type: str, changes: dict[str, float]
) -> None:
    # a forward shows a rate of 1 % in 4 layers once in 25 trials
    draw = torch.rand
    assert Policy(tiny_model(model_type, **changes), training_noise=True).has_dropout
    assert torch.rand is draw
    loud = Policy(tiny_model(model_type, **changes))
    set_checkpointing(loud.model, True)
    with pytest.raises(UnsupportedModelError, match=r"checkpointing=true .*layerdrop"):
        loud.check()
    set_checkpointing(loud.model, False)
    loud.check()


def test_recomputing_activations_works_without_noise_and_is_refused_with_it() -> None:
    """A block that recomputes is in training mode: Qwen3 drops inside attention, OPT in the
    block."""
    quiet = Policy(tiny_model("qwen3", attention_dropout=0.3))
    set_checkpointing(quiet.model, True)
    quiet.check()
    quiet.train()
    assert quiet.model.model.layers[0].training
    recomputed = quiet(make_micro_batch(PAIRS, [0, 1], quiet.device))
    recomputed.logps_T.sum().backward()

    loud = Policy(tiny_model("opt", dropout=0.3))
    set_checkpointing(loud.model, True)
    with pytest.raises(UnsupportedModelError, match=r"checkpointing=true .* OPTForCausalLM"):
        loud.check()
    declared = Policy(tiny_model("opt", dropout=0.3), training_noise=True)
    declared.check()
