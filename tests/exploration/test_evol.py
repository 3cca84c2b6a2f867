"""EVOL-RL against its equations as plain loops, hand-worked groups and degenerate ones."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from g2rl.exploration.evol import EvolRL, evol_rewards
from g2rl.types import GroupBatch


def cosine(a: list[float], b: list[float]) -> float:
    norm = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
    return min(max(sum(x * y for x, y in zip(a, b, strict=True)) / norm, 0.0), 1.0) if norm else 0.0


def oracle(correct: list[bool], vectors: list[list[float]]) -> tuple[list[float], list[float]]:
    """Rewards and novelty of one group, from the equations."""
    group = range(len(correct))
    novelty = []
    for i in group:
        others = [j for j in group if j != i]
        peers = [j for j in others if correct[j] == correct[i]] or others
        sims = {j: cosine(vectors[i], vectors[j]) for j in others}
        mean = sum(sims[j] for j in peers) / len(peers) if peers else 0.0
        novelty.append(1 - (0.5 * mean + 0.5 * max(sims.values(), default=0.0)))
    rewards = []
    for i in group:
        members = [novelty[j] for j in group if correct[j] == correct[i]]
        low, high = min(members), max(members)
        if len(members) == 1:
            place = 1.0
        elif high - low <= 1e-6:
            place = 0.5
        else:
            place = (novelty[i] - low) / (high - low)
        rewards.append((0.5 if correct[i] else -1.0) + 0.5 * place)
    return rewards, novelty


def batch(correct_PG: Tensor, embeddings_PGE: Tensor | None) -> GroupBatch:
    return GroupBatch(
        rewards_PG=correct_PG.float() * 2 - 1,
        correct_PG=correct_PG,
        lengths_PG=torch.ones_like(correct_PG, dtype=torch.int64),
        entropy_PG=torch.zeros(correct_PG.shape),
        embeddings_PGE=embeddings_PGE,
    )


def test_matches_the_equations_on_random_groups() -> None:
    rng = torch.Generator().manual_seed(0)
    embeddings_PGE = torch.randn(40, 7, 5, generator=rng) * 10
    correct_PG = torch.rand(40, 7, generator=rng) < torch.linspace(0, 1, 40)[:, None]
    correct_PG[0], correct_PG[1] = False, True
    rewards_PG, novelty_PG = evol_rewards(correct_PG, embeddings_PGE)
    for p in range(40):
        want_rewards, want_novelty = oracle(correct_PG[p].tolist(), embeddings_PGE[p].tolist())
        assert rewards_PG[p].tolist() == pytest.approx(want_rewards, abs=1e-5)
        assert novelty_PG[p].tolist() == pytest.approx(want_novelty, abs=1e-6)


def test_hand_worked_group() -> None:
    # Correct: x, x, y. Wrong: -x, y. Cosines: x·x = 1, x·y = 0, y·y = 1, x·(-x) = -1 -> 0.
    # Correct x:  mean over (x, y) = ½, max 1 -> u = ¼, twice. Correct y: mean over (x, x) = 0, max
    # 1 (the wrong y) -> u = ½. So ū = 0, 0, 1 and rewards ½, ½, 1. Wrong -x: mean 0, max 0 -> u =
    # 1. Wrong y: mean 0, max 1 -> u = ½. ū = 1, 0: rewards -½, -1.
    embeddings_PGE = torch.tensor([[[1.0, 0], [3, 0], [0, 1], [-2, 0], [0, 5]]])
    correct_PG = torch.tensor([[True, True, True, False, False]])
    rewards_PG, novelty_PG = evol_rewards(correct_PG, embeddings_PGE)
    assert novelty_PG.tolist() == [[0.25, 0.25, 0.5, 1.0, 0.5]]
    assert rewards_PG.tolist() == [[0.5, 0.5, 1.0, -0.5, -1.0]]


def test_single_members_get_the_top_of_their_range() -> None:
    # u: the lone correct one takes the mean over all others: (1 + 0)/2 and max 1 -> ¼.
    embeddings_PGE = torch.tensor([[[1.0, 0], [1, 0], [0, 1]]])
    rewards_PG, novelty_PG = evol_rewards(torch.tensor([[True, False, False]]), embeddings_PGE)
    assert rewards_PG.tolist() == [[1.0, -1.0, -0.5]]
    assert novelty_PG.tolist() == [[0.25, 0.5, 1.0]]
    rewards_PG, _ = evol_rewards(torch.tensor([[False, True, True]]), embeddings_PGE)
    assert rewards_PG.tolist() == [[-0.5, 0.5, 1.0]]


def test_groups_of_one() -> None:
    rewards_PG, novelty_PG = evol_rewards(torch.tensor([[True], [False]]), torch.ones(2, 1, 3))
    assert rewards_PG.tolist() == [[1.0], [-0.5]]
    assert novelty_PG.tolist() == [[1.0], [1.0]]


def test_copies_of_one_text_share_the_middle_reward() -> None:
    # The rows differ by float32 rounding, as they do when a text is padded differently in two
    # batches.
    rows = torch.randn(1, 1, 64, generator=torch.Generator().manual_seed(1)).repeat(1, 6, 1)
    rows = rows * (1 + 1e-7 * torch.randn(1, 6, 64, generator=torch.Generator().manual_seed(2)))
    correct_PG = torch.tensor([[True] * 3 + [False] * 3])
    rewards_PG, novelty_PG = evol_rewards(correct_PG, rows)
    assert rewards_PG.tolist() == [[0.75] * 3 + [-0.75] * 3]
    assert novelty_PG.abs().max() < 1e-6


def test_a_small_but_real_spread_is_scaled_to_the_full_range() -> None:
    angles = torch.tensor([0.0, 0.01, 0.03])
    embeddings_PGE = torch.stack([angles.cos(), angles.sin()], dim=-1)[None]
    rewards_PG, _ = evol_rewards(torch.ones(1, 3, dtype=torch.bool), embeddings_PGE)
    assert rewards_PG.min() == 0.5
    assert rewards_PG.max() == 1.0
    assert rewards_PG[0, 2] == 1.0


@st.composite
def groups(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Small groups full of zero rows, copies, opposites and extreme scales."""
    p, g = draw(st.integers(1, 3)), draw(st.integers(1, 6))
    rows = [
        [0.0, 0.0],
        [1.0, 0.0],
        [-1.0, 0.0],
        [0.6, 0.8],
        [3e38, 3e38],
        [1e-45, 0.0],
        [1e-30, -1e-30],
    ]
    picks = draw(st.lists(st.sampled_from(rows), min_size=p * g, max_size=p * g))
    correct = draw(st.lists(st.booleans(), min_size=p * g, max_size=p * g))
    return torch.tensor(correct).reshape(p, g), torch.tensor(picks).reshape(p, g, 2)


