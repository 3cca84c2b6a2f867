"""pass@k, maj@k and the bootstrap against enumeration, exact fractions and hand-worked numbers."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from g2rl.formulas.estimators import (
    bootstrap_interval,
    maj_at_k,
    mean_at_k,
    paired_bootstrap,
    pass_at_k,
)

Case = tuple[list[int], list[bool], int]
"""Answer classes, verdicts, k."""


def pass_oracle(n: int, c: int, k: int) -> Fraction:
    return 1 - Fraction(math.comb(n - c, k), math.comb(n, k))


def maj_oracle(classes: list[int], correct: list[bool], k: int) -> float:
    """Every subset, every winner, in plain Python."""
    share = {
        a: Fraction(
            sum(r for b, r in zip(classes, correct, strict=True) if b == a), classes.count(a)
        )
        for a in classes
    }
    total = Fraction(0)
    for subset in itertools.combinations(classes, k):
        votes = Counter(a for a in subset if a >= 0)
        if votes:
            winners = [a for a, v in votes.items() if v == max(votes.values())]
            total += sum(share[a] for a in winners) / len(winners)
    return float(total / math.comb(len(classes), k))


@st.composite
def graded(draw: st.DrawFn, consistent: bool = False) -> Case:
    """Up to nine samples of up to four classes, and a k; unanswered samples are wrong."""
    classes = draw(st.lists(st.integers(-1, 3), min_size=1, max_size=9))
    if consistent:
        right = draw(st.sets(st.integers(0, 3)))
        correct = [a in right for a in classes]
    else:
        correct = [a >= 0 and draw(st.booleans()) for a in classes]
    return classes, correct, draw(st.integers(1, len(classes)))


# --- pass@k
# -----------------------------------------------------------------------------------------


def test_pass_at_k_by_hand() -> None:
    # n=4, c=2, k=2: of the six pairs one is wrong-wrong. n=6, c=3, k=2: 3 of 15 pairs are
    # wrong-wrong.
    np.testing.assert_allclose(pass_at_k([4, 6], [2, 3], 2), [5 / 6, 0.8], rtol=1e-15)


def test_pass_at_k_every_small_case() -> None:
    for n, k in itertools.combinations_with_replacement(range(1, 13), 2):
        n, k = max(n, k), min(n, k)
        want = [float(pass_oracle(n, c, k)) for c in range(n + 1)]
        np.testing.assert_allclose(pass_at_k(n, np.arange(n + 1), k), want, rtol=1e-14, atol=0)


@pytest.mark.parametrize("k", [1, 7, 16, 1000, 5000, 9999, 10_000])
def test_pass_at_k_at_ten_thousand_samples(k: int) -> None:
    c = [0, 1, 2, 10, 500, 5000, 9000, 9999, 10_000]
    want = [float(pass_oracle(10_000, int(x), k)) for x in c]
    got = pass_at_k(10_000, c, k)
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=0)
    assert np.isfinite(got).all()
    assert not np.signbit(got).any()


def test_pass_at_k_keeps_the_digits_of_small_values() -> None:
    assert pass_at_k(10_000, 1, 1) == pytest.approx(1e-4, rel=1e-15, abs=0)


def test_pass_at_k_is_exactly_one_when_a_miss_is_impossible() -> None:
    assert pass_at_k(10_000, 9_000, 1_001) == 1.0
    assert pass_at_k(10_000, 9_000, 1_000) <= 1.0


@given(st.integers(1, 400), st.data())
def test_pass_at_k_grows_with_k_and_starts_at_the_mean(n: int, data: st.DataObject) -> None:
    c = data.draw(st.integers(0, n))
    curve = np.array([float(pass_at_k(n, c, k)) for k in range(1, n + 1)])
    assert curve[0] == pytest.approx(c / n, rel=1e-13, abs=0)
    assert (np.diff(curve) >= -1e-15).all()
    assert curve[-1] == float(c > 0)


@given(st.permutations(range(8)))
def test_pass_at_k_treats_problems_separately(order: list[int]) -> None:
    n, c = np.array([8, 9, 8, 12, 9, 8, 20, 8]), np.array([0, 3, 8, 6, 1, 4, 19, 2])
    np.testing.assert_array_equal(pass_at_k(n, c, 4)[order], pass_at_k(n[order], c[order], 4))


def test_pass_at_k_broadcasts() -> None:
    assert pass_at_k(8, np.zeros((3, 5), dtype=int), 2).shape == (3, 5)
    assert pass_at_k([[8], [4]], [1, 2, 3], 2).shape == (2, 3)
    assert pass_at_k(8, 3, 2).shape == ()


@pytest.mark.parametrize("metric", [pass_at_k, mean_at_k])
@pytest.mark.parametrize(
    ("n", "c", "k", "words"),
    [
        ([9, 4], 2, 5, "k=5, n=4, c=2"),
        (4, 2, 0, "k=0, n=4, c=2"),
        ([8, 8], [3, 9], 2, "k=2, n=8, c=9"),
        (8, -1, 2, "k=2, n=8, c=-1"),
    ],
)
def test_counts_out_of_range_are_named(
    metric: Callable, n: Any, c: Any, k: int, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        metric(n, c, k)


@pytest.mark.parametrize("arguments", [(8, 2.0, 2), (8.0, 2, 2), (8, 2, 2.0), (8, [True], 2)])
def test_counts_must_be_integers(arguments: tuple) -> None:
    with pytest.raises(TypeError, match="must be integer"):
        pass_at_k(*arguments)


def test_mean_at_k_is_the_share_of_right_samples() -> None:
    np.testing.assert_array_equal(mean_at_k([8, 16], [2, 16], 8), [0.25, 1.0])


# --- maj@k
# ------------------------------------------------------------------------------------------


def test_maj_at_k_by_hand() -> None:
    # Answers A A B -, A right. Pairs: AA 1, AB a tie 1/2 (twice), A- 1 (twice), B- 0: 4 of 6.
    got = maj_at_k([0, 0, 1, -1], [1, 1, 0, 0], 2)
    assert got.value == pytest.approx(4 / 6, rel=1e-14)
    assert (got.standard_error, got.exact) == (0.0, True)
    # Triples: AAB 1, AA- 1 (one subset), AB- a tie 1/2 (twice): 3 of 4.
    assert maj_at_k([0, 0, 1, -1], [1, 1, 0, 0], 3).value == pytest.approx(3 / 4, rel=1e-14)


def test_maj_at_k_mixed_class_scores_its_share() -> None:
    # One class, one of two samples right: whatever is drawn wins, and is worth 1/2.
    assert maj_at_k([5, 5], [True, False], 2).value == 0.5


def test_maj_at_k_without_answers_is_zero() -> None:
    assert maj_at_k([-1, -1], [False, False], 1) == (0.0, 0.0, True)


def test_maj_at_k_all_right_is_exactly_one() -> None:
    assert maj_at_k([3] * 1000, [True] * 1000, 64).value == 1.0


@settings(max_examples=150, deadline=None)
@given(graded())
def test_maj_at_k_equals_enumeration(case: Case) -> None:
    got = maj_at_k(*case)
    assert got.exact
    assert got.value == pytest.approx(maj_oracle(*case), rel=1e-12, abs=0)


@pytest.mark.parametrize("k", range(1, 13))
@pytest.mark.parametrize(
    "sizes", [(2, 2, 2, 2, 2), (1, 2, 3, 3), (4, 4), (3, 2, 2, 1, 1, 1), (1,) * 9]
)
def test_maj_at_k_of_twelve_samples_equals_enumeration(sizes: tuple[int, ...], k: int) -> None:
    classes = [a for a, size in enumerate(sizes) for _ in range(size)]
    correct = [a % 2 == 0 or i % 3 == 0 for i, a in enumerate(classes)]
    silent = 12 - len(classes)
    case = ([-1] * silent + classes, [False] * silent + correct, k)
    assert maj_at_k(*case).value == pytest.approx(maj_oracle(*case), rel=1e-12, abs=0)


@settings(deadline=None)
@given(graded(), st.randoms(use_true_random=False))
def test_maj_at_k_ignores_sample_order_and_labels(case: Case, random: Random) -> None:
    classes, correct, k = case
    order = list(range(len(classes)))
    random.shuffle(order)
    labels = random.sample(range(100), 4)
    moved = [labels[classes[i]] if classes[i] >= 0 else -1 for i in order]
    for exact in (True, False):
        # Relative 1e-12: two classes of equal size and share may swap places, which moves one
        # rounding.
        assert maj_at_k(
            moved, [correct[i] for i in order], k, exact=exact, draws=50
        ).value == pytest.approx(
            maj_at_k(classes, correct, k, exact=exact, draws=50).value, rel=1e-12, abs=0
        )


@settings(deadline=None)
@given(graded())
def test_maj_at_one_is_pass_at_one(case: Case) -> None:
    classes, correct, _ = case
    want = float(pass_at_k(len(classes), sum(correct), 1))
    assert maj_at_k(classes, correct, 1).value == pytest.approx(want, rel=1e-12, abs=0)


@settings(deadline=None)
@given(graded(consistent=True))
def test_maj_at_k_never_beats_pass_at_k(case: Case) -> None:
    classes, correct, k = case
    assert (
        maj_at_k(classes, correct, k).value
        <= float(pass_at_k(len(classes), sum(correct), k)) + 1e-12
    )


@pytest.mark.parametrize(
    ("n", "right", "k"), [(10_000, 4_800, 99), (1_000, 480, 301), (301, 151, 301)]
)
def test_maj_at_k_of_many_samples(n: int, right: int, k: int) -> None:
    # Two classes, odd k, no ties: the right one wins iff it has more than k/2 votes (hypergeometric
    # tail).
    tail = sum(math.comb(right, v) * math.comb(n - right, k - v) for v in range(k // 2 + 1, k + 1))
    want = float(Fraction(tail, math.comb(n, k)))
    got = maj_at_k(
        [0] * right + [1] * (n - right), [True] * right + [False] * (n - right), k, exact=True
    )
    assert got.value == pytest.approx(want, rel=1e-10)


def test_monte_carlo_scores_silent_subsets_zero() -> None:
    got = maj_at_k([0, -1, -1, -1], [True, False, False, False], 1, exact=False)
    assert got.value == pytest.approx(0.25, abs=4 * got.standard_error)


def test_monte_carlo_agrees_within_its_standard_error() -> None:
    classes = [0] * 30 + [1] * 25 + [2] * 20 + [-1] * 25
    correct = [a == 1 for a in classes]
    exact = maj_at_k(classes, correct, 15)
    errors = []
    for seed in range(40):
        got = maj_at_k(classes, correct, 15, exact=False, draws=2_000, seed=seed)
        assert not got.exact
        assert 0.0 < got.standard_error < 0.5 / math.sqrt(2_000) * 1.01
        errors.append((got.value - exact.value) / got.standard_error)
    # Forty standard normals: mean within 4/sqrt(40), standard deviation within 1 ± 4/sqrt(80).
    assert abs(np.mean(errors)) < 0.64
    assert 0.55 < np.std(errors) < 1.45


def test_monte_carlo_repeats_under_its_seed_and_takes_over_when_enumeration_is_dear() -> None:
    classes = np.arange(2_000) % 3
    first, again = (maj_at_k(classes, classes == 0, 1_000, draws=200, seed=3) for _ in range(2))
    assert not first.exact
    assert first == again
    assert first.value != maj_at_k(classes, classes == 0, 1_000, draws=200, seed=4).value


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([0, 1], [True], 1), "verdicts"),
        (([0.0, 1.0], [True, False], 1), "integer classes"),
        (([[0, 1]], [[True, False]], 1), "verdicts"),
        (([0, 1], [True, False], 3), "k=3, n=2"),
        (([0, 1], [True, False], 0), "k=0"),
        (([0, -2], [True, False], 1), r"\[1\]"),
        (([0, -1], [True, True], 1), r"\[1\]"),
        (([0, 1], [True, False], 1, None, 1), "draws must be >= 2"),
    ],
)
def test_maj_at_k_refuses(arguments: tuple, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        maj_at_k(*arguments)


# --- bootstrap
# --------------------------------------------------------------------------------------


def test_bootstrap_two_problems_by_hand() -> None:
    # Means of two draws from {0, 1}: 0, 1/2, 1 with weights 1/4, 1/2, 1/4; the quartiles sit on the
    # edge of the middle value, so 40 % confidence is [1/2, 1/2] and 60 % is [0, 1].
    assert bootstrap_interval([0.0, 1.0], 0.4) == (0.5, 0.5, 0.5)
    assert bootstrap_interval([0.0, 1.0], 0.6) == (0.5, 0.0, 1.0)


def test_bootstrap_width_matches_the_normal_approximation() -> None:
    values = np.random.default_rng(0).random(400)
    got = bootstrap_interval(values)
    half = 1.96 * values.std() / math.sqrt(400)
    assert got.value == pytest.approx(values.mean())
    assert (got.high - got.low) / 2 == pytest.approx(half, rel=0.05)
    wider = bootstrap_interval(values, confidence=0.99)
    assert wider.low < got.low < got.value < got.high < wider.high


@given(st.permutations(range(7)))
@settings(deadline=None, max_examples=20)
def test_bootstrap_ignores_the_order_of_problems(order: list[int]) -> None:
    a = np.array([[0.1, 0.5, 0.5, 0.9, 0.0, 1.0, 0.3], [0.2, 0.5, 0.4, 0.8, 0.1, 1.0, 0.2]])
    b = a[::-1] ** 2
    for x, y in ((a[0], b[0]), (a, b)):
        moved = bootstrap_interval(x[..., order], resamples=200)
        assert moved == pytest.approx(bootstrap_interval(x, resamples=200), abs=1e-15)
        moved = paired_bootstrap(x[..., order], y[..., order], resamples=200)
        assert moved == pytest.approx(paired_bootstrap(x, y, resamples=200), abs=1e-15)


def test_bootstrap_degenerate_inputs_have_zero_width() -> None:
    assert bootstrap_interval([0.7]) == (0.7, 0.7, 0.7)
    assert bootstrap_interval([[0.25, 0.25], [0.25, 0.25]]) == (0.25, 0.25, 0.25)


def test_bootstrap_over_seeds_sees_what_problems_alone_do_not() -> None:
    # Problems are all alike, seeds differ: only the seed level has spread.
    values = np.array([[0.2] * 50, [0.4] * 50])
    assert bootstrap_interval(values.mean(axis=0))[1:] == pytest.approx((0.3, 0.3))
    assert bootstrap_interval(values)[1:] == pytest.approx((0.2, 0.4))
    # Seeds are all alike: rows share each draw of problems, so two equal rows change nothing.
    one = np.random.default_rng(1).random(30)
    both, single = bootstrap_interval([one, one]), bootstrap_interval(one)
    assert both.high - both.low == pytest.approx(single.high - single.low, rel=0.05)


def test_paired_bootstrap_removes_the_difficulty_of_problems() -> None:
    difficulty = np.random.default_rng(0).random(40)
    got = paired_bootstrap(difficulty + 0.05, difficulty)
    assert got == pytest.approx((0.05, 0.05, 0.05))
    assert paired_bootstrap(difficulty, difficulty + 0.05).value == pytest.approx(-0.05)


def test_paired_bootstrap_with_one_seed_is_the_bootstrap_of_differences() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.random(60), rng.random(60)
    paired, single = paired_bootstrap(a, b), bootstrap_interval(a - b)
    assert paired.value == pytest.approx(single.value)
    assert paired[1:] == pytest.approx(single[1:], abs=0.01)


def test_paired_bootstrap_resamples_the_seeds_of_each_arm_separately() -> None:
    # a's seeds are 0 and 1 on every problem, b's single seed 0.5: differences of means are -1/2, 0,
    # 1/2.
    got = paired_bootstrap([[0.0] * 9, [1.0] * 9], [0.5] * 9)
    assert got == (0.0, -0.5, 0.5)
    # Were seeds paired, a minus itself would be constant 0.
    same = paired_bootstrap([[0.0] * 9, [1.0] * 9], [[0.0] * 9, [1.0] * 9])
    assert (same.low, same.high) == (-1.0, 1.0)


def test_bootstrap_repeats_under_its_seed_and_is_split_invisibly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = np.random.default_rng(0).random(20)
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)
    whole = bootstrap_interval(values, resamples=1_000)
    monkeypatch.setattr("g2rl.formulas.estimators._CELLS", 20 * 300)
    split = bootstrap_interval(values, resamples=1_000)
    assert split == pytest.approx(whole, abs=0.02)
    assert split.low > 0.3  # rows left at their initial zero would drag the low end to 0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: bootstrap_interval([]), "not empty"),
        (lambda: bootstrap_interval(np.zeros((2, 2, 2))), r"\(2, 2, 2\)"),
        (lambda: bootstrap_interval([0.0, math.nan]), r"index \[0, 1\]|index \[1\]"),
        (lambda: bootstrap_interval([0.0], confidence=1.0), "confidence"),
        (lambda: bootstrap_interval([0.0], resamples=0), "resamples"),
        (lambda: paired_bootstrap([0.0, 1.0], [0.0]), "2 and 1"),
    ],
)
def test_bootstrap_refuses(call: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()


def test_importing_the_estimators_does_not_load_torch() -> None:
    code = "import sys, g2rl.formulas.estimators; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
