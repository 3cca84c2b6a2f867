"""G2RL against Eq. 9-13 as plain Python loops, hand-worked groups and degenerate ones."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from g2rl.exploration.entropy import EntropyBonus
from g2rl.exploration.evol import EvolRL
from g2rl.exploration.g2rl import NEGATIVES, NORMALIZE, SCORES, GradientGuided, reward_weights
from g2rl.exploration.none import NoExploration
from g2rl.formulas.advantages import SCALES, UNIFORM_POLICIES, GroupAdvantage
from g2rl.formulas.tensors import minmax
from g2rl.types import GroupBatch

MIN_SPREAD = 1e-6
CHOICES = list(itertools.product(NEGATIVES, NORMALIZE, SCORES))


def batch(features_PGD: Tensor, rewards_PG: Tensor) -> GroupBatch:
    return GroupBatch(
        rewards_PG=rewards_PG,
        correct_PG=rewards_PG > 0,
        lengths_PG=torch.ones(rewards_PG.shape, dtype=torch.int64),
        entropy_PG=torch.zeros(rewards_PG.shape),
        features_PGD=features_PGD,
        embeddings_PGE=features_PGD,
    )


def random_batch(prompts: int, group: int, width: int, seed: int = 0) -> GroupBatch:
    rng = torch.Generator().manual_seed(seed)
    rewards = (torch.rand(prompts, group, generator=rng) < 0.5).float() * 2 - 1
    return batch(torch.randn(prompts, group, width, generator=rng), rewards)


def cosine(a: list[float], b: list[float]) -> float:
    norms = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / norms if norms else 0.0


def oracle_nu(features: list[list[float]], rewards: list[float], score: str) -> list[float]:
    """nu_i = max(1 - sum_{j != i} w_ij S_ij^2, 0), w_ij = exp(r_j) / sum_{k != i} exp(r_k)."""
    group = range(len(rewards))
    nu = []
    for i in group:
        others = [j for j in group if j != i]
        if score == "projection":
            nu.append(lstsq_residual(features[i], [features[j] for j in others]))
            continue
        total = sum(math.exp(rewards[k]) for k in others)
        explained = 0.0
        for j in others:
            s = cosine(features[i], features[j])
            if score == "signed":
                s = max(s, 0.0)
            explained += math.exp(rewards[j]) / total * s * s
        nu.append(max(1 - explained, 0.0))
    return nu


def lstsq_residual(vector: list[float], others: list[list[float]]) -> float:
    """1 - |P_span(others) v/|v||^2 by least squares."""
    norm = np.linalg.norm(vector)
    if not others or norm == 0:
        return 1.0
    unit = np.array(vector) / norm
    span = np.array(
        [o / np.linalg.norm(o) if np.linalg.norm(o) else np.zeros(len(o)) for o in np.array(others)]
    ).T
    solution, *_ = np.linalg.lstsq(span, unit, rcond=1e-5)
    return float(1 - np.sum((span @ solution) ** 2))


def oracle_nu_bar(nu: list[float], normalize: str) -> list[float]:
    """Min-max, mean rank over G - 1, or nu itself; a flat group is all 0 under the first two."""
    if normalize == "none":
        return nu
    low, high = min(nu), max(nu)
    if high - low <= MIN_SPREAD:
        return [0.0] * len(nu)
    if normalize == "minmax":
        return [(v - low) / (high - low) for v in nu]
    ordered = sorted(nu)
    return [np.mean([k for k, w in enumerate(ordered) if w == v]) / (len(nu) - 1) for v in nu]


def oracle_shaped(r: float, nu_bar: float, lam: float, negatives: str) -> float:
    """The table of method section 4, row by row, then the clip to [-3, 3]."""
    right = {"centered": 1 + lam * (2 * nu_bar - 1)}.get(negatives, 1 + lam * nu_bar)
    wrong = {
        "amplify": -(1 + lam * nu_bar),
        "equation": -1 + lam * nu_bar,
        "centered": -(1 + lam * (2 * nu_bar - 1)),
        "none": -1.0,
    }[negatives]
    return min(max(right if r > 0 else wrong, -3.0), 3.0)


@pytest.mark.parametrize(("negatives", "normalize", "score"), CHOICES)
@pytest.mark.parametrize("lam", [0.7, 5.0])
def test_shaped_rewards_follow_the_equations(
    lam: float, negatives: str, normalize: str, score: str
) -> None:
    """lam = 5 reaches the clip; 4 responses in 6 dimensions, so that projections are partial."""
    given_batch = random_batch(12, 4, 6)
    given_batch.rewards_PG[0], given_batch.rewards_PG[1] = 1.0, -1.0  # uniform groups
    shaped = GradientGuided(lam=lam, negatives=negatives, normalize=normalize, score=score)(
        given_batch
    )
    for p in range(12):
        features, rewards = (
            given_batch.features_PGD[p].double().tolist(),
            given_batch.rewards_PG[p].tolist(),
        )
        nu = oracle_nu(features, rewards, score)
        nu_bar = oracle_nu_bar(nu, normalize)
        expected = [
            oracle_shaped(r, v, lam, negatives) for r, v in zip(rewards, nu_bar, strict=True)
        ]
        tolerance = 1e-5
        assert shaped.diagnostics["nu"][p].tolist() == pytest.approx(nu, abs=tolerance)
        assert shaped.diagnostics["nu_bar"][p].tolist() == pytest.approx(nu_bar, abs=tolerance)
        assert shaped.rewards_PG[p].tolist() == pytest.approx(expected, abs=lam * 2 * tolerance)


def test_reward_weights_by_loops() -> None:
    """w_ij = exp(r_j) / sum_{k != i} exp(r_k), w_ii = 0."""
    rewards = [1.0, -1.0, -1.0, 1.0, 1.0]
    found = reward_weights(torch.tensor([rewards]))[0]
    for i in range(5):
        total = sum(math.exp(rewards[k]) for k in range(5) if k != i)
        expected = [0.0 if j == i else math.exp(rewards[j]) / total for j in range(5)]
        assert found[i].tolist() == pytest.approx(expected)


HAND_FEATURES = torch.tensor([[[2.0, 0.0], [0.0, 0.5], [3.0, 3.0]]])
HAND_REWARDS = torch.tensor([[1.0, 1.0, -1.0]])


@pytest.mark.parametrize(
    ("negatives", "expected"),
    [
        ("amplify", [2.0, 2.0, -1.0]),
        ("equation", [2.0, 2.0, -1.0]),
        ("centered", [2.0, 2.0, 0.0]),
        ("none", [2.0, 2.0, -1.0]),
    ],
)
def test_three_responses_by_hand(negatives: str, expected: list[float]) -> None:
    """S_12 = 0, S_13^2 = S_23^2 = 1/2.  w_13 = w_23 = e^-1 / (e + e^-1) = 0.119203.

    nu = (1 - 0.119203/2, the same, 1 - (1/2 + 1/2)/2) = (0.940399, 0.940399, 0.5), nu-bar = (1, 1,
    0).
    """
    shaped = GradientGuided(negatives=negatives)(batch(HAND_FEATURES, HAND_REWARDS))
    assert shaped.diagnostics["nu"][0].tolist() == pytest.approx(
        [0.940399, 0.940399, 0.5], abs=1e-5
    )
    assert shaped.diagnostics["nu_bar"][0].tolist() == pytest.approx([1, 1, 0], abs=1e-5)
    assert shaped.rewards_PG[0].tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("negatives", "expected"),
    [("amplify", -2.0), ("equation", 0.0), ("centered", -2.0), ("none", -1.0)],
)
def test_the_most_novel_wrong_answer_by_hand(negatives: str, expected: float) -> None:
    """The lone direction is the wrong one: nu-bar = (0, 0, 1), so r~_3 is the table's entry at
    nu-bar = 1."""
    features = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]])
    shaped = GradientGuided(negatives=negatives)(batch(features, HAND_REWARDS))
    assert shaped.diagnostics["nu_bar"][0].tolist() == pytest.approx([0, 0, 1])
    assert shaped.rewards_PG[0, 2].item() == pytest.approx(expected)


def test_clip_bounds_the_shaped_reward() -> None:
    shaped = GradientGuided(lam=10.0, clip=3.0)(batch(HAND_FEATURES, -HAND_REWARDS))
    assert shaped.rewards_PG[0].tolist() == pytest.approx(
        [-3.0, -3.0, 1.0]
    )  # -11 and 11 nu-bar, nu-bar_3 = 0
    shaped = GradientGuided(lam=1.0, clip=1.5)(batch(HAND_FEATURES, HAND_REWARDS))
    assert shaped.rewards_PG[0].tolist() == pytest.approx([1.5, 1.5, -1.0])


@pytest.mark.parametrize(("negatives", "normalize", "score"), CHOICES)
def test_lam_zero_leaves_rewards(negatives: str, normalize: str, score: str) -> None:
    given_batch = random_batch(5, 6, 3)
    shaped = GradientGuided(lam=0.0, negatives=negatives, normalize=normalize, score=score)(
        given_batch
    )
    assert torch.equal(shaped.rewards_PG, given_batch.rewards_PG)


def test_opposite_directions_are_explained_by_squared_but_not_by_signed() -> None:
    features = torch.tensor([[[1.0, 2.0], [-1.0, -2.0]]])
    rewards = torch.ones(1, 2)
    squared = GradientGuided(score="squared")(batch(features, rewards)).diagnostics["nu"]
    signed = GradientGuided(score="signed")(batch(features, rewards)).diagnostics["nu"]
    assert squared[0].tolist() == pytest.approx([0, 0], abs=1e-6)
    assert signed[0].tolist() == pytest.approx([1, 1], abs=1e-6)


@pytest.mark.parametrize("group", [3, 8, 64])
@pytest.mark.parametrize("rank", [1, 2, 6])
def test_projection_score_of_low_rank_groups(group: int, rank: int) -> None:
    """nu = lstsq residual: about 0 when the others span v, repeated directions and large groups
    included."""
    rng = torch.Generator().manual_seed(rank)
    features = torch.randn(group, rank, generator=rng) @ torch.randn(rank, 8, generator=rng)
    features[1] = -2 * features[0]
    rewards = torch.ones(1, group)
    found = GradientGuided(score="projection")(batch(features.unsqueeze(0), rewards)).diagnostics[
        "nu"
    ][0]
    expected = oracle_nu(features.double().tolist(), [1.0] * group, "projection")
    assert found.tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("third", [[1.0, 1.0, 0.0], [3.0, 1.0, 0.0]])
def test_a_group_in_which_the_others_span_every_response_is_flat_under_projection(
    third: list[float],
) -> None:
    """Three vectors in a plane: |P_span(others) v|^2 = 1 and nu = 0 for each; rewards stay as they
    are."""
    features = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], third]])
    shaped = GradientGuided(score="projection")(batch(features, torch.ones(1, 3)))
    torch.testing.assert_close(shaped.rewards_PG, torch.ones(1, 3))


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("normalize", NORMALIZE)
def test_group_of_one(score: str, normalize: str) -> None:
    """Nothing explains a lone response: nu = 1, but its group is flat: min-max and rank give nu-bar
    = 0."""
    lone = batch(torch.randn(4, 1, 3), torch.tensor([[1.0], [-1.0], [1.0], [-1.0]]))
    shaped = GradientGuided(score=score, normalize=normalize)(lone)
    torch.testing.assert_close(shaped.diagnostics["nu"], torch.ones(4, 1))
    bar = 1.0 if normalize == "none" else 0.0
    torch.testing.assert_close(shaped.rewards_PG, lone.rewards_PG * (1 + bar))
    assert "cosine" not in shaped.metrics
    assert GroupAdvantage()(shaped.rewards_PG, lone.rewards_PG)[0].abs().max() == 0


@pytest.mark.parametrize("reward", [1.0, -1.0])
def test_uniform_groups_are_shaped_by_equal_weights(reward: float) -> None:
    """Equal rewards: w_ij = 1/(G-1), so nu_i = 1 - mean_{j != i} S_ij^2."""
    given_batch = random_batch(6, 5, 3)
    given_batch.rewards_PG[:] = reward
    shaped = GradientGuided()(given_batch)
    for p in range(6):
        rows = given_batch.features_PGD[p].double().tolist()
        nu = [
            1 - np.mean([cosine(rows[i], rows[j]) ** 2 for j in range(5) if j != i])
            for i in range(5)
        ]
        assert shaped.diagnostics["nu"][p].tolist() == pytest.approx(nu, abs=1e-5)
    assert shaped.rewards_PG.abs().amax(1).tolist() == pytest.approx([2.0] * 6)


@pytest.mark.parametrize("negatives", NEGATIVES)
@pytest.mark.parametrize("normalize", ["minmax", "rank"])
def test_equal_directions_are_a_flat_group_and_change_nothing(
    normalize: str, negatives: str
) -> None:
    features = torch.randn(1, 1, 16).expand(1, 6, 16) * torch.tensor(
        [1, 3, 0.1, 7, 1e5, 1e-5]
    ).view(1, 6, 1)
    rewards = torch.tensor([[1.0, -1, -1, 1, -1, 1]])
    shaped = GradientGuided(normalize=normalize, negatives=negatives)(batch(features, rewards))
    assert torch.equal(shaped.rewards_PG, rewards)
    assert shaped.metrics["flat_groups"] == 1.0


@pytest.mark.parametrize("score", SCORES)
def test_zero_norm_feature_has_no_similarity_and_is_counted(score: str) -> None:
    """S = 0 against all others: nu = 1 for the zero row, the others as if it had no direction."""
    given_batch = random_batch(2, 4, 3)
    given_batch.features_PGD[0, 2] = 0
    shaped = GradientGuided(score=score)(given_batch)
    assert shaped.metrics["zero_features"] == pytest.approx(1 / 8)
    expected = oracle_nu(
        given_batch.features_PGD[0].double().tolist(), given_batch.rewards_PG[0].tolist(), score
    )
    assert expected[2] == 1.0
    assert shaped.diagnostics["nu"][0].tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("score", SCORES)
def test_permuting_prompts_or_responses_permutes_the_rewards(score: str) -> None:
    given_batch = random_batch(4, 6, 5, seed=3)
    signal = GradientGuided(score=score, negatives="centered")
    shaped = signal(given_batch).rewards_PG
    for order_P, order_G in (
        (torch.randperm(4), torch.arange(6)),
        (torch.arange(4), torch.randperm(6)),
    ):
        moved = batch(
            given_batch.features_PGD[order_P][:, order_G],
            given_batch.rewards_PG[order_P][:, order_G],
        )
        torch.testing.assert_close(
            signal(moved).rewards_PG, shaped[order_P][:, order_G], rtol=0, atol=1e-4
        )


def test_the_length_of_a_feature_does_not_matter() -> None:
    given_batch = random_batch(4, 6, 5, seed=4)
    shaped = GradientGuided()(given_batch)
    scales = 10.0 ** torch.linspace(-6, 6, 24).view(4, 6, 1)
    rescaled = GradientGuided()(batch(given_batch.features_PGD * scales, given_batch.rewards_PG))
    torch.testing.assert_close(rescaled.rewards_PG, shaped.rewards_PG, rtol=0, atol=1e-5)


def test_cosine_metrics_by_pair_class() -> None:
    """Pairs of the hand-worked group: cosines 0 (correct-correct), 0.7071 twice (correct-wrong)."""
    metrics = GradientGuided()(
        batch(HAND_FEATURES * torch.tensor([-1.0, 1.0]), HAND_REWARDS)
    ).metrics
    assert metrics["cosine"] == pytest.approx(2 / 3 * math.sqrt(0.5))
    assert metrics["cosine_correct_correct"] == pytest.approx(0.0, abs=1e-6)
    assert metrics["cosine_correct_wrong"] == pytest.approx(math.sqrt(0.5))
    assert "cosine_wrong_wrong" not in metrics
    opposed = torch.tensor([[[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]]])
    metrics = GradientGuided()(batch(opposed, HAND_REWARDS)).metrics
    assert metrics["negative_pairs"] == pytest.approx(2 / 3)
    assert metrics["negative_pairs_correct_correct"] == 1.0
    assert metrics["negative_pairs_correct_wrong"] == 0.5


@pytest.mark.parametrize("negatives", NEGATIVES)
def test_on_zero_and_one_wrong_responses_are_worth_nothing_whatever_their_novelty(
    negatives: str,
) -> None:
    """r (1 + lam nu), and r (1 + lam (2 nu - 1)) if centred; nu by the weights of 0 and 1."""
    given_batch = random_batch(6, 5, 4)
    signal = GradientGuided(lam=5.0, clip=None, reward="01", negatives=negatives)
    shaped = signal(given_batch)
    for p in range(6):
        zero_one = [float(r > 0) for r in given_batch.rewards_PG[p].tolist()]
        nu = oracle_nu(given_batch.features_PGD[p].double().tolist(), zero_one, "squared")
        nu_bar = oracle_nu_bar(nu, "minmax")
        expected = []
        for r, value in zip(zero_one, nu_bar, strict=True):
            factor = 1 + 5 * (2 * value - 1) if negatives == "centered" else 1 + 5 * value
            expected.append(r * factor)
        assert shaped.rewards_PG[p].tolist() == pytest.approx(expected, abs=1e-4)
    assert shaped.rewards_PG.max() > 3, "nothing is clipped"


def test_the_spread_is_the_algorithms_unless_it_is_set() -> None:
    given_batch = random_batch(4, 5, 4)
    assert GradientGuided()(given_batch).advantage_scale is None
    shaped = GradientGuided(spread="none")(given_batch)
    found, _ = GroupAdvantage(scale="std", uniform_groups="drop")(
        shaped.rewards_PG, given_batch.rewards_PG, shaped.advantage_scale
    )
    centred = shaped.rewards_PG - shaped.rewards_PG.mean(-1, keepdim=True)
    is_mixed_P = given_batch.correct_PG.any(-1) & ~given_batch.correct_PG.all(-1)
    assert is_mixed_P.tolist() == [True, True, False, True]
    assert torch.equal(found, centred * is_mixed_P[:, None])


def test_a_clip_of_null_is_none() -> None:
    given_batch = random_batch(4, 5, 4)
    wide = GradientGuided(lam=5.0, clip=None)(given_batch).rewards_PG
    assert torch.equal(wide.clamp(-3, 3), GradientGuided(lam=5.0)(given_batch).rewards_PG)
    assert wide.abs().max() > 3


PALETTE = [
    [0.0, 0.0, 0.0],
    [1.0, 2.0, 3.0],
    [-1.0, -2.0, -3.0],
    [1.0, 2.0, 3.0 + 1e-6],
    [1e-45, 0.0, 0.0],
    [1e-30, -1e-30, 0.0],
    [1e-13, 1e-13, 0.0],
    [3e38, 3e38, -3e38],
    [-1e30, 1e30, 1.0],
    [0.0, 1.0, 0.0],
    [1e-12, 0.0, 0.0],
    [1e20, 1e-20, 0.0],
]
PROMPTS = 50
responses = st.tuples(st.sampled_from(PALETTE), st.sampled_from([-1.0, 1.0]))
batches = st.integers(1, 6).flatmap(
    lambda g: st.lists(responses, min_size=PROMPTS * g, max_size=PROMPTS * g)
)
SIGNALS = [GradientGuided(negatives=n, normalize=m, score=s) for n, m, s in CHOICES] + [
    NoExploration(),
    EntropyBonus(),
    EvolRL(),
]
ADVANTAGES = [
    GroupAdvantage(scale=s, uniform_groups=u)
    for s, u in itertools.product(SCALES, UNIFORM_POLICIES)
]


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(batches)
def test_no_degenerate_group_makes_a_signal_or_an_advantage_non_finite(
    drawn: list[tuple[list[float], float]],
) -> None:
    """8 x 50 groups of zero, huge, tiny and repeated features through every signal and
    advantage."""
    features, rewards = (torch.tensor(column) for column in zip(*drawn, strict=True))
    degenerate = batch(features.view(PROMPTS, -1, 3), rewards.view(PROMPTS, -1))
    for signal in SIGNALS:
        shaped = signal(degenerate)
        for values in (shaped.rewards_PG, *shaped.diagnostics.values()):
            assert values.shape == degenerate.rewards_PG.shape
            assert values.isfinite().all()
        assert shaped.rewards_PG.abs().max() <= 3
        for advantage in ADVANTAGES:
            assert advantage(shaped.rewards_PG, degenerate.rewards_PG)[0].isfinite().all()


def test_baselines_leave_rewards_alone() -> None:
    given_batch = random_batch(3, 4, 2)
    assert torch.equal(NoExploration()(given_batch).rewards_PG, given_batch.rewards_PG)
    shaped = EntropyBonus(0.02)(given_batch)
    assert torch.equal(shaped.rewards_PG, given_batch.rewards_PG)
    assert shaped.entropy_coef == 0.02
    assert NoExploration()(given_batch).entropy_coef == 0.0


def test_features_are_required() -> None:
    bare = random_batch(1, 2, 2)
    bare.features_PGD = None
    with pytest.raises(ValueError, match="gradient features"):
        GradientGuided()(bare)


@pytest.mark.parametrize(
    "settings_",
    [
        {"lam": -1.0},
        {"clip": 0.0},
        {"min_spread": -1.0},
        {"negatives": "x"},
        {"normalize": "x"},
        {"score": "x"},
        {"reward": "pm2"},
        {"reward": 1},
        {"spread": "mean"},
    ],
)
def test_settings_are_checked(settings_: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="exploration"):
        GradientGuided(**settings_)


def test_the_random_score_is_a_control_that_a_continued_run_repeats() -> None:
    """nu is uniform noise of the step: independent of directions, alike for one step, and shaped
    like any other nu."""
    one = random_batch(64, 16, 4, seed=0)
    control = GradientGuided(score="random", reward="01", clip=None, lam=3)
    shaped = control(one)
    nu = shaped.diagnostics["nu"]
    assert abs(nu.mean().item() - 0.5) < 0.05
    assert nu.min() >= 0
    assert nu.max() < 1
    expected = one.r01_PG * (1 + 3 * minmax(nu))
    torch.testing.assert_close(shaped.rewards_PG, expected)

    # other directions change nothing, another step does
    other_directions = random_batch(64, 16, 4, seed=1)
    other_directions = replace(other_directions, step=one.step)
    torch.testing.assert_close(control(other_directions).diagnostics["nu"], nu)
    later = control(replace(one, step=one.step + 1)).diagnostics["nu"]
    assert np.corrcoef(nu.flatten(), later.flatten())[0, 1] == pytest.approx(0, abs=0.15)
