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
"""Multiply-adds up to which `maj_at_k` enumerates subsets exactly, about 0.2 s on one core."""
_CELLS = 4_000_000  # elements of the largest array in the resampling loops


class MajorityEstimate(NamedTuple):
    """maj@k of one problem and how sure it is, e.g. ``MajorityEstimate(0.25, 0.0, True)``."""

    value: float
    """In [0, 1]."""
    standard_error: float
    """Monte Carlo standard error: 0.0 when `exact`, and when every draw agreed."""
    exact: bool
    """True when the expectation over subsets was computed, False when it was sampled."""


class Interval(NamedTuple):
    """The mean of the data and its bootstrap interval, e.g. ``Interval(0.5, 0.4, 0.6)``."""

    value: float
    low: float
    high: float


def _counts(n: ArrayLike, c: ArrayLike, k: int) -> tuple[Ints, Ints]:
    """n and c broadcast together as int64, after the checks that every "@k" metric shares.

    Raises:
        TypeError: n, c or k is not integer.
        ValueError: not 1 <= k <= n, or not 0 <= c <= n.
    """
    for name, values in (("n", n), ("c", c), ("k", k)):
        if np.asarray(values).dtype.kind not in "iu":
            raise TypeError(f"{name} must be integer, got {np.asarray(values).dtype}")

    ns, cs = np.broadcast_arrays(np.asarray(n, dtype=np.int64), np.asarray(c, dtype=np.int64))

    # the first problem whose counts cannot be is named
    is_bad = (ns < k) | (k < 1) | (cs < 0) | (cs > ns)
    if is_bad.any():
        raise ValueError(
            f"need 1 <= k <= n and 0 <= c <= n, got k={k}, n={ns[is_bad][0]}, c={cs[is_bad][0]}"
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
        ValueError: k < 1, k > n, c < 0 or c > n, naming the values.
        TypeError: not integers.
    """
    ns, cs = _counts(n, c, k)

    # problems with equally many samples share one product
    probabilities = np.empty(cs.shape)
    for size in np.unique(ns):
        # log C(n-c, k) / C(n, k) for c = 0 .. n: all k samples are wrong
        log_miss = np.full(size + 1, -np.inf)
        log_miss[0] = 0.0

        # the factors are positive up to c = n - k, and no k wrong samples exist beyond
        log_miss[1 : size - k + 1] = np.cumsum(np.log1p(-k / np.arange(size, k, -1)))
        has_size = ns == size
        probabilities[has_size] = -np.expm1(log_miss[cs[has_size]])
    return np.abs(probabilities)  # c = 0 gives -0.0


def mean_at_k(n: ArrayLike, c: ArrayLike, k: int) -> Floats:
    """Expected accuracy of k samples, averaged ("mean@k", "avg@k"): c/n, whatever k.

    All n samples are used, which lowers the variance. Shapes and errors as `pass_at_k`.
    """
    ns, cs = _counts(n, c, k)
    return np.asarray(cs / ns, dtype=np.float64)


def _classes(answer_classes: ArrayLike, correct: ArrayLike, k: int) -> tuple[Ints, Floats, int]:
    """The classes of answers of one problem, sorted by size and then by share right.

    The order depends neither on that of the samples nor on the labels.

    Returns:
        Sizes (C,), shares of right samples (C,), and the number of samples without an answer.
    """
    labels_n, right_n = np.asarray(answer_classes), np.asarray(correct, dtype=bool)
    if labels_n.ndim != 1 or labels_n.shape != right_n.shape or labels_n.dtype.kind not in "iu":
        raise ValueError(
            f"need (n,) integer classes and (n,) verdicts, got {labels_n!r} and {right_n!r}"
        )
    _counts(labels_n.size, int(right_n.sum()), k)

    # a sample without an answer cannot be right
    has_answer_n = labels_n >= 0
    is_bad_n = (labels_n < -1) | (~has_answer_n & right_n)
    if is_bad_n.any():
        raise ValueError(
            f"a class is >= 0, or -1 for no answer and then wrong: {np.flatnonzero(is_bad_n)}"
        )

    # count members and right members of each class
    _, class_of_sample, sizes_C = np.unique(
        labels_n[has_answer_n], return_inverse=True, return_counts=True
    )
    right_C = np.bincount(class_of_sample, weights=right_n[has_answer_n], minlength=len(sizes_C))
    fractions_C = right_C / sizes_C

    # sorted, so that the classes with enough votes are those from some place on
    order = np.lexsort((fractions_C, sizes_C))
    unanswered = int((~has_answer_n).sum())
    return sizes_C[order].astype(np.int64), fractions_C[order], unanswered


def _binomial(size: int, p: float, upto: int) -> Floats:
    """Binomial(size, p) probabilities of 0 .. upto, zero beyond `size`; shape (upto + 1,)."""
    probabilities = np.zeros(upto + 1)
    for b in range(min(size, upto) + 1):
        # in logarithms, because binomial coefficients overflow
        log_choose = math.lgamma(size + 1) - math.lgamma(b + 1) - math.lgamma(size - b + 1)
        probabilities[b] = math.exp(log_choose + b * math.log(p) + (size - b) * math.log1p(-p))
    return probabilities


def _level(tied: list[tuple[Floats, float]], free: Floats, a: int, k: int) -> tuple[float, float]:
    """Weight of the subsets whose winners have exactly a votes, and of their accuracy.

    The state of the recursion over classes, for t classes with a votes among those seen so far (the
    others have fewer) and s samples drawn:

        state[0, t, s]    weight of all ways to draw that
        state[1, t, s]    the same, each times the summed fractions right of its t classes

    Args:
        tied: binomial weights (k+1,) and fraction right of every class that can reach a votes.
        free: (k+1,) weight of drawing s samples from everything else.
        a: votes of the winners.
        k: samples drawn.

    Returns:
        Total weight, and total weight times accuracy of the vote.
    """
    # each of the tied winners takes a of the k votes
    most_tied = min(k // a, len(tied))
    # each row ends in `a` spare zeros, so that one flat convolution serves all rows
    state = np.zeros((2, most_tied + 1, k + 1 + a))
    state[0, 0, : k + 1] = free

    for weights, fraction in tied:
        # either the class gets fewer than a votes
        next_state = np.convolve(state.ravel(), weights[:a])[: state.size].reshape(state.shape)

        # or it gets exactly a, and there is one winner more
        winning = state[:, :-1, : k + 1 - a] * weights[a]
        next_state[:, 1:, a : k + 1] += winning
        next_state[1, 1:, a : k + 1] += fraction * winning[0]

        # what spilled into the spare places drew more than k samples
        next_state[:, :, k + 1 :] = 0.0
        state = next_state

    # a tie is split evenly among its winners
    winner_counts = np.arange(1, most_tied + 1)
    accuracy = state[1, 1:, k] / winner_counts
    return float(state[0, 1:, k].sum()), float(accuracy.sum())


def _enumerated(sizes_C: Ints, fractions_C: Floats, unanswered: int, k: int) -> float:
    """maj@k by dynamic programming over classes, one pass per winning vote count a.

    A multivariate hypergeometric draw is a set of independent binomials of any success rate p,
    conditioned on their sum being k. With p near k/n every weight is a probability and every
    operation adds or multiplies non-negative numbers: nothing overflows and nothing cancels.
    Classes smaller than a, and samples without an answer, cannot win with a votes and merge into
    one binomial (Vandermonde's identity).
    """
    # near k / n, but never 0 or 1
    n = int(sizes_C.sum()) + unanswered
    p = (k + 0.5) / (n + 1)

    # classes of one size share their binomial weights
    weights_of_size = {size: _binomial(size, p, k) for size in set(sizes_C.tolist())}
    classes = []
    for size, fraction in zip(sizes_C.tolist(), fractions_C.tolist(), strict=True):
        classes.append((weights_of_size[size], fraction))

    # a subset without any answer scores 0
    total = float(_binomial(unanswered, p, k)[k] * (1 - p) ** (n - unanswered))
    score = 0.0

    # classes are sorted by size: those from `first` on can have a votes
    for a in range(1, min(k, int(sizes_C.max())) + 1):
        first = int(np.searchsorted(sizes_C, a))
        free = _binomial(unanswered + int(sizes_C[:first].sum()), p, k)
        weight, weighted_accuracy = _level(classes[first:], free, a, k)
        total += weight
        score += weighted_accuracy
    return score / total


def _sampled(
    sizes_C: Ints, fractions_C: Floats, unanswered: int, k: int, draws: int, seed: int
) -> MajorityEstimate:
    """maj@k from random subsets: the mean of their scores and its standard error."""
    rng = np.random.default_rng(seed)
    sizes = [*sizes_C, unanswered]

    # in blocks, so that votes_RC stays within _CELLS
    block = max(1, _CELLS // len(sizes_C))
    scores: list[Floats] = []
    for rows in [block] * (draws // block) + [draws % block]:
        votes = rng.multivariate_hypergeometric(sizes, k, rows, "marginals")
        votes_RC = votes[:, :-1]

        # a subset scores the mean share right of its winners, 0 without an answer
        most_R1 = votes_RC.max(axis=1, keepdims=True)
        wins_RC = (votes_RC == most_R1) & (most_R1 > 0)
        winner_count_R = np.maximum(wins_RC.sum(axis=1), 1)
        scores.append(wins_RC @ fractions_C / winner_count_R)

    # the spread of the scores says how exact their mean is
    scores_R = np.concatenate(scores)
    standard_error = float(scores_R.std(ddof=1) / math.sqrt(draws))
    return MajorityEstimate(float(scores_R.mean()), standard_error, False)


def maj_at_k(
    answer_classes: ArrayLike,
    correct: ArrayLike,
    k: int,
    exact: bool | None = None,
    draws: int = 20_000,
    seed: int = 0,
) -> MajorityEstimate:
    """Expected accuracy of the majority answer among k of one problem's n samples.

        maj@k = E[ mean of the fractions right of the most frequent classes in a k-subset ]

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
            classes of min(size, k) is at most `EXACT_COST`, which n = 10,000 always is for
            k <= 100.
        draws, seed: Monte Carlo subsets (>= 2) and their seed. 20,000 bound the standard error by
            0.0036.

    Returns:
        MajorityEstimate. k = 1 equals pass@1 = mean@1; k = n is the single vote over all samples.

    Raises:
        ValueError: k, shapes, classes or draws are not as described; a correct sample has no
            answer.
        TypeError: k is not an integer.
    """
    sizes_C, fractions_C, unanswered = _classes(answer_classes, correct, k)
    if draws < 2:
        raise ValueError(f"draws must be >= 2 to state a standard error, got {draws}")

    # where nothing is right, no vote is
    if not fractions_C.any():
        return MajorityEstimate(0.0, 0.0, True)

    # by default, sample only where enumeration would take too long
    is_cheap = k * k * int(np.minimum(sizes_C, k).sum()) <= EXACT_COST
    if exact or (exact is None and is_cheap):
        return MajorityEstimate(_enumerated(sizes_C, fractions_C, unanswered, k), 0.0, True)
    return _sampled(sizes_C, fractions_C, unanswered, k, draws, seed)


def _matrix(name: str, values: ArrayLike) -> Floats:
    """Values as (S, B) float64; a vector (B,) becomes one seed.

    Raises:
        ValueError: empty, not finite, or more than two axes; names the argument.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim not in (1, 2) or array.size == 0:
        raise ValueError(f"{name} must be (B,) or (S, B) and not empty, got shape {array.shape}")

    # one NaN would make the whole interval NaN
    is_finite = np.isfinite(array)
    if not is_finite.all():
        first_bad = np.argwhere(~is_finite)[0].tolist()
        raise ValueError(f"{name} is not finite at index {first_bad}")
    return np.atleast_2d(array)


def _resampled_mean(values_SB: Floats, problems_RB: Ints, rng: np.random.Generator) -> Floats:
    """Means over resampled problems and resampled seeds, (R,); one seed is always drawn again.

    Args:
        values_SB: a value of each seed and problem.
        problems_RB: the problems of each resample.
        rng: draws the seeds.
    """
    # every seed answers the same resampled problems
    means_RS = np.stack([row[problems_RB].mean(axis=1) for row in values_SB], axis=1)

    # then as many seeds as there are, with replacement
    seeds_RS = rng.integers(means_RS.shape[1], size=means_RS.shape)
    return np.take_along_axis(means_RS, seeds_RS, axis=1).mean(axis=1)


def _percentiles(
    arms: list[tuple[int, Floats]], confidence: float, resamples: int, seed: int
) -> Interval:
    """Bootstrap interval of the signed sum of the means of arms.

    Args:
        arms: sign and values (S, B) of each arm; all answer the same B problems, which are drawn
            once for all arms, while seeds are drawn for each arm alone.
        confidence: two-sided coverage.
        resamples, seed: number of draws and their seed.

    Raises:
        ValueError: confidence or resamples out of range.
    """
    if not 0 < confidence < 1 or resamples < 1:
        raise ValueError(f"need 0 < confidence < 1 <= resamples, got {confidence} and {resamples}")

    # problems in sorted order, so that the order in which they are given cannot matter
    order = np.lexsort(np.concatenate([values_SB for _, values_SB in arms]))

    # in blocks, so that picks_RB stays within _CELLS
    rng = np.random.default_rng(seed)
    problem_count = len(order)
    means_R = np.zeros(resamples)
    block = max(1, _CELLS // problem_count)
    for start in range(0, resamples, block):
        block_means_R = means_R[start : start + block]  # a view: what is added stays in means_R
        picks_RB = order[rng.integers(problem_count, size=(len(block_means_R), problem_count))]
        for sign, values_SB in arms:
            block_means_R += sign * _resampled_mean(values_SB, picks_RB, rng)

    # percentiles of the resampled means around the mean itself
    low, high = np.quantile(means_R, [(1 - confidence) / 2, (1 + confidence) / 2])
    value = sum(sign * float(values_SB.mean()) for sign, values_SB in arms)
    return Interval(value, float(low), float(high))


def bootstrap_interval(
    values_per_problem: ArrayLike, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Percentile bootstrap interval of a mean over problems, and over seeds if there are several.

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
        The mean and its interval, whose width is zero for a single problem (and seed) or equal
        values: the bootstrap cannot see what was not drawn.

    Raises:
        ValueError: empty, more than two axes, values that are not finite, confidence or resamples
            out of range.
    """
    values_SB = _matrix("values_per_problem", values_per_problem)
    return _percentiles([(1, values_SB)], confidence, resamples, seed)


def paired_bootstrap(
    a: ArrayLike, b: ArrayLike, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Interval of mean(a) - mean(b) over the same problems: each resample draws one set for both.

    Pairing removes the spread of problem difficulty, most of the variance on small suites.
    Training runs are not paired: seeds are resampled for a and for b, whose numbers may differ.

    Args:
        a, b: as in `bootstrap_interval`, with the same problems in the same order.
        confidence, resamples, seed: as in `bootstrap_interval`.

    Raises:
        ValueError: different numbers of problems, or anything that `bootstrap_interval` refuses.
    """
    a_SB, b_SB = _matrix("a", a), _matrix("b", b)

    # differences are taken problem by problem
    if a_SB.shape[1] != b_SB.shape[1]:
        raise ValueError(
            f"a and b must hold the same problems, got {a_SB.shape[1]} and {b_SB.shape[1]}"
        )
    return _percentiles([(1, a_SB), (-1, b_SB)], confidence, resamples, seed)
