"""The interface of a verifier, which decides whether the answer in a completion is right.

A verifier is a picklable object of plain data. It is sent to worker processes, so its module must
not import torch. It must never evaluate model output.
"""

from __future__ import annotations

from typing import Protocol

from g2rl.types import Problem, Verdict


class Verifier(Protocol):
    """Decides whether the final answer of a completion is right.

    A verifier may also have a method ``warm_up()``. A worker calls it once, before its memory limit
    and the clock of its first item apply. With the attribute ``minds_cut_off = True`` it is told of
    completions that the token limit ended: `reasoning.CUT_OFF` stands behind them. A verifier with
    settings has an ``identity``, a value that is equal for equal settings. With
    ``one_right_answer = True`` all right answers to a problem mean the same, so they are one class
    for maj@k. What else its verdicts depend on is recorded with a run: ``packages`` are the names
    of installed packages that it grades with, and ``code_files()`` are files of the user's own.
    """

    bounded: bool
    """True when grading is provably cheap for any input (no symbolic mathematics, capped length).
    Such a verifier runs in the calling process; all others run in workers that can be killed."""

    def grade(self, completion: str, problem: Problem) -> Verdict:
        """Judge one completion. Must not raise for any string."""
        ...

    def key(self, answer: str) -> str:
        """A cheap normal form of an extracted answer: equal keys mean equivalent answers."""
        ...

    def equivalent(self, left: str, right: str) -> bool:
        """Whether two extracted answers mean the same; used to group answers for maj@k."""
        ...
