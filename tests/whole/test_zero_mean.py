"""The zero-mean identity: E[sum_t phi_t] = 0 for on-policy samples, and only for those.

It is an identity of sums and their inner products. Of their cosines nothing follows, which the
samples at temperature 0.1 show.

For a response drawn from the policy at the temperature of p_t, E[phi_t | prefix] = 0, hence
E[T * Phi] = 0 for every prompt, also when sampling stops at a length limit (a stopping time).
Several hundred samples of the tiny policy are projected on a few fixed directions; Hotelling's
statistic n m' C^-1 m of their mean m is then chi-square with as many degrees of freedom as
directions.
"""

from __future__ import annotations

import math

import pandas as pd
import pytest
import torch

from g2rl.analysis.geometry.numbers import GROUP_METRICS, numbers, pair_frame
from g2rl.engines.rollouts import Rollouts, grouped
from g2rl.engines.transformers import TransformersEngine
from g2rl.policy.batching import Sequences
from g2rl.policy.loading import LoadedModel
from g2rl.policy.policy import Policy
from g2rl.policy.prompts import encode_prompt
from g2rl.policy.scoring import ScoreRequest, score
from g2rl.tasks.countdown import held_out_problems
from g2rl.types import SamplingParams

TEXTS = ("use 3 7 2 make 13 :", "use 8 3 7 2 make 29 :", "use 10 4 6 make 16 :")
SAMPLES, DIRECTIONS, LIMIT = 500, 10, 24
FREEDOM = DIRECTIONS * len(TEXTS)
SAMPLING = {
    "tau 1.0": SamplingParams(temperature=1.0, max_tokens=LIMIT),
    "tau 0.6": SamplingParams(temperature=0.6, max_tokens=LIMIT),
    "top-p 0.8": SamplingParams(temperature=1.0, top_p=0.8, max_tokens=LIMIT),
}


@pytest.fixture(scope="module")
def drawn(tiny: LoadedModel) -> dict[str, list[Sequences]]:
    """For each way of sampling, the responses to each prompt."""
    engine = TransformersEngine(Policy(tiny.model), tiny.tokenizer, tiny.stop_ids, max_rows=SAMPLES)
    prompts = [encode_prompt(tiny.tokenizer, text, chat=True) for text in TEXTS]
    keys = [(11, p) for p in range(len(prompts))]
    return {
        name: [
            Sequences([prompt] * SAMPLES, [c.token_ids for c in group])
            for prompt, group in zip(
                prompts, engine.generate(prompts, keys, SAMPLES, params), strict=True
            )
        ]
        for name, params in SAMPLING.items()
    }


def z_value(tiny: LoadedModel, groups: list[Sequences], feature_temperature: float) -> float:
    """Standardised sum over prompts of n m' C^-1 m, m and C mean and covariance of the projected T
    * Phi of n responses."""
    policy, total = Policy(tiny.model), 0.0
    width = tiny.model.get_output_embeddings().weight.shape[1]
    directions_DK = torch.randn(
        width, DIRECTIONS, generator=torch.Generator().manual_seed(0)
    ).double()
    for sequences in groups:
        # many responses are the same one, whose feature is computed once
        places: dict[tuple[int, ...], int] = {}
        for response in sequences.responses:
            places.setdefault(tuple(response), len(places))
        distinct = Sequences(sequences.prompts[: len(places)], [list(one) for one in places])
        scores = score(
            policy,
            distinct,
            ScoreRequest(
                temperature=1.0,
                token_budget=2_000,
                features=True,
                feature_temperature=feature_temperature,
            ),
        )
        sums_MK = (
            scores.features_ND.double() * distinct.lengths_N.double().unsqueeze(1)
        ) @ directions_DK
        sums_NK = sums_MK[[places[tuple(response)] for response in sequences.responses]]
        mean_K = sums_NK.mean(0)
        total += len(sequences) * float(mean_K @ torch.linalg.solve(sums_NK.T.cov(), mean_K))
    return (total - FREEDOM) / math.sqrt(2 * FREEDOM)


@pytest.mark.parametrize(("sampling", "tau"), [("tau 1.0", 1.0), ("tau 0.6", 0.6)])
def test_mean_feature_sum_vanishes_on_policy(
    tiny: LoadedModel, drawn: dict[str, list[Sequences]], sampling: str, tau: float
) -> None:
    z = z_value(tiny, drawn[sampling], tau)
    print(f"z = {z:.2f} for {sampling} scored at {tau}")
    assert abs(z) < 4


@pytest.mark.parametrize(
    ("sampling", "tau", "samples"),
    [
        ("tau 1.0", 0.67, SAMPLES),
        ("tau 1.0", 1.5, SAMPLES // 2),
        ("tau 0.6", 1.0, SAMPLES // 2),
        ("top-p 0.8", 1.0, SAMPLES),
    ],
)
def test_it_does_not_vanish_at_another_temperature_or_under_truncation(
    tiny: LoadedModel, drawn: dict[str, list[Sequences]], sampling: str, tau: float, samples: int
) -> None:
    """Where the mean is far from zero, half of the responses show it."""
    groups = [
        Sequences(group.prompts[:samples], group.responses[:samples]) for group in drawn[sampling]
    ]
    z = z_value(tiny, groups, tau)
    print(f"z = {z:.2f} for {sampling} scored at {tau}")
    assert z > 6


def test_the_sample_holds_stopped_and_truncated_responses(
    drawn: dict[str, list[Sequences]],
) -> None:
    lengths = torch.cat([sequences.lengths_N for sequences in drawn["tau 1.0"]])
    assert 0.05 < float((lengths == LIMIT).float().mean()) < 0.95


def test_at_a_low_temperature_inner_products_vanish_and_cosines_do_not(tiny: LoadedModel) -> None:
    """25 responses to each of 40 problems, sampled and scored at 0.1; bootstrap over problems."""
    problems = held_out_problems(40)
    policy, temperature = Policy(tiny.model), 0.1
    prompts = [encode_prompt(tiny.tokenizer, problem.prompt, chat=True) for problem in problems]
    engine = TransformersEngine(policy, tiny.tokenizer, tiny.stop_ids, max_rows=SAMPLES)
    params = SamplingParams(temperature=temperature, max_tokens=40)
    keys = [(11, place) for place in range(len(prompts))]
    rollouts = Rollouts(problems, prompts, engine.generate(prompts, keys, 25, params))
    scores = score(policy, rollouts.sequences, ScoreRequest(temperature, 8_000, features=True))

    # pairs of each problem: inner products of sums, their size, and cosines
    pairs = pair_frame(
        grouped(scores.features_ND, rollouts.shape),
        torch.zeros(rollouts.shape, dtype=torch.bool),
        grouped(rollouts.sequences.lengths_N, rollouts.shape),
        rollouts.first_alike_PG,
    )
    groups = pd.DataFrame({name: [0.0] for name in GROUP_METRICS})
    found = numbers(pairs, groups)
    found = found[found["pair"] == "all"].set_index("metric")
    print(found[["value", "low", "high"]])

    # zero within its interval, and the interval is narrow
    ratio = found.loc["identity_ratio"]
    assert ratio["low"] < 0 < ratio["high"]
    assert ratio["high"] - ratio["low"] < 0.04

    # the mean cosine is far from zero: a third of the pairs are one response twice
    assert found.loc["mean_cosine", "low"] > 0.05
    assert 0.2 < found.loc["identical_ratio", "value"] < 0.5
    assert found.loc["mean_cosine_distinct", "high"] < 0
