"""The grader interface: what a verifier must offer, and nothing else.

A verifier is a picklable object of plain data. It is sent to worker processes, so its module must not
import torch, and it must never evaluate model output.
"""

from __future__ import annotations

from typing import Protocol

from g2rl.types import Problem, Verdict


class Verifier(Protocol):
    """Decides whether the final answer of a completion is right."""

    bounded: bool
    """True when grading is provably cheap for any input (no symbolic mathematics, capped length): such
    a verifier is run in the calling process. All others run in killable workers."""

    def grade(self, completion: str, problem: Problem) -> Verdict:
        """Judge one completion. Must not raise for any string."""
        ...

    def key(self, answer: str) -> str:
        """A cheap normal form of an extracted answer: equal keys mean equivalent answers."""
        ...

    def equivalent(self, left: str, right: str) -> bool:
        """Whether two extracted answers mean the same; used to group answers for maj@k."""
        ...
