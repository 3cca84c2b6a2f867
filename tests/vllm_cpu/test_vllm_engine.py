"""The real vLLM on a CPU against the policy: samples, log-probs, pushes, and faults planted in
them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from g2rl.engines import colocated
from g2rl.engines.drift import DriftError, probe_prompts
from g2rl.engines.transformers import TransformersEngine
from g2rl.engines.vllm import VllmEngine
from g2rl.policy.batching import Sequences
from g2rl.policy.lora import LoraSettings, add_lora
from g2rl.policy.policy import Policy
from g2rl.policy.scoring import ScoreRequest, require_scored, score
from g2rl.types import Completion, SamplingParams
from tests.vllm_cpu.tiny_engine import STOPS, make_engine, make_policy, scramble

pytestmark = pytest.mark.vllm
LENGTHS = (1, 5, 31, 32, 33, 70, 200)  # below, at and over blocks of 32
GROUP = 4
PARAMS = SamplingParams(max_tokens=24)


def prompts_of(lengths: tuple[int, ...]) -> list[list[int]]:
    rng = np.random.default_rng(1)
    return [rng.integers(3, 84, n).tolist() for n in lengths]


PROMPTS = prompts_of(LENGTHS)
KEYS = [(7, p) for p in range(len(PROMPTS))]


def tokens(groups: list[list[Completion]]) -> list[list[list[int]]]:
    return [[c.token_ids for c in group] for group in groups]


def flat(groups: list[list[Completion]]) -> Iterator[Completion]:
    return (c for group in groups for c in group)


def gaps(policy: Policy, groups: list[list[Completion]], temperature: float) -> Tensor:
    """|log-prob of vLLM - log-prob of the policy| of every token."""
    rows = [(prompt, c) for prompt, group in zip(PROMPTS, groups, strict=True) for c in group]
    sequences = Sequences([p for p, _ in rows], [c.token_ids for _, c in rows])
    scores = score(policy, sequences, ScoreRequest(temperature=temperature, token_budget=4000))
    found = torch.cat([torch.tensor(c.logps) for _, c in rows])
    return (found - torch.cat(require_scored(scores.logps))).abs()


@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.4])
def test_log_probs_are_those_of_the_policy_at_the_temperature(
    engine: VllmEngine, temperature: float
) -> None:
    found = engine.generate(PROMPTS, KEYS, GROUP, SamplingParams(temperature, max_tokens=24))
    assert gaps(engine.policy, found, temperature).max() < 1e-3
    assert gaps(engine.policy, found, temperature * 1.01).max() > 1e-3  # the bound can fail


@pytest.mark.parametrize(("top_p", "top_k"), [(0.6, 0), (1.0, 3), (0.8, 5)])
def test_log_probs_under_truncation_are_renormalised(
    engine: VllmEngine, top_p: float, top_k: int
) -> None:
    """By hand from a full forward: the k most probable, then the head of these that holds top_p."""
    params = SamplingParams(0.8, top_p=top_p, top_k=top_k, max_tokens=6)
    for prompt, group in zip(PROMPTS, engine.generate(PROMPTS, KEYS, GROUP, params), strict=True):
        for c in group:
            with torch.no_grad():
                logits = engine.policy.model(torch.tensor([[*prompt, *c.token_ids]])).logits[0]
            for t, token in enumerate(c.token_ids):
                probs = (logits[len(prompt) - 1 + t].double() / 0.8).softmax(0)
                order = probs.argsort(descending=True)[: top_k or None]
                mass = probs[order] / probs[order].sum()
                kept = order[(mass.cumsum(0) - mass) < top_p]
                assert token in kept
                expected = (probs[token] / probs[kept].sum()).log().item()
                assert c.logps is not None
                assert c.logps[t] == pytest.approx(expected, abs=1e-3)


def test_frequencies_of_the_first_token_pass_a_chi_square_test(engine: VllmEngine) -> None:
    """4,000 seeds of one prompt: sum (O - E)^2 / E over tokens with E >= 5, below mean + 4.5
    deviations."""
    [group] = engine.generate([PROMPTS[4]], [(3,)], 4000, SamplingParams(max_tokens=1))
    with torch.no_grad():
        probs = (
            engine.policy.model(torch.tensor([PROMPTS[4]]))
            .logits[0, -1]
            .double()
            .softmax(0)
            .numpy()
        )
    counts = np.bincount([c.token_ids[0] for c in group], minlength=len(probs))
    often = probs * 4000 >= 5
    assert often.sum() > 5
    statistic = ((counts - 4000 * probs)[often] ** 2 / (4000 * probs)[often]).sum()
    assert statistic < often.sum() + 4.5 * (2 * often.sum()) ** 0.5


def test_samples_depend_on_key_and_sample_alone(engine: VllmEngine) -> None:
    all_at_once = tokens(engine.generate(PROMPTS, KEYS, GROUP, PARAMS))
    assert tokens(engine.generate(PROMPTS, KEYS, GROUP, PARAMS)) == all_at_once
    order = [5, 0, 6, 2, 1, 4, 3]
    moved = engine.generate([PROMPTS[p] for p in order], [KEYS[p] for p in order], GROUP, PARAMS)
    assert tokens(moved) == [all_at_once[p] for p in order]
    assert tokens(engine.generate(PROMPTS[2:3], KEYS[2:3], GROUP, PARAMS)) == all_at_once[2:3]
    assert tokens(engine.generate(PROMPTS, KEYS, 2, PARAMS)) == [group[:2] for group in all_at_once]
    others = tokens(engine.generate(PROMPTS, [(8, p) for p in range(len(PROMPTS))], GROUP, PARAMS))
    assert all(a != b for a, b in zip(others, all_at_once, strict=True))
    assert len({tuple(ids) for ids in all_at_once[0]}) == GROUP


def test_a_response_ends_at_its_stop_token_or_at_the_limit(engine: VllmEngine) -> None:
    found = list(flat(engine.generate(PROMPTS, KEYS, 16, SamplingParams(1.5, max_tokens=40))))
    assert {c.finish for c in found} == {"stop", "length"}
    for c in found:
        stops = [t for t, v in enumerate(c.token_ids) if v in STOPS]
        assert stops == ([len(c.token_ids) - 1] if c.finish == "stop" else [])
        assert c.finish == "stop" or len(c.token_ids) == 40
        assert c.text == engine.tokenizer.decode(c.token_ids, skip_special_tokens=True)
        assert c.logps is not None
        assert len(c.logps) == len(c.token_ids)


def test_progress_counts_every_response_once(engine: VllmEngine) -> None:
    told: list[int] = []
    engine.generate(PROMPTS, KEYS, GROUP, PARAMS, on_progress=told.append)
    assert sum(told) == GROUP * len(PROMPTS)


def test_what_vllm_would_silently_change_is_refused(engine: VllmEngine) -> None:
    with pytest.raises(ValueError, match=r"512"):
        engine.generate([[3] * 500], [(0,)], 1, SamplingParams(max_tokens=13))
    with pytest.raises(ValueError, match=r"0\.01"):
        engine.generate([[3]], [(0,)], 1, SamplingParams(0.001))


def test_three_pushes_follow_the_trainer_and_nothing_else_does(engine: VllmEngine) -> None:
    """Greedy responses and log-probs are those of the weights pushed last, not of the weights in
    training."""
    trainer = TransformersEngine(engine.policy, engine.tokenizer, STOPS)
    greedy = SamplingParams(0.0, max_tokens=24)
    before = tokens(engine.generate(PROMPTS, KEYS, 1, greedy))
    for seed in (1, 2, 3):
        scramble(engine.policy, seed)
        assert tokens(engine.generate(PROMPTS, KEYS, 1, greedy)) == before  # a copy, not a view
        engine.push_weights()
        assert engine.drift is not None
        assert engine.drift.largest < 1e-3
        after = engine.generate(PROMPTS, KEYS, 1, greedy)
        assert tokens(after) == tokens(trainer.generate(PROMPTS, KEYS, 1, greedy)) != before
        assert all(c.logps is None for c in flat(after))
        assert gaps(engine.policy, engine.generate(PROMPTS, KEYS, GROUP, PARAMS), 1.0).max() < 1e-3
        before = tokens(after)


def nothing(*_: Any, **__: Any) -> bool:
    return True


@pytest.mark.parametrize(
    ("part", "concerns"),
    [("collective_rpc", "all"), ("reset_prefix_cache", "all"), ("apply_model", "tied")],
)
def test_a_planted_stale_push_is_caught(
    engine: VllmEngine, monkeypatch: pytest.MonkeyPatch, part: str, concerns: str
) -> None:
    """The reload, the prefix-cache reset or the packing of a tied head does nothing: the check
    stops."""
    scramble(engine.policy, 10)
    engine.push_weights()
    scramble(engine.policy, 11)
    tied = engine.policy.model.config.tie_word_embeddings
    with monkeypatch.context() as patch:
        patch.setattr(engine.llm, part, nothing)
        if concerns == "all" or tied:
            with pytest.raises(DriftError, match=r"float32 tolerance of 0\.001 .largest"):
                engine.push_weights()
        else:
            # the step is for tied heads: an untied one is packed by the reload
            engine.push_weights()
    engine.push_weights()


def test_a_weight_left_out_of_a_push_is_caught(
    engine: VllmEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    scramble(engine.policy, 12)
    all_weights = engine.policy.weights
    with monkeypatch.context() as patch:
        patch.setattr(
            engine.policy,
            "weights",
            lambda: (w for w in all_weights() if "layers.1.mlp.down" not in w[0]),
        )
        with pytest.raises(DriftError):
            engine.push_weights()
    engine.push_weights()


def test_drift_is_checked_at_the_first_push_and_every_kth(
    engine: VllmEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(engine, "check_drift", lambda: checked.append(engine.pushes))
        for every in (3, 0):
            patch.setattr(engine, "pushes", 0)
            patch.setattr(engine, "drift_every", every)
            for _ in range(8):
                engine.push_weights()
    assert checked == [1, 4, 7, 1]


def test_sleeping_between_samplings_changes_no_sample(
    engine: VllmEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM's CPU worker frees nothing when it sleeps; its scheduler does pause, and must be
    resumed."""
    expected = tokens(engine.generate(PROMPTS, KEYS, GROUP, PARAMS))
    with monkeypatch.context() as patch:
        patch.setattr(engine, "sleeps", True)
        for _ in range(2):
            assert tokens(engine.generate(PROMPTS, KEYS, GROUP, PARAMS)) == expected
            assert engine.llm.llm_engine.is_sleeping()
        engine.push_weights()
        assert not engine.llm.llm_engine.is_sleeping()
        assert tokens(engine.generate(PROMPTS, KEYS, GROUP, PARAMS)) == expected
    assert tokens(engine.generate(PROMPTS, KEYS, GROUP, PARAMS)) == expected


