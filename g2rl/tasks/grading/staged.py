"""The interface of verifiers that split their work into a cheap part and one that needs a
worker."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from g2rl.types import Problem, Verdict

PENDING = "pending"
"""Route of a verdict that `screen` leaves to `decide`. No caller of the grader ever sees it."""


@runtime_checkable
class Staged(Protocol):
    """A verifier whose `grade` is `screen` and then, if that could not tell, `decide`."""

    def screen(self, completion: str, problem: Problem) -> Verdict:
        """Extract the answer and judge it if that is cheap (linear time).

        The verdict has the route `PENDING` if it is not; its answer is extracted nevertheless.
        """
        ...

    def decide(self, answer: str, gold: str) -> tuple[bool, str]:
        """Judge an answer that `screen` left open: (correct, route). Called in a worker."""
        ...

    def screen_equivalent(self, left: str, right: str) -> bool | None:
        """Whether two answers mean the same, or None if that cannot be told cheaply."""
        ...
