"""Verifiers that split their work: a cheap part for the calling process, the rest for killable workers."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from g2rl.types import Problem, Verdict

PENDING = "pending"
"""Route of a verdict that `screen` leaves to `decide`; it never leaves the grader."""


@runtime_checkable
class Staged(Protocol):
    """A verifier whose `grade` is `screen` and then, if that could not tell, `decide`."""

    def screen(self, completion: str, problem: Problem) -> Verdict:
        """The cheap part, linear time; route `PENDING` when it cannot decide (the answer is extracted)."""
        ...

    def decide(self, answer: str, gold: str) -> tuple[bool, str]:
        """The rest: (correct, route). Called in a worker."""
        ...

    def screen_equivalent(self, left: str, right: str) -> bool | None:
        """The cheap part of `equivalent`; None when it cannot decide."""
        ...