def random_states() -> tuple[Any, ...]:
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


def test_an_engine_has_no_weights_before_its_first_push_and_leaves_randomness_alone() -> None:
    policy = make_policy(tied=False)
    before = random_states()
    engine = make_engine(policy)
    try:
        assert random_states() == before
        with pytest.raises(RuntimeError, match="push_weights"):
            engine.generate([[3]], [(0,)], 1, PARAMS)
    finally:
        engine.close()
        engine.close()


@pytest.mark.parametrize("tied", [False, True])
def test_bfloat16_stays_within_its_tolerance_and_finds_wrong_weights(
    monkeypatch: pytest.MonkeyPatch, tied: bool
) -> None:
    policy = make_policy(tied, compute_dtype="bfloat16")
    engine = make_engine(policy)
    try:
        for seed in (1, 2, 3):
            scramble(policy, seed)
            engine.push_weights()
            assert engine.drift is not None
            assert 1e-3 < engine.drift.mean < 0.2
        scramble(policy, 4)
        monkeypatch.setattr(engine.llm, "collective_rpc", nothing)
        with pytest.raises(DriftError, match=r"bfloat16 tolerance of 0\.2"):
            engine.push_weights()
    finally:
        engine.close()


@pytest.mark.parametrize(("tied", "head"), [(False, True), (True, False), (True, True)])
def test_adapters_are_merged_into_what_is_pushed(tied: bool, head: bool) -> None:
    """A tied head with an adapter has a weight of its own."""
    policy = make_policy(tied)
    add_lora(policy.model, LoraSettings(r=4, include_head=head), "random")
    engine = make_engine(policy)
    trainer = TransformersEngine(policy, engine.tokenizer, STOPS)
    greedy = SamplingParams(0.0, max_tokens=24)
    try:
        engine.push_weights()
        before = tokens(engine.generate(PROMPTS, KEYS, 1, greedy))
        with torch.no_grad():
            for name, parameter in policy.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(0, 0.1)
        engine.push_weights()
        assert engine.drift is not None
        assert engine.drift.largest < 1e-3
        after = tokens(engine.generate(PROMPTS, KEYS, 1, greedy))
        assert after == tokens(trainer.generate(PROMPTS, KEYS, 1, greedy)) != before
    finally:
        engine.close()


def test_probe_prompts_fill_more_than_two_blocks(engine: VllmEngine) -> None:
    """Only whole blocks are cached, so that a shorter probe could not meet a stale cache."""
    assert engine.probe == probe_prompts(84, 72)
    assert engine.llm.llm_engine.vllm_config.cache_config.block_size == 32
    assert colocated.world_size() == 1