@settings(deadline=None, max_examples=200)
@given(groups())
def test_degenerate_groups_stay_finite_and_in_range(case: tuple[Tensor, Tensor]) -> None:
    correct_PG, embeddings_PGE = case
    rewards_PG, novelty_PG = evol_rewards(correct_PG, embeddings_PGE)
    assert ((novelty_PG >= 0) & (novelty_PG <= 1)).all()
    assert ((rewards_PG[correct_PG] >= 0.5) & (rewards_PG[correct_PG] <= 1.0)).all()
    assert ((rewards_PG[~correct_PG] >= -1.0) & (rewards_PG[~correct_PG] <= -0.5)).all()
    for p in range(len(correct_PG)):
        want_rewards, want_novelty = oracle(correct_PG[p].tolist(), embeddings_PGE[p].tolist())
        assert rewards_PG[p].tolist() == pytest.approx(want_rewards, abs=1e-5)
        assert novelty_PG[p].tolist() == pytest.approx(want_novelty, abs=1e-6)


@settings(deadline=None, max_examples=30)
@given(st.permutations(range(6)), st.integers(0, 1000))
def test_permuting_responses_permutes_rewards(order: list[int], seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    embeddings_PGE = torch.randn(3, 6, 4, generator=rng)
    correct_PG = torch.rand(3, 6, generator=rng) < 0.5
    rewards_PG, novelty_PG = evol_rewards(correct_PG, embeddings_PGE)
    moved_rewards_PG, moved_novelty_PG = evol_rewards(
        correct_PG[:, order], embeddings_PGE[:, order]
    )
    torch.testing.assert_close(moved_rewards_PG, rewards_PG[:, order])
    torch.testing.assert_close(moved_novelty_PG, novelty_PG[:, order])


def test_signal_reports_novelty_and_zero_embeddings() -> None:
    correct_PG = torch.tensor([[True, True], [True, False]])
    embeddings_PGE = torch.tensor([[[1.0, 0], [0, 0]], [[0, 0], [0, 2]]])
    signal = EvolRL()
    shaped = signal(batch(correct_PG, embeddings_PGE))
    assert (signal.name, signal.needs, signal.state_dict()) == (
        "evol",
        frozenset({"embeddings"}),
        {},
    )
    signal.load_state_dict(signal.state_dict())
    # Zero rows resemble nothing: every u is 1; the first group's class is equal, the second's are
    # single.
    assert shaped.rewards_PG.tolist() == [[0.75, 0.75], [1.0, -0.5]]
    assert shaped.rewards_PG.dtype == torch.float32
    assert shaped.diagnostics["evol_novelty"].tolist() == [[1.0, 1.0], [1.0, 1.0]]
    assert shaped.metrics == {"evol_novelty_mean": 1.0, "evol_zero_embeddings": 2.0}
    assert shaped.entropy_coef == 0.0
    assert shaped.token_bonus is None


def test_refuses_what_it_cannot_score() -> None:
    correct_PG = torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="configure an encoder"):
        EvolRL()(batch(correct_PG, None))
    with pytest.raises(ValueError, match="beside"):
        evol_rewards(correct_PG, torch.zeros(3, 2, 4))
    with pytest.raises(ValueError, match="boolean"):
        evol_rewards(correct_PG.float(), torch.zeros(2, 3, 4))
    with pytest.raises(ValueError, match="G >= 1"):
        evol_rewards(correct_PG[:, :0], torch.zeros(2, 0, 4))
    broken_PGE = torch.zeros(2, 3, 4)
    broken_PGE[1, 2, 3] = torch.nan
    with pytest.raises(ValueError, match="prompt 1, response 2"):
        evol_rewards(correct_PG, broken_PGE)
    with pytest.raises(ValueError, match="keeps no state"):
        EvolRL().load_state_dict({"nu": 1})
