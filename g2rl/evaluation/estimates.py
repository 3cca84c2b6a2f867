"""TODO docstring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from g2rl.formulas.estimators import Estimate, maj_at_k, pass_at_k
from g2rl.tasks.grading.grader import Grader
from g2rl.types import Verdict

FAILED = ("timeout", "killed", "error", "refused")
"""Routes of answers that no mathematics is tried on again when votes are counted."""


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
    """Metric name ("pass@4", "maj@4", "distinct") to its value on each problem, (B,)."""
    errors: dict[str, np.ndarray]
    """The Monte Carlo standard errors of "maj@k", (B,); zero where it was enumerated."""
    exact: dict[str, bool]
    """Whether "maj@k" was enumerated on every problem."""
    votes: list[list[Vote]]
    """The answers of each problem, most frequent first; samples without one are left out."""


def estimate(verdicts: list[list[Verdict]], ks: Sequence[int], grader: Grader) -> Estimates:
    """pass@k, maj@k, the number of distinct right answers, and the votes, per problem.

    Independent of the order of problems and of samples.
    """
    totals = np.array([len(group) for group in verdicts])
    right = np.array([sum(v.correct for v in group) for group in verdicts])
    majority: dict[int, list[Estimate]] = {k: [] for k in ks if k > 1}
    distinct, votes = [], []
    for group in verdicts:
        classes = answer_classes(group, grader)
        correct = [v.correct for v in group]
        distinct.append(len({c for c, ok in zip(classes, correct, strict=True) if ok and c >= 0}))
        votes.append(count_votes(group, classes))
        for k, found in majority.items():
            found.append(maj_at_k(classes, correct, k))
    values = {f"pass@{k}": pass_at_k(totals, right, k) for k in ks}
    values |= {f"maj@{k}": np.array([e.value for e in found]) for k, found in majority.items()}
    values["distinct"] = np.array(distinct, dtype=float)
    errors = {
        f"maj@{k}": np.array([e.standard_error for e in found]) for k, found in majority.items()
    }
    exact = {f"maj@{k}": all(e.exact for e in found) for k, found in majority.items()}
    return Estimates(values, errors, exact, votes)


def answer_classes(group: Sequence[Verdict], grader: Grader) -> list[int]:
    """Equivalence classes of a problem's answers as integers, -1 for none.

    Answers are compared in sorted order, so that the classes do not depend on sample order. One on
    which the grader failed stands with its literal equals alone: comparing it would only fail
    again.
    """
    failed = {v.answer for v in group if v.answer is not None and v.route in FAILED}
    answers = sorted(
        {v.answer for v in group if v.answer is not None} - failed, key=lambda a: (len(a), a)
    )
    class_of = dict(zip(answers, grader.cluster(answers), strict=True))
    for answer in sorted(failed):
        class_of[answer] = max(class_of.values(), default=-1) + 1
    return [-1 if v.answer is None else class_of[v.answer] for v in group]


def count_votes(group: Sequence[Verdict], classes: Sequence[int]) -> list[Vote]:
    """The classes as votes, most frequent first; ties in order of the shortest answer."""
    votes = []
    for label in set(classes) - {-1}:
        members = [v for v, c in zip(group, classes, strict=True) if c == label]
        shortest = min((v.answer or "" for v in members), key=lambda a: (len(a), a))
        votes.append(Vote(shortest, len(members), sum(v.correct for v in members)))
    return sorted(votes, key=lambda vote: (-vote.count, len(vote.answer), vote.answer))
