"""Estimators of evaluation accuracy and their intervals: pass@k, maj@k, mean@k, bootstrap.

Everything is a function of graded samples: n per problem, c of them right. An "@k" metric is its
expectation over all subsets of k samples drawn *without* replacement (with replacement repeats
samples and is biased low), so it does not depend on sample order, and k may be anything up to n.

Axis letters local to this module: B problems, S seeds (independent training runs), R resamples,
C answer classes. Numpy only: importing this module must not load torch.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

EXACT_COST = 100_000_000
"""Multiply-adds up to which `maj_at_k` enumerates exactly, about 0.2 s on one core."""
_CELLS = 4_000_000  # elements of the largest array in the resampling loops


class MajorityEstimate(NamedTuple):
    """A value in [0, 1] and how sure it is, e.g. ``MajorityEstimate(0.25, 0.0, True)``."""

    value: float
    standard_error: float
    """Monte Carlo standard error; 0.0 when `exact`. 0.0 with `exact` False means every draw
    agreed."""
    exact: bool
    """True when the expectation over subsets was computed, not sampled."""


class Interval(NamedTuple):
    """The mean of the data and its bootstrap interval, e.g. ``Interval(0.5, 0.4, 0.6)``."""

    value: float
    low: float
    high: float


def _counts(n: ArrayLike, c: ArrayLike, k: int) -> tuple[Ints, Ints]:
    """n and c broadcast together as int64, after the checks that every "@k" metric shares."""
    for name, values in (("n", n), ("c", c), ("k", k)):
        if np.asarray(values).dtype.kind not in "iu":
            raise TypeError(f"{name} must be integer, got {np.asarray(values).dtype}")

    # counts that cannot be
    ns, cs = np.broadcast_arrays(np.asarray(n, dtype=np.int64), np.asarray(c, dtype=np.int64))
    bad = (ns < k) | (k < 1) | (cs < 0) | (cs > ns)
    if bad.any():
        raise ValueError(
            f"need 1 <= k <= n and 0 <= c <= n, got k={k}, n={ns[bad][0]}, c={cs[bad][0]}"
        )
    return ns, cs


def pass_at_k(n: ArrayLike, c: ArrayLike, k: int) -> Floats:
    """Probability that at least one of k samples is right, unbiased, per problem.

        pass@k = 1 - C(n-c, k) / C(n, k) = 1 - prod_{i=n-c+1}^{n} (1 - k/i)

    Chen et al. 2021 (arXiv 2107.03374), Eq. 1. The product runs over the c right samples; its
    logarithm is summed with log1p and returned through expm1, so small values keep their relative
    precision.

    Args:
        n, c: samples and right samples per problem; integers or arrays that broadcast together.
        k: samples drawn, 1 <= k <= every n.

    Returns:
        float64 array in [0, 1] with the broadcast shape of n and c (0-d for two integers). c = 0
        gives 0; n - c < k gives exactly 1; k = 1 gives c/n.

    Raises:
        ValueError: k < 1, k > n, c < 0 or c > n, naming the values. TypeError: not integers.
    """
    ns, cs = _counts(n, c, k)

    # problems with equally many samples share one product
    out = np.empty(cs.shape)
    for size in np.unique(ns):
        here = ns == size
        # log C(n-c, k)/C(n, k) for c = 0 .. n-k: every factor is positive there. Beyond, it is
        # -inf.
        log_miss = np.full(size + 1, -np.inf)
        log_miss[0] = 0.0
        log_miss[1 : size - k + 1] = np.cumsum(np.log1p(-k / np.arange(size, k, -1)))
        out[here] = -np.expm1(log_miss[cs[here]])
    return np.abs(out)  # c = 0 gives -0.0


def mean_at_k(n: ArrayLike, c: ArrayLike, k: int) -> Floats:
    """Expected accuracy of k samples, averaged ("mean@k", "avg@k"): c/n, whatever k.

    All n samples are used, which lowers the variance. Shapes and errors as `pass_at_k`.
    """
    ns, cs = _counts(n, c, k)
    return np.asarray(cs / ns, dtype=np.float64)


def _classes(answer_classes: ArrayLike, correct: ArrayLike, k: int) -> tuple[Ints, Floats, int]:
    """Sizes (C,) and fractions right (C,) of the classes, and the number of samples without an
    answer.

    Sorted by (size, fraction), so that neither sample order nor labels can matter.
    """
    # one class and one verdict a sample
    labels_n, right_n = np.asarray(answer_classes), np.asarray(correct, dtype=bool)
    if labels_n.ndim != 1 or labels_n.shape != right_n.shape or labels_n.dtype.kind not in "iu":
        raise ValueError(
            f"need (n,) integer classes and (n,) verdicts, got {labels_n!r} and {right_n!r}"
        )
    _counts(labels_n.size, int(right_n.sum()), k)

    # a sample without an answer does not vote, and cannot be right
    voted = labels_n >= 0
    bad = (labels_n < -1) | (~voted & right_n)
    if bad.any():
        raise ValueError(
            f"a class is >= 0, or -1 for no answer and then wrong: {np.flatnonzero(bad)}"
        )

    # size and share right of each class
    _, index, sizes_C = np.unique(labels_n[voted], return_inverse=True, return_counts=True)
    fractions_C = np.bincount(index, weights=right_n[voted], minlength=len(sizes_C)) / sizes_C
    order = np.lexsort((fractions_C, sizes_C))
    return sizes_C[order].astype(np.int64), fractions_C[order], int((~voted).sum())


def _binomial(size: int, p: float, upto: int) -> Floats:
    """Binomial(size, p) probabilities of 0 .. upto, zero beyond `size`; shape (upto + 1,)."""
    out = np.zeros(upto + 1)
    for b in range(min(size, upto) + 1):
        log_choose = math.lgamma(size + 1) - math.lgamma(b + 1) - math.lgamma(size - b + 1)
        out[b] = math.exp(log_choose + b * math.log(p) + (size - b) * math.log1p(-p))
    return out


def _level(tied: list[tuple[Floats, float]], free: Floats, a: int, k: int) -> tuple[float, float]:
    """Weight of "the winners have exactly a votes" and the same weighted by the vote's accuracy.

    `tied` lists (binomial weights (k+1,), fraction right) of every class that can reach a votes;
    `free` (k+1,) weighs drawing s samples from all else. state[0, t, s]: weight of t classes with a
    votes, the others seen so far with fewer, s samples drawn; state[1]: times the summed fractions
    of those t.
    """
    # at most so many classes can have a votes
    most = min(k // a, len(tied))
    # Each row carries `a` spare zeros, so that one flat convolution serves all rows without
    # spilling.
    state = np.zeros((2, most + 1, k + 1 + a))
    state[0, 0, : k + 1] = free

    # add one class after the other: with fewer than a votes, or with exactly a
    for weights, fraction in tied:
        below = np.convolve(state.ravel(), weights[:a])[: state.size].reshape(state.shape)
        win = state[:, :-1, : k + 1 - a] * weights[a]
        below[:, 1:, a : k + 1] += win
        below[1, 1:, a : k + 1] += fraction * win[0]
        below[:, :, k + 1 :] = 0.0
        state = below

    # a tie is split evenly
    ties = np.arange(1, most + 1)
    return float(state[0, 1:, k].sum()), float((state[1, 1:, k] / ties).sum())


def _enumerated(sizes_C: Ints, fractions_C: Floats, unanswered: int, k: int) -> float:
    """maj@k by dynamic programming over classes, one pass per winning vote count a.

    A multivariate hypergeometric draw is a set of independent binomials of any success rate p,
    conditioned on their sum being k. With p near k/n every weight is a probability and every
    operation adds or multiplies non-negative numbers: nothing overflows and nothing cancels.
    Classes smaller than a, and samples without an answer, cannot win with a votes and merge into
    one binomial (Vandermonde).
    """
    # a success rate for which k of n is the most likely outcome
    n = int(sizes_C.sum()) + unanswered
    p = (k + 0.5) / (n + 1)

    # binomial weights of each class
    table = {size: _binomial(size, p, k) for size in set(sizes_C.tolist())}
    classes = [(table[s], f) for s, f in zip(sizes_C.tolist(), fractions_C.tolist(), strict=True)]
    total, score = float(_binomial(unanswered, p, k)[k] * (1 - p) ** (n - unanswered)), 0.0

    # every winning vote count; smaller classes cannot win with it
    for a in range(1, min(k, int(sizes_C.max())) + 1):
        first = int(np.searchsorted(sizes_C, a))
        free = _binomial(unanswered + int(sizes_C[:first].sum()), p, k)
        weight, accuracy = _level(classes[first:], free, a, k)
        total, score = total + weight, score + accuracy
    return score / total


def _sampled(
    sizes_C: Ints, fractions_C: Floats, unanswered: int, k: int, draws: int, seed: int
) -> MajorityEstimate:
    """maj@k from random subsets: mean and its standard error."""
    # as many subsets at a time as memory allows
    rng = np.random.default_rng(seed)
    step = max(1, _CELLS // len(sizes_C))
    scores: list[Floats] = []
    for rows in [step] * (draws // step) + [draws % step]:
        votes_RC = rng.multivariate_hypergeometric([*sizes_C, unanswered], k, rows, "marginals")[
            :, :-1
        ]

        # winners of each subset, and how many of them are right
        most_R1 = votes_RC.max(axis=1, keepdims=True)
        wins_RC = (votes_RC == most_R1) & (most_R1 > 0)
        scores.append(wins_RC @ fractions_C / np.maximum(wins_RC.sum(axis=1), 1))
    scores_R = np.concatenate(scores)
    return MajorityEstimate(
        float(scores_R.mean()), float(scores_R.std(ddof=1) / math.sqrt(draws)), False
    )


def maj_at_k(
    answer_classes: ArrayLike,
    correct: ArrayLike,
    k: int,
    exact: bool | None = None,
    draws: int = 20_000,
    seed: int = 0,
) -> MajorityEstimate:
    """Expected accuracy of the majority answer among k of one problem's n samples.

        maj@k = E over k-subsets of  mean over the most frequent classes of (fraction right of the
        class)

    Self-consistency voting, Wang et al. 2022 (arXiv 2203.11171). A tie is split evenly: the
    expected value of a random tie-break. A class that mixes right and wrong samples (two answers
    judged equivalent, of which the verifier accepted one) scores its fraction right among all n
    samples. Samples without an answer occupy a place in the subset and never vote; a subset with no
    answer at all scores 0.

    Args:
        answer_classes: (n,) integer ids of equivalence classes; -1 for no answer. Labels carry no
            meaning.
        correct: (n,) verdicts, bool or 0/1. A sample without an answer must not be correct.
        k: samples drawn without replacement, 1 <= k <= n.
        exact: True enumerates whatever the cost, False samples; None enumerates when k² · sum over
            classes of min(size, k) is <= `EXACT_COST` (n = 10,000 always does for k <= 100).
        draws, seed: Monte Carlo subsets (>= 2) and their seed. 20,000 bound the standard error by
            0.0036.

    Returns:
        MajorityEstimate. k = 1 equals pass@1 = mean@1; k = n is the single vote over all samples.

    Raises:
        ValueError: k, shapes, classes or draws as not described; a correct sample without an
        answer.
    """
    # nothing is right: no vote can be
    sizes_C, fractions_C, unanswered = _classes(answer_classes, correct, k)
    if draws < 2:
        raise ValueError(f"draws must be >= 2 to state a standard error, got {draws}")
    if not fractions_C.any():
        return MajorityEstimate(0.0, 0.0, True)

    # enumerate where that is cheap
    cheap = k * k * int(np.minimum(sizes_C, k).sum()) <= EXACT_COST
    if exact or (exact is None and cheap):
        return MajorityEstimate(_enumerated(sizes_C, fractions_C, unanswered, k), 0.0, True)
    return _sampled(sizes_C, fractions_C, unanswered, k, draws, seed)


def _matrix(name: str, values: ArrayLike) -> Floats:
    """Values as (S, B) float64; a vector becomes one seed. Finite and non-empty, or ValueError."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim not in (1, 2) or array.size == 0:
        raise ValueError(f"{name} must be (B,) or (S, B) and not empty, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(
            f"{name} is not finite at index {np.argwhere(~np.isfinite(array))[0].tolist()}"
        )
    return np.atleast_2d(array)


