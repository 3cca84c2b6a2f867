"""What graded samples say of each problem: pass@k, maj@k, distinct answers, lengths and votes.

Training and g2rl-eval both call `measure_samples` and `interval_over_problems`, so that a metric
means the same in both.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from g2rl.formulas.estimators import (
    Interval,
    MajorityEstimate,
    bootstrap_interval,
    maj_at_k,
    mean_at_k,
    pass_at_k,
)
from g2rl.tasks.grading.grader import Grader
from g2rl.types import Verdict

CONFIDENCE = 0.95
"""Two-sided coverage of all intervals."""
FAILED = ("timeout", "killed", "error", "refused")
"""Routes of verdicts on which the grader failed; their answers are not compared with others."""
UNGRADED = ("timeout", "killed")
"""Routes of verdicts on which the grader ran into one of its limits."""


@dataclass(slots=True, frozen=True)
class GradedSamples:
    """The graded samples of one benchmark: B problems, each with its n samples in one order."""

    verdicts: Sequence[Sequence[Verdict]]
    lengths: Sequence[Sequence[int]]
    """Response tokens of each sample."""
    finishes: Sequence[Sequence[str]]
    """"stop" or "length" of each sample, as in `Completion.finish`."""


@dataclass(slots=True, frozen=True)
class Vote:
    """One class of equivalent answers to a problem, e.g. ``Vote("1/2", 5, 5)``."""

    answer: str
    """The shortest of them."""
    count: int
    """Samples with one of these answers."""
    correct: int
    """How many of these samples are right."""


@dataclass(slots=True)
class Estimates:
    """What graded samples say of each of B problems."""

    values: dict[str, np.ndarray]
    """Metric name ("pass@4", "maj@4", "distinct", "length", "truncated", and "reward" where rewards
    are graded) to its value on each problem, (B,)."""
    errors: dict[str, np.ndarray]
    """Monte Carlo standard errors of each "maj@k", (B,); zero where it was enumerated."""
    exact: dict[str, bool]
    """Whether each "maj@k" was enumerated on every problem."""
    votes: list[list[Vote]]
    """The answers to each problem, most frequent first; samples without an answer are left out."""
    right_shares: np.ndarray
    """Share c/n of right samples of each problem, (B,). "pass@1" is this share up to the rounding
    of the product that pass@k is computed with."""
    grading_shares: dict[str, np.ndarray] = field(default_factory=dict)
    """"unparsed" (no answer could be read) and "ungraded" (a limit of the grader was reached) to
    the share of such samples of each problem, (B,)."""


def measure_samples(samples: GradedSamples, ks: Sequence[int], grader: Grader) -> Estimates:
    """Compute everything that is reported of graded samples.

    Args:
        samples: of one benchmark.
        ks: the k of pass@k and maj@k, each at most the number of samples of a problem.
        grader: decides which answers are equivalent.
    """
    estimates = estimate_accuracies(samples.verdicts, ks, grader)

    # the responses themselves, whatever the verdicts
    lengths: list[float] = []
    truncated: list[float] = []
    for lengths_of_problem, finishes in zip(samples.lengths, samples.finishes, strict=True):
        lengths.append(float(np.mean(lengths_of_problem)))
        truncated.append(share_of(finish == "length" for finish in finishes))
    estimates.values["length"] = np.array(lengths)
    estimates.values["truncated"] = np.array(truncated)

    # the mean reward, where it says more than the accuracy
    if any(verdict.graded is not None for verdicts in samples.verdicts for verdict in verdicts):
        rewards: list[float] = []
        for verdicts in samples.verdicts:
            rewards.append(float(np.mean([verdict.reward for verdict in verdicts])))
        estimates.values["reward"] = np.array(rewards)

    # what the grader could not read, and where it gave up
    unparsed: list[float] = []
    ungraded: list[float] = []
    for verdicts in samples.verdicts:
        unparsed.append(share_of(verdict.answer is None for verdict in verdicts))
        ungraded.append(share_of(verdict.route in UNGRADED for verdict in verdicts))
    estimates.grading_shares["unparsed"] = np.array(unparsed)
    estimates.grading_shares["ungraded"] = np.array(ungraded)
    return estimates


def share_of(flags: Iterable[bool]) -> float:
    """Share of the flags that are true."""
    return float(np.mean(list(flags)))


def interval_over_problems(values: ArrayLike) -> Interval:
    """The mean of one value for each problem, and its bootstrap interval over problems."""
    return bootstrap_interval(values, CONFIDENCE)


def estimate_accuracies(
    verdicts: Sequence[Sequence[Verdict]], ks: Sequence[int], grader: Grader
) -> Estimates:
    """Compute pass@k, maj@k, the number of distinct right answers, and the votes.

    The result does not depend on the order of problems and samples.

    Args:
        verdicts: of each problem's samples.
        ks: the k of pass@k and maj@k; maj@1 is left out, because it is pass@1.
        grader: decides which answers are equivalent.
    """
    majorities: dict[int, list[MajorityEstimate]] = {k: [] for k in ks if k > 1}
    sample_counts: list[int] = []
    right_counts: list[int] = []
    distinct: list[int] = []
    votes: list[list[Vote]] = []
    for verdicts_of_problem in verdicts:
        # pass@k needs these two counts alone
        correct = [verdict.correct for verdict in verdicts_of_problem]
        sample_counts.append(len(correct))
        right_counts.append(sum(correct))

        # "1/2" and "0.5" are one answer: everything else counts classes of equivalent answers
        classes = answer_classes(verdicts_of_problem, grader)
        distinct.append(count_right_classes(classes, correct))
        votes.append(count_votes(verdicts_of_problem, classes))
        for k, majority in majorities.items():
            majority.append(maj_at_k(classes, correct, k))

    # metrics.jsonl and problems.parquet keep this order of names
    values = {f"pass@{k}": pass_at_k(sample_counts, right_counts, k) for k in ks}
    errors: dict[str, np.ndarray] = {}
    exact: dict[str, bool] = {}
    for k, majority in majorities.items():
        name = f"maj@{k}"
        values[name] = np.array([estimate.value for estimate in majority])
        errors[name] = np.array([estimate.standard_error for estimate in majority])
        # one problem whose subsets were drawn is enough to make the mean inexact
        exact[name] = all(estimate.exact for estimate in majority)
    values["distinct"] = np.array(distinct, dtype=float)

    right_shares = mean_at_k(sample_counts, right_counts, 1)
    return Estimates(values, errors, exact, votes, right_shares)


def answer_classes(group: Sequence[Verdict], grader: Grader) -> list[int]:
    """Number the classes of equivalent answers among the samples of one problem.

    Where a problem has one right answer, all right samples are one class, so that "10" and "10 %"
    are counted together if the gold is either of them. No class holds a right and a wrong sample: a
    wrong answer may be close to a right one, but it is not it.

    Args:
        group: verdicts of the samples.
        grader: decides which answers are equivalent.

    Returns:
        The class of each sample's answer; -1 for a sample without an answer.
    """
    # each string is compared once, however many samples gave it
    right_answers: set[str] = set()
    wrong_answers: set[str] = set()
    failed_answers: set[str] = set()
    for verdict in group:
        if verdict.answer is None:
            continue
        if verdict.route in FAILED:
            failed_answers.add(verdict.answer)
        elif verdict.correct:
            right_answers.add(verdict.answer)
        else:
            wrong_answers.add(verdict.answer)

    # the right answers, and the others in classes of their own
    class_of: dict[str, int] = {}
    has_one_right_answer = getattr(grader.verifier, "one_right_answer", False)
    for answers in (right_answers, wrong_answers - right_answers):
        comparable = sorted(answers - failed_answers, key=_shortest_first)
        if answers is right_answers and has_one_right_answer:
            numbers = [0] * len(comparable)
        else:
            numbers = grader.cluster(comparable)
        first_number = max(class_of.values(), default=-1) + 1
        for answer, number in zip(comparable, numbers, strict=True):
            class_of[answer] = first_number + number

    # the grader would fail on these again: each string is a class of its own
    for answer in sorted(failed_answers):
        class_of[answer] = max(class_of.values(), default=-1) + 1
    return [-1 if verdict.answer is None else class_of[verdict.answer] for verdict in group]


def count_right_classes(classes: Sequence[int], correct: Sequence[bool]) -> int:
    """Number of classes of answers that hold a right one."""
    right_classes: set[int] = set()
    for answer_class, is_right in zip(classes, correct, strict=True):
        if is_right and answer_class >= 0:
            right_classes.add(answer_class)
    return len(right_classes)


def count_votes(group: Sequence[Verdict], classes: Sequence[int]) -> list[Vote]:
    """The classes of one problem's answers as votes.

    Returns:
        Most frequent first; among equally frequent ones the shortest answer first.
    """
    # a sample without an answer does not vote
    members: dict[int, list[Verdict]] = defaultdict(list)
    for verdict, answer_class in zip(group, classes, strict=True):
        if answer_class != -1:
            members[answer_class].append(verdict)

    # the shortest answer stands for its class, whatever the order of the samples
    votes: list[Vote] = []
    for verdicts in members.values():
        shortest = min((verdict.answer or "" for verdict in verdicts), key=_shortest_first)
        right = sum(verdict.correct for verdict in verdicts)
        votes.append(Vote(shortest, len(verdicts), right))
    return sorted(votes, key=lambda vote: (-vote.count, len(vote.answer), vote.answer))


def _shortest_first(answer: str) -> tuple[int, str]:
    """Sort key: by length, then by alphabet."""
    return len(answer), answer
