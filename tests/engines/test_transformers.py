"""Inverse-CDF sampling against hand CDFs and brute force, and the engine against model.generate."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from g2rl.engines import transformers as engine_module
from g2rl.engines.drift import DriftError
from g2rl.engines.engine import uniforms
from g2rl.engines.next_token import next_tokens
from g2rl.engines.transformers import TransformersEngine
from g2rl.policy.anatomy import UnsupportedModelError
from g2rl.policy.batching import Sequences
from g2rl.policy.loading import LoadedModel
from g2rl.policy.policy import Policy
from g2rl.policy.prompts import encode_prompt
from g2rl.policy.scoring import ScoreRequest, score
from g2rl.types import Completion, SamplingParams
from tests.models.measures import STOPS, Words
from tests.models.zoo import tiny_model

PROBS = [0.1, 0.2, 0.3, 0.4]
ALMOST_ONE = float(np.nextafter(1.0, 0.0))


def draw(probs: list[float], us: list[float], **params: float) -> list[int]:
    """Tokens for a list of uniforms, each on its own row of log(probs)."""
    logits = torch.tensor(probs, dtype=torch.float64).log().float().expand(len(us), -1)
    return next_tokens(
        logits, torch.tensor(us, dtype=torch.float64), SamplingParams(**params)
    ).tolist()


def test_inverse_cdf_by_hand() -> None:
    """CDF 0.1, 0.3, 0.6, 1.0: the first v with cumsum(p)_v > u."""
    us = [0.0, 0.0999, 0.1001, 0.2999, 0.3001, 0.5999, 0.6001, ALMOST_ONE]
    assert draw(PROBS, us) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_temperature_reshapes_the_cdf_by_hand() -> None:
    """tau = 1/2 squares the odds: p proportional to 1, 4, 9, 16, CDF 1/30, 5/30, 14/30, 1."""
    us = [0.03, 0.04, 0.16, 0.17, 0.46, 0.47]
    assert draw(PROBS, us, temperature=0.5) == [0, 1, 1, 2, 2, 3]


def test_top_k_by_hand() -> None:
    """k = 2 keeps tokens 3 and 2 with odds 4 : 3, in order of probability: CDF 4/7, 1."""
    assert draw(PROBS, [0.0, 0.571, 0.572, ALMOST_ONE], top_k=2) == [3, 3, 2, 2]


def test_top_p_by_hand() -> None:
    """p = 0.65 keeps the smallest head reaching it, 0.4 + 0.3, renormalised to 4/7, 1."""
    assert draw(PROBS, [0.0, 0.571, 0.572, ALMOST_ONE], top_p=0.65) == [3, 3, 2, 2]
    assert draw(PROBS, [0.0, ALMOST_ONE], top_p=0.39) == [3, 3]  # never fewer than one token


def test_greedy_is_the_most_probable_token_whatever_the_uniform() -> None:
    assert draw([0.2, 0.5, 0.3], [0.0, 0.5, ALMOST_ONE], temperature=0.0) == [1, 1, 1]


@pytest.mark.parametrize("params", [{}, {"top_k": 3}, {"top_p": 0.999}])
@pytest.mark.parametrize(
    "probs", [[0.0, 0.3, 0.7, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
)
def test_tokens_without_mass_are_never_drawn(probs: list[float], params: dict[str, float]) -> None:
    """u = 0 and u almost 1 are where an off-by-one or a rounding would show."""
    tokens = draw(probs, [0.0, 1e-300, 0.5, ALMOST_ONE, 1.0], **params)
    assert all(probs[v] > 0 for v in tokens)


def test_almost_one_over_a_large_vocabulary_stays_inside() -> None:
    logits = torch.zeros(4, 50_000)
    tokens = next_tokens(
        logits, torch.full((4,), ALMOST_ONE, dtype=torch.float64), SamplingParams()
    )
    assert tokens.tolist() == [49_999] * 4


def kept(probs: np.ndarray, top_k: int, top_p: float) -> set[int]:
    """Brute force: the k most probable, then the shortest head of these holding top_p of their
    mass."""
    order = sorted(range(len(probs)), key=lambda v: -probs[v])
    order = order[:top_k] if top_k else order
    mass = sum(probs[v] for v in order)
    head: list[int] = []
    while sum(probs[v] for v in head) < top_p * mass:
        head.append(order[len(head)])
    return set(head)


@pytest.mark.parametrize(
    ("top_k", "top_p"), [(3, 1.0), (0, 0.7), (5, 0.8), (1, 1.0), (0, 0.05), (20, 0.99)]
)
def test_top_k_and_top_p_keep_the_brute_force_set(top_k: int, top_p: float) -> None:
    """On 20 random distributions of 9 tokens: a fine grid of u reaches all kept tokens, in their
    odds."""
    rng = np.random.default_rng(top_k)
    grid = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    for _ in range(20):
        logits = torch.from_numpy(rng.normal(size=9)).float()
        probs = (logits.double() / 0.8).softmax(0).numpy()
        tokens = next_tokens(logits.expand(4000, 9), grid, SamplingParams(0.8, top_p, top_k))
        expected = np.zeros(9)
        for v in kept(probs, top_k, top_p):
            expected[v] = probs[v]
        shares = np.bincount(tokens.numpy(), minlength=9) / 4000
        np.testing.assert_allclose(shares, expected / expected.sum(), atol=2 / 4000)


def test_frequencies_pass_a_chi_square_test() -> None:
    """30,000 keyed uniforms on 8 tokens: sum (O - E)^2 / E below the 99.9 % point of chi2(7),
    24.3."""
    probs = np.array([0.02, 0.05, 0.08, 0.1, 0.15, 0.2, 0.1, 0.3])
    us = uniforms((5, 6), 0, 30_000)
    counts = np.bincount(draw(probs.tolist(), us.tolist()), minlength=8)
    assert ((counts - 30_000 * probs) ** 2 / (30_000 * probs)).sum() < 24.3


def test_uniforms_are_a_function_of_key_and_sample() -> None:
    base = uniforms((1, 2), 3, 50)
    assert np.array_equal(base, uniforms((1, 2), 3, 50))
    assert np.array_equal(base[:20], uniforms((1, 2), 3, 20))  # a longer limit extends the stream
    for other in (uniforms((1, 2), 4, 50), uniforms((1, 3), 3, 50), uniforms((2, 2), 3, 50)):
        assert not np.array_equal(base, other)
    assert base.min() >= 0
    assert base.max() < 1


TEXTS = (
    "use 3 7 2 make 13 :",
    "use 8 3 7 2 make 29 :",
    "use 10 4 6 make 16 :",
    "use 5 5 make 10 :",
)
PARAMS = SamplingParams(max_tokens=40)
KEYS = [(7, p) for p in range(len(TEXTS))]
GROUP = 6


@pytest.fixture(scope="module")
def prompts(tiny: LoadedModel) -> list[list[int]]:
    made = [encode_prompt(tiny.tokenizer, text, chat=True) for text in TEXTS]
    assert len({len(p) for p in made}) > 1  # left padding is at work
    return made


def engine(tiny: LoadedModel, max_rows: int = 256) -> TransformersEngine:
    return TransformersEngine(Policy(tiny.model), tiny.tokenizer, tiny.stop_ids, max_rows)


@pytest.fixture(scope="module")
def sampled(tiny: LoadedModel, prompts: list[list[int]]) -> list[list[Completion]]:
    return engine(tiny).generate(prompts, KEYS, GROUP, PARAMS)


def test_greedy_equals_generate(tiny: LoadedModel, prompts: list[list[int]]) -> None:
    found = engine(tiny).generate(prompts, KEYS, 2, SamplingParams(temperature=0.0, max_tokens=30))
    for prompt, group in zip(prompts, found, strict=True):
        ids = tiny.model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            do_sample=False,
            max_new_tokens=30,
            eos_token_id=tiny.stop_ids,
            pad_token_id=tiny.pad_id,
        )
        assert [c.token_ids for c in group] == [ids[0, len(prompt) :].tolist()] * 2


def test_samples_by_hand_from_full_forwards(
    tiny: LoadedModel, prompts: list[list[int]], sampled: list[list[Completion]]
) -> None:
    """Token t is the inverse CDF of softmax(z) at the t-th uniform of (key, sample), without any
    cache."""
    for p, g in ((0, 0), (1, 3), (3, 5)):
        us, ids = uniforms(KEYS[p], g, PARAMS.max_tokens), list(prompts[p])
        for u in us:
            with torch.no_grad():
                probs = tiny.model(torch.tensor([ids])).logits[0, -1].double().softmax(0)
            ids.append(int((probs.cumsum(0) <= u).sum()))
            if ids[-1] in tiny.stop_ids:
                break
        assert sampled[p][g].token_ids == ids[len(prompts[p]) :]


@pytest.mark.parametrize("max_rows", [1, 4, 6, 13])
def test_samples_do_not_depend_on_the_rows_of_a_batch(
    tiny: LoadedModel, prompts: list[list[int]], sampled: list[list[Completion]], max_rows: int
) -> None:
    assert engine(tiny, max_rows).generate(prompts, KEYS, GROUP, PARAMS) == sampled


def test_samples_do_not_depend_on_the_other_prompts_or_on_their_order(
    tiny: LoadedModel, prompts: list[list[int]], sampled: list[list[Completion]]
) -> None:
    order = [2, 0, 3, 1]
    moved = engine(tiny).generate(
        [prompts[p] for p in order], [KEYS[p] for p in order], GROUP, PARAMS
    )
    assert moved == [sampled[p] for p in order]
    assert engine(tiny).generate(prompts[1:2], KEYS[1:2], GROUP, PARAMS) == sampled[1:2]
    assert engine(tiny).generate(prompts, KEYS, 2, PARAMS) == [group[:2] for group in sampled]


def test_the_key_decides(
    tiny: LoadedModel, prompts: list[list[int]], sampled: list[list[Completion]]
) -> None:
    twins = engine(tiny).generate([prompts[0]] * 3, [KEYS[0], (9, 9), KEYS[0]], GROUP, PARAMS)
    assert twins[0] == twins[2] == sampled[0]
    assert twins[1] != twins[0]


@pytest.mark.parametrize("share", [0.0, 2.0])
def test_compaction_never_changes_a_result(
    tiny: LoadedModel,
    prompts: list[list[int]],
    sampled: list[list[Completion]],
    monkeypatch: pytest.MonkeyPatch,
    share: float,
) -> None:
    """Rows that leave at every step (0) or only at the end (2)."""
    monkeypatch.setattr(engine_module, "COMPACT_AT", share)
    assert engine(tiny).generate(prompts, KEYS, GROUP, PARAMS) == sampled


def test_a_prompt_of_one_token_beside_longer_ones(
    tiny: LoadedModel, prompts: list[list[int]]
) -> None:
    """Its prefill is nothing but padding."""
    lone = engine(tiny).generate([[1]], [(3,)], 3, PARAMS)
    assert engine(tiny).generate([[1], *prompts], [(3,), *KEYS], 3, PARAMS)[0] == lone[0]


@pytest.mark.parametrize("limit", [1, 5, 40])
def test_a_response_ends_at_its_stop_token_or_at_the_limit(
    tiny: LoadedModel, prompts: list[list[int]], sampled: list[list[Completion]], limit: int
) -> None:
    """A lower limit cuts the same response short."""
    found = engine(tiny).generate(prompts, KEYS, GROUP, SamplingParams(max_tokens=limit))
    for c, longer in zip(flat(found), flat(sampled), strict=True):
        stops = [t for t, v in enumerate(c.token_ids) if v in tiny.stop_ids]
        assert stops == ([len(c.token_ids) - 1] if c.finish == "stop" else [])
        assert c.finish == "stop" or len(c.token_ids) == limit
        assert c.token_ids == longer.token_ids[:limit]
        assert c.text == tiny.tokenizer.decode(c.token_ids, skip_special_tokens=True)


def flat(groups: list[list[Completion]]) -> Iterator[Completion]:
    return (c for group in groups for c in group)


def test_progress_counts_every_response_once(tiny: LoadedModel, prompts: list[list[int]]) -> None:
    told: list[int] = []
    engine(tiny, max_rows=7).generate(prompts, KEYS, GROUP, PARAMS, on_progress=told.append)
    assert sum(told) == GROUP * len(prompts)


@pytest.mark.parametrize("tau", [1.0, 0.7])
def test_surprise_of_the_samples_equals_their_entropy(
    tiny: LoadedModel, prompts: list[list[int]], tau: float
) -> None:
    """E[sum_t (-log p(y_t) - H_t)] = 0 when samples come from p: |z| < 4 over 300 responses."""
    drawn = engine(tiny).generate(
        prompts[:2], KEYS[:2], 150, SamplingParams(temperature=tau, max_tokens=24)
    )
    rows = Sequences(
        [p for p in prompts[:2] for _ in range(150)], [c.token_ids for c in flat(drawn)]
    )
    scores = score(Policy(tiny.model), rows, ScoreRequest(temperature=tau, token_budget=2000))

    def z(values: Tensor) -> float:
        return float(values.mean() / values.std() * len(values) ** 0.5)

    gaps = torch.stack(
        [(-x - h).sum() for x, h in zip(scores.logps, scores.entropies, strict=True)]
    )
    assert abs(z(gaps)) < 4
    hotter = score(Policy(tiny.model), rows, ScoreRequest(temperature=2.0, token_budget=2000))
    gaps = torch.stack(
        [(-x - h).sum() for x, h in zip(hotter.logps, hotter.entropies, strict=True)]
    )
    assert abs(z(gaps)) > 10


def test_the_training_mode_is_restored(tiny: LoadedModel, prompts: list[list[int]]) -> None:
    for mode in (True, False):
        sampler = engine(tiny)
        sampler.policy.train(mode)
        sampler.generate(prompts[:1], KEYS[:1], 1, SamplingParams(max_tokens=2))
        assert sampler.policy.training == mode


def test_a_batch_needs_a_row(tiny: LoadedModel) -> None:
    with pytest.raises(ValueError, match="max_rows"):
        engine(tiny, 0)


@pytest.mark.parametrize(
    "bad", [{"temperature": -0.1}, {"top_p": 0.0}, {"top_p": 1.1}, {"top_k": -1}, {"max_tokens": 0}]
)
def test_sampling_params_are_checked(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        SamplingParams(**bad)


# --- what was sampled from, against what is scored


def of_type(model_type: str, **settings: Any) -> TransformersEngine:
    """An engine over a tiny model of that type, which samples whatever it likes."""
    return TransformersEngine(Policy(tiny_model(model_type)), Words(), STOPS, **settings)  # type: ignore[arg-type]


def test_every_sampling_is_compared_with_scoring(
    tiny: LoadedModel, prompts: list[list[int]], sampled: list[list[Completion]]
) -> None:
    sampler = engine(tiny)
    assert sampler.metrics() == {}
    assert sampler.generate(prompts, KEYS, GROUP, PARAMS) == sampled, "nothing else is drawn"
    assert sampler.drift is not None
    assert sampler.drift.largest < 1e-5
    assert sampler.drift.tokens > 40
    assert sampler.metrics() == {
        "drift": pytest.approx(sampler.drift.largest / 1e-3),
        "drift_largest": sampler.drift.largest,
        "drift_mean": sampler.drift.mean,
    }


@pytest.mark.parametrize(("every", "compared"), [(0, []), (1, [0, 1, 2, 3]), (3, [0, 3])])
def test_the_first_and_every_kth_sampling_are_compared(
    tiny: LoadedModel, prompts: list[list[int]], every: int, compared: list[int]
) -> None:
    sampler = TransformersEngine(
        Policy(tiny.model), tiny.tokenizer, tiny.stop_ids, drift_every=every
    )
    found: list[int] = []
    for number in range(4):
        sampler.generate(prompts[:1], KEYS[:1], 1, SamplingParams(max_tokens=3))
        found += [number] if sampler.metrics() else []
    assert found == compared


@pytest.mark.parametrize("params", [{"temperature": 0.0}, {"top_p": 0.6, "top_k": 5}])
def test_greedy_and_truncated_samples_are_compared_too(
    tiny: LoadedModel, prompts: list[list[int]], params: dict[str, float]
) -> None:
    sampler = engine(tiny)
    sampler.generate(prompts, KEYS, 2, SamplingParams(max_tokens=9, **params))  # type: ignore[arg-type]
    assert sampler.drift is not None
    assert sampler.drift.largest < 1e-5


def test_samples_of_another_policy_stop_the_run(
    tiny: LoadedModel, prompts: list[list[int]]
) -> None:
    """A model whose numbers change when others stand beside, once there are many rows."""
    model = copy.deepcopy(tiny.model)
    decoder = model.model
    forward = decoder.forward

    def crowded(*args: Any, **options: Any) -> Any:
        output = forward(*args, **options)
        if options["input_ids"].shape[0] > 8:
            output.last_hidden_state = 1.02 * output.last_hidden_state
        return output

    decoder.forward = crowded
    sampler = TransformersEngine(Policy(model), tiny.tokenizer, tiny.stop_ids)
    sampler.push_weights()  # a few rows show nothing
    with pytest.raises(DriftError, match=r"Qwen3ForCausalLM .*engine\.max_rows=1"):
        sampler.generate(prompts, KEYS, GROUP, PARAMS)
    patient = TransformersEngine(Policy(model), tiny.tokenizer, tiny.stop_ids, drift_tolerance=10.0)
    patient.generate(prompts, KEYS, GROUP, PARAMS)
    assert 0 < patient.metrics()["drift"] < 1


@pytest.mark.parametrize(
    ("model_type", "message"),
    [
        ("bart", "depend on padding"),  # positions are counted from the cache
        ("mamba", "cannot sample from MambaForCausalLM"),
        ("xlstm", "cannot sample from xLSTMForCausalLM"),
        ("openai-gpt", "engine=vllm decodes with kernels of its own"),
    ],
)
def test_what_cannot_be_decoded_is_refused_before_the_first_rollout(
    model_type: str, message: str
) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        of_type(model_type).push_weights()


BY_PLACE = {"attention_chunk_size": 512, "floor_scale": 40, "attn_scale": 0.3}
"""Llama 4 scales its queries by the place in a batch, padding included, in steps of 40 tokens."""


def test_lengths_from_which_a_model_computes_otherwise_are_tried() -> None:
    """No text of this sampling is that long beside a short one, but one of the next may be."""
    engine = TransformersEngine(Policy(tiny_model("llama4_text", **BY_PLACE)), Words(), STOPS)
    engine.push_weights()
    short = SamplingParams(max_tokens=8)
    engine.generate([[3], [5] * 32], [(0,), (1,)], 2, short)
    assert engine.drift is not None
    assert engine.drift.largest < 1e-4
    with pytest.raises(UnsupportedModelError, match=r"Llama4For.*pass 40 tokens \(floor_sc"):
        engine.generate([[3], [5] * 33], [(0,), (1,)], 2, short)


def test_a_model_that_computes_every_row_alone_passes_its_lengths_once() -> None:
    alone = TransformersEngine(
        Policy(tiny_model("llama4_text", **BY_PLACE)), Words(), STOPS, max_rows=1
    )
    window = TransformersEngine(Policy(tiny_model("mistral", sliding_window=40)), Words(), STOPS)
    for engine in (alone, window):
        engine.push_weights()
        for _ in range(2):
            engine.generate([[3], [5] * 36], [(0,), (1,)], 2, SamplingParams(max_tokens=8))
        assert engine.tried_lengths == {40}
        assert engine.drift is not None
        assert engine.drift.largest < 1e-4


def test_logits_are_scaled_and_capped_in_sampling_too() -> None:
    """Greedy tokens at a cap are those of the model; samples come from its probabilities."""
    for model_type, changes in (("gemma2", {"final_logit_softcapping": 0.5}), ("granite", {})):
        model = tiny_model(model_type, **changes)
        sampler = TransformersEngine(Policy(model), Words(), [])  # type: ignore[arg-type]
        [[completion]] = sampler.generate([[5, 6, 7]], [(0,)], 1, SamplingParams(max_tokens=6))
        us, ids = uniforms((0,), 0, 6), [5, 6, 7]
        for u in us:
            with torch.no_grad():
                probs = model(torch.tensor([ids])).logits[0, -1].double().softmax(0)
            ids.append(int((probs.cumsum(0) <= u).sum()))
        assert completion.token_ids == ids[3:]


def test_settings_of_the_comparison_are_checked(tiny: LoadedModel) -> None:
    for settings in ({"drift_every": -1}, {"drift_tolerance": 0.0}):
        with pytest.raises(ValueError, match=r"engine\.drift"):
            TransformersEngine(Policy(tiny.model), tiny.tokenizer, [1], **settings)  # type: ignore[arg-type]
