"""A prompt that is computed once for its responses yields the numbers of padded rows."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from g2rl.formulas.losses import PolicyLoss
from g2rl.policy import policy as policy_module
from g2rl.policy.anatomy import UnsupportedModelError
from g2rl.policy.batching import MicroBatch, Sequences, make_micro_batch
from g2rl.policy.loading import LoadedModel, set_checkpointing
from g2rl.policy.lora import LoraSettings, add_lora
from g2rl.policy.packing import pack
from g2rl.policy.policy import Policy
from g2rl.policy.prefix_attention import NAME
from g2rl.policy.prefix_sharing import KNOWN_TYPES
from g2rl.policy.scoring import ScoreRequest, Scores, score
from g2rl.training.micro_batch_update import UpdateBatch
from g2rl.training.optimizer import OptimizerSettings
from g2rl.training.updater import Updater
from tests.models.zoo import tiny_config, tiny_model

TAU = 0.7
CPU = torch.device("cpu")
PROMPTS = ([5, 6, 7, 8, 9, 10, 11, 12, 13, 14], [20, 21, 22], [30])
RESPONSES = {  # longer than the window of the tiny models, one token, none, and a lone prompt
    0: [[3, 4, 5, 6], [8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18], [7], [5, 5, 5, 5]],
    1: [[], [1, 2], [3]],
    2: [[9, 8, 7]],
}
GROUPED = [(PROMPTS[p], response) for p, group in RESPONSES.items() for response in group]
SEQUENCES = Sequences([pair[0] for pair in GROUPED], [pair[1] for pair in GROUPED])
MIXED = [3, 4, 0, 6, 2, 1, 7, 5]
"""All rows, so that neither groups nor lengths are in order."""
WHOLLY_FLOAT64 = {"gpt2": 1e-12, "gpt_neox": 1e-12, "opt": 1e-12, "phi": 1e-12}
"""Types that compute in float64 throughout; the norms of the others round to float32."""


def numbers(policy: Policy, batch: MicroBatch, hidden: bool) -> list[torch.Tensor]:
    """What a micro-batch yields, and the gradient of a loss that weighs every token otherwise."""
    policy.zero_grad(set_to_none=True)
    output = policy(batch, TAU, features=True, hidden=hidden)
    weights_T = torch.linspace(-1, 1, len(output.logps_T))
    (weights_T * output.logps_T + output.entropy_T.sin()).sum().backward()
    found = [output.logps_T.detach(), output.entropy_T.detach(), output.features_ND]
    if hidden:
        found.append(output.hidden_ND)
    return found + [p.grad for p in policy.parameters() if p.grad is not None]


def assert_same(found: list[torch.Tensor], expected: list[torch.Tensor], share: float) -> None:
    """Equal to a share of the largest number of each tensor."""
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        scale = float(theirs.abs().max())
        torch.testing.assert_close(ours, theirs, rtol=0, atol=share * max(scale, 1e-3))


def sharing(model: Any, **settings: Any) -> Policy:
    """A policy that must share."""
    policy = Policy(model, prefix_sharing="on", **settings)
    policy.check()
    assert policy.shares_prefixes
    return policy


@pytest.mark.parametrize("model_type", sorted(KNOWN_TYPES))
def test_packed_rows_equal_padded_ones(model_type: str) -> None:
    """Grouped-query attention, windows, learned and rotary positions, scaled and tied heads."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        tiny_config(model_type), attn_implementation="sdpa", dtype=torch.float64
    )
    policy = sharing(model).eval()
    share = WHOLLY_FLOAT64.get(model_type, 2e-6)

    expected = numbers(policy, make_micro_batch(SEQUENCES, MIXED, CPU), hidden=True)
    assert_same(numbers(policy, pack(SEQUENCES, MIXED, CPU, True), hidden=True), expected, share)
    shorter = numbers(policy, pack(SEQUENCES, MIXED, CPU), hidden=False)
    del expected[3]
    assert_same(shorter, expected, share)


def with_adapters(model: Any) -> None:
    add_lora(model, LoraSettings(r=3, include_head=True), "builtin:tiny")
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)


def with_checkpointing(model: Any) -> None:
    set_checkpointing(model, True)


@pytest.mark.parametrize("change", [with_adapters, with_checkpointing])
def test_adapters_and_recomputed_activations_are_shared_too(
    tiny: LoadedModel, change: Callable[[Any], None]
) -> None:
    model = copy.deepcopy(tiny.model)
    change(model)
    policy = sharing(model.double()).train()
    expected = numbers(policy, make_micro_batch(SEQUENCES, MIXED, CPU), hidden=False)
    assert_same(numbers(policy, pack(SEQUENCES, MIXED, CPU), hidden=False), expected, 2e-6)