def _resampled_mean(values_SB: Floats, problems_RB: Ints, rng: np.random.Generator) -> Floats:
    """Mean over resampled problems and resampled seeds (with one seed, always that one); shape
    (R,)."""
    # the mean of each seed over the resampled problems
    means_RS = np.stack([row[problems_RB].mean(axis=1) for row in values_SB], axis=1)

    # then over resampled seeds
    seeds_RS = rng.integers(means_RS.shape[1], size=means_RS.shape)
    return np.take_along_axis(means_RS, seeds_RS, axis=1).mean(axis=1)


def _percentiles(
    arms: list[tuple[int, Floats]], confidence: float, resamples: int, seed: int
) -> Interval:
    """Interval of the sum of sign * mean over arms (sign, (S, B)), one draw of problems for all
    arms."""
    if not 0 < confidence < 1 or resamples < 1:
        raise ValueError(f"need 0 < confidence < 1 <= resamples, got {confidence} and {resamples}")
    # Columns in sorted order: the interval is then exactly the same for any order of the problems.
    order = np.lexsort(np.concatenate([arm for _, arm in arms]))

    # resamples in blocks, as many as memory allows
    rng, problems = np.random.default_rng(seed), len(order)
    means_R = np.zeros(resamples)
    step = max(1, _CELLS // problems)
    for start in range(0, resamples, step):
        here = means_R[start : start + step]
        picks_RB = order[rng.integers(problems, size=(len(here), problems))]
        for sign, arm in arms:
            here += sign * _resampled_mean(arm, picks_RB, rng)

    # the middle of the resampled means
    low, high = np.quantile(means_R, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(sum(sign * float(arm.mean()) for sign, arm in arms), float(low), float(high))


def bootstrap_interval(
    values_per_problem: ArrayLike, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Percentile bootstrap interval of the mean over problems, and over seeds where there are
    several.

    Efron 1979. With values (S, B) both axes are resampled independently, since every seed answers
    the same problems (pigeonhole bootstrap, Owen 2007): the interval speaks of new problems *and*
    new training runs. With few seeds it is too narrow in the seed direction, by about
    sqrt((S-1)/S).

    Args:
        values_per_problem: (B,) one value per problem, e.g. c/n or pass@k; or (S, B), one row per
            seed.
        confidence: two-sided coverage, in (0, 1).
        resamples, seed: bootstrap draws and their seed; the order of the problems does not matter.

    Returns:
        Interval; width zero for one problem (and seed) or equal values: it cannot see what was not
        drawn.

    Raises:
        ValueError: empty, more than two axes, non-finite values, confidence or resamples out of
        range.
    """
    values_SB = _matrix("values_per_problem", values_per_problem)
    return _percentiles([(1, values_SB)], confidence, resamples, seed)


def paired_bootstrap(
    a: ArrayLike, b: ArrayLike, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Interval of mean(a) - mean(b) over the same problems: each resample draws one set for both.

    Pairing removes the spread of problem difficulty, most of the variance on small suites.
    Arguments as in `bootstrap_interval`; a and b list the same problems in the same order, may
    differ in the number of seeds, and have their seeds resampled separately (training runs are not
    paired).

    Raises:
        ValueError: different numbers of problems, or anything `bootstrap_interval` refuses.
    """
    # the same problems on both sides
    plus, minus = _matrix("a", a), _matrix("b", b)
    if plus.shape[1] != minus.shape[1]:
        raise ValueError(
            f"a and b must hold the same problems, got {plus.shape[1]} and {minus.shape[1]}"
        )
    return _percentiles([(1, plus), (-1, minus)], confidence, resamples, seed)
