"""What graded samples say: pass@k, maj@k, distinct answers, lengths and votes, problem by problem.

Training and g2rl-eval both come here, so that a metric of one is a metric of the other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from g2rl.formulas.estimators import MajorityEstimate, maj_at_k, pass_at_k
from g2rl.tasks.grading.grader import Grader
from g2rl.types import Verdict

FAILED = ("timeout", "killed", "error", "refused")
"""Routes of answers that no mathematics is tried on again when votes are counted."""
UNGRADED = ("timeout", "killed")
"""Routes of answers on which the grader gave up."""


@dataclass(slots=True, frozen=True)
class GradedSamples:
    """The graded samples of one benchmark: B problems, each with its samples in one order."""

    verdicts: Sequence[Sequence[Verdict]]
    lengths: Sequence[Sequence[int]]
    """Response tokens of each sample."""
    finishes: Sequence[Sequence[str]]
    """"stop" or "length" of each sample, as in `Completion.finish`."""


@dataclass(slots=True, frozen=True)
class Vote:
    """One equivalence class of a problem's answers, e.g. ``Vote("1/2", 5, 5)``."""

    answer: str
    """The shortest member."""
    count: int
    correct: int


@dataclass(slots=True)
class Estimates:
    """What graded samples say of each problem (B problems)."""

    values: dict[str, np.ndarray]
    """Metric name ("pass@4", "maj@4", "distinct", "length", "truncated") to its value on each
    problem, (B,)."""
    errors: dict[str, np.ndarray]
    """The Monte Carlo standard errors of "maj@k", (B,); zero where it was enumerated."""
    exact: dict[str, bool]
    """Whether "maj@k" was enumerated on every problem."""
    votes: list[list[Vote]]
    """The answers of each problem, most frequent first; samples without one are left out."""
    shares: dict[str, np.ndarray] = field(default_factory=dict)
    """Shares of a problem's samples that tell of the grading: "unparsed", "ungraded", (B,)."""


def measure(samples: GradedSamples, ks: Sequence[int], grader: Grader) -> Estimates:
    """Everything that is measured of graded samples.

    Args:
        samples: of one benchmark.
        ks: of pass@k and maj@k, each at most the number of samples.
        grader: decides which answers are equivalent.
    """
    estimates = estimate(samples.verdicts, ks, grader)
    lengths: list[float] = []
    truncated: list[float] = []
    for lengths_of_problem, finishes in zip(samples.lengths, samples.finishes, strict=True):
        lengths.append(float(np.mean(lengths_of_problem)))
        truncated.append(float(np.mean([finish == "length" for finish in finishes])))
    estimates.values["length"] = np.array(lengths)
    estimates.values["truncated"] = np.array(truncated)

    # what the grader could not read, and where it gave up
    unparsed: list[float] = []
    ungraded: list[float] = []
    for verdicts in samples.verdicts:
        unparsed.append(float(np.mean([verdict.answer is None for verdict in verdicts])))
        ungraded.append(float(np.mean([verdict.route in UNGRADED for verdict in verdicts])))
    estimates.shares = {"unparsed": np.array(unparsed), "ungraded": np.array(ungraded)}
    return estimates


def estimate(verdicts: Sequence[Sequence[Verdict]], ks: Sequence[int], grader: Grader) -> Estimates:
    """pass@k, maj@k, the number of distinct right answers, and the votes, per problem.

    The result does not depend on the order of problems and samples.
    """
    # problem by problem: classes of equivalent answers, and what they make of the votes
    majorities: dict[int, list[MajorityEstimate]] = {k: [] for k in ks if k > 1}
    distinct: list[int] = []
    votes: list[list[Vote]] = []
    for verdicts_of_problem in verdicts:
        classes = answer_classes(verdicts_of_problem, grader)
        correct = [verdict.correct for verdict in verdicts_of_problem]
        distinct.append(count_right_classes(classes, correct))
        votes.append(count_votes(verdicts_of_problem, classes))
        for k, majority in majorities.items():
            majority.append(maj_at_k(classes, correct, k))

    # as arrays over the problems
    sample_counts = np.array([len(group) for group in verdicts])
    right_counts = np.array([sum(verdict.correct for verdict in group) for group in verdicts])
    values = {f"pass@{k}": pass_at_k(sample_counts, right_counts, k) for k in ks}
    errors: dict[str, np.ndarray] = {}
    exact: dict[str, bool] = {}
    for k, majority in majorities.items():
        name = f"maj@{k}"
        values[name] = np.array([one.value for one in majority])
        errors[name] = np.array([one.standard_error for one in majority])
        exact[name] = all(one.exact for one in majority)
    values["distinct"] = np.array(distinct, dtype=float)
    return Estimates(values, errors, exact, votes)


def answer_classes(group: Sequence[Verdict], grader: Grader) -> list[int]:
    """Equivalence classes of a problem's answers as integers, -1 for a sample without an answer.

    Answers are compared in sorted order, so that the classes do not depend on the order of samples. An
    answer on which the grader failed forms a class with its literal equals alone, because comparing it
    would only fail again.
    """
    answers: set[str] = set()
    failed_answers: set[str] = set()
    for verdict in group:
        if verdict.answer is not None:
            answers.add(verdict.answer)
            if verdict.route in FAILED:
                failed_answers.add(verdict.answer)

    comparable = sorted(answers - failed_answers, key=_shortest_first)
    class_of = dict(zip(comparable, grader.cluster(comparable), strict=True))
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
    """The classes as votes, most frequent first; ties in order of the shortest answer."""
    members: dict[int, list[Verdict]] = defaultdict(list)
    for verdict, answer_class in zip(group, classes, strict=True):
        if answer_class != -1:
            members[answer_class].append(verdict)

    votes: list[Vote] = []
    for verdicts in members.values():
        shortest = min((verdict.answer or "" for verdict in verdicts), key=_shortest_first)
        right = sum(verdict.correct for verdict in verdicts)
        votes.append(Vote(shortest, len(verdicts), right))
    return sorted(votes, key=lambda vote: (-vote.count, len(vote.answer), vote.answer))


def _shortest_first(answer: str) -> tuple[int, str]:
    return len(answer), answer