def test_bfloat16_stays_as_near_as_rounding_lets_it(tiny: LoadedModel) -> None:
    policy = sharing(copy.deepcopy(tiny.model), compute_dtype="bfloat16").eval()
    packed = policy(pack(SEQUENCES, MIXED, CPU), TAU)
    padded = policy(make_micro_batch(SEQUENCES, MIXED, CPU), TAU)
    torch.testing.assert_close(packed.logps_T, padded.logps_T, rtol=0, atol=0.1)


# --- whole steps


def updated(tiny: LoadedModel, choice: str, budget: int) -> tuple[Scores, list[torch.Tensor]]:
    """Scores of all responses, and the weights after two mini-batches of one step."""
    policy = Policy(copy.deepcopy(tiny.model).double(), prefix_sharing=choice)
    policy.check()
    request = ScoreRequest(TAU, budget, features=True, hidden=True)
    scores = score(policy, SEQUENCES, request)

    # AdamW with a large eps is smooth in the gradient
    settings = OptimizerSettings(lr=0.5, eps=1.0, mini_batches=2, micro_batch_tokens=budget)
    updater = Updater(
        policy, PolicyLoss(), settings, temperature=TAU, max_tokens=16, total_updates=1, seed=0
    )
    batch = UpdateBatch(
        sequences=SEQUENCES,
        group_N=torch.tensor([PROMPTS.index(prompt) for prompt in SEQUENCES.prompts]),
        advantages_N=torch.linspace(-1, 1.5, len(SEQUENCES)),
        behaviour=scores,
        entropy_coef=0.05,
    )
    updater.step(batch, 1)
    return scores, [p.detach() for p in policy.parameters()]


@pytest.fixture(scope="module")
def padded_step(tiny: LoadedModel) -> tuple[Scores, list[torch.Tensor]]:
    return updated(tiny, "off", 1000)


@pytest.mark.parametrize("budget", [1, 24, 1000])  # groups in parts, whole groups, all at once
def test_a_step_is_the_same_for_every_micro_batch_size(
    tiny: LoadedModel, padded_step: tuple[Scores, list[torch.Tensor]], budget: int
) -> None:
    scores, weights = updated(tiny, "on", budget)
    expected, expected_weights = padded_step
    for name in ("features_ND", "hidden_ND"):
        assert_same([getattr(scores, name)], [getattr(expected, name)], 1e-5)
    for ours, theirs in zip(scores.logps, expected.logps, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert_same(weights, expected_weights, 1e-5)


# --- which models share


def test_auto_shares_for_known_architectures_alone(tiny: LoadedModel) -> None:
    known = Policy(copy.deepcopy(tiny.model), prefix_sharing="auto")
    assert not known.shares_prefixes, "nothing is shared before the check"
    known.check()
    assert known.shares_prefixes
    assert known.model.config._attn_implementation == NAME

    unknown = Policy(tiny_model("ministral"), prefix_sharing="auto")
    unknown.check()
    assert not unknown.shares_prefixes
    assert unknown.model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [
        ("llama4_text", "layers of chunked_attention"),
        ("qwen3_5_text", "layers of linear_attention"),
        ("gpt_oss", "needs model.attention=sdpa"),
        ("falcon", "its attention cannot be replaced"),
    ],
)
def test_on_refuses_what_would_not_be_exact(model_type: str, reason: str) -> None:
    policy = Policy(tiny_model(model_type), prefix_sharing="on")
    with pytest.raises(UnsupportedModelError, match=f"prefix_sharing=on.*{reason}"):
        policy.check()


def test_noise_in_the_update_is_not_shared() -> None:
    """Packed rows would draw it in another order."""
    noisy = Policy(tiny_model("phi", attention_dropout=0.3), training_noise=True)
    noisy.prefix_sharing = "on"
    with pytest.raises(UnsupportedModelError, match="dropout"):
        noisy.check()


def test_a_window_that_attention_is_not_told_of_is_found() -> None:
    """Its rows are too short to show in numbers."""
    model = tiny_model("gemma3_text", sliding_window=4096)
    model.model.layers[0].self_attn.sliding_window = None
    with pytest.raises(UnsupportedModelError, match="layer 0 has a window of 4096"):
        sharing(model)


def test_another_attention_shows_in_the_numbers(
    tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As that of a model which drops the layout on the way to its layers."""
    keywords = policy_module.layout_keywords

    def misplaced(batch: MicroBatch) -> dict[str, Any]:
        found = keywords(batch)
        if found:
            found["position_ids"] = found["position_ids"] + batch.layout.to_packed_L % 3
        return found

    monkeypatch.setattr(policy_module, "layout_keywords", misplaced)
    with pytest.raises(UnsupportedModelError, match="hidden states change by"):
        sharing(copy.deepcopy(tiny.model))


def test_an_unknown_choice_is_refused(tiny: LoadedModel) -> None:
    with pytest.raises(ValueError, match=r"model\.prefix_sharing must be one of"):
        Policy(tiny.model, prefix_sharing="sometimes")
