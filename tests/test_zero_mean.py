"""The zero-mean identity: E[sum_t phi_t] = 0 for on-policy samples, and only for those.

For a response drawn from the policy at the temperature of p_t, E[phi_t | prefix] = 0, hence
E[T * Phi] = 0 for every prompt, also when sampling stops at a length limit (a stopping time). Several
thousand samples of the tiny policy are projected on a few fixed directions; Hotelling's statistic
n m' C^-1 m of their mean m is then chi-square with as many degrees of freedom as directions.
"""

from __future__ import annotations

import math

import pytest
import torch

from g2rl.batching import Sequences
from g2rl.engines.transformers import TransformersEngine
from g2rl.models import LoadedModel, encode_prompt
from g2rl.policy import Policy
from g2rl.score import score
from g2rl.types import SamplingParams

TEXTS = ("use 3 7 2 make 13 :", "use 8 3 7 2 make 29 :", "use 10 4 6 make 16 :")
SAMPLES, DIRECTIONS, LIMIT = 700, 10, 24


def statistic(tiny: LoadedModel, params: SamplingParams, feature_temperature: float) -> tuple[float, float]:
    """z of the summed Hotelling statistics of all prompts, and the share of responses cut at the limit."""
    policy = Policy(tiny.model)
    engine = TransformersEngine(policy, tiny.tokenizer, tiny.stop_ids)
    prompts = [encode_prompt(tiny.tokenizer, text, chat=True) for text in TEXTS]
    drawn = engine.generate(prompts, [(11, p) for p in range(len(prompts))], SAMPLES, params)
    width = policy.model.get_output_embeddings().weight.shape[1]
    directions = torch.randn(width, DIRECTIONS, generator=torch.Generator().manual_seed(0)).double()
    total = 0.0
    for prompt, group in zip(prompts, drawn, strict=True):
        sequences = Sequences([prompt] * SAMPLES, [c.token_ids for c in group])
        scores = score(
            policy, sequences, temperature=params.temperature, token_budget=20_000,
            features=True, feature_temperature=feature_temperature,
        )  # fmt: skip
        sums = scores.features_ND.double() * sequences.lengths_N.double().unsqueeze(1) @ directions  # T * Phi
        mean = sums.mean(0)
        total += SAMPLES * float(mean @ torch.linalg.solve(sums.T.cov(), mean))
    cut = sum(c.finish == "length" for group in drawn for c in group) / (SAMPLES * len(prompts))
    freedom = DIRECTIONS * len(prompts)
    return (total - freedom) / math.sqrt(2 * freedom), cut


@pytest.mark.parametrize("tau", [1.0, 0.6])
def test_mean_feature_sum_vanishes_on_policy(tiny: LoadedModel, tau: float) -> None:
    z, cut = statistic(tiny, SamplingParams(temperature=tau, max_tokens=LIMIT), tau)
    assert abs(z) < 4
    assert 0 < cut < 1  # the sample holds truncated responses and stopped ones


@pytest.mark.parametrize(("sampled", "scored"), [(1.0, 0.6), (0.6, 1.0), (1.0, 0.9)])
def test_it_does_not_vanish_at_another_temperature(tiny: LoadedModel, sampled: float, scored: float) -> None:
    z, _ = statistic(tiny, SamplingParams(temperature=sampled, max_tokens=LIMIT), scored)
    assert z > 10


def test_it_does_not_vanish_under_truncated_sampling(tiny: LoadedModel) -> None:
    z, _ = statistic(tiny, SamplingParams(top_p=0.9, max_tokens=LIMIT), 1.0)
    assert z > 10
