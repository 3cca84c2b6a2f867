"""The interface of a verifier, which decides whether the answer in a completion is right.

A verifier is a picklable object of plain data. It is sent to worker processes, so its module must
not import torch. It must never evaluate model output.
"""

from __future__ import annotations

from typing import Any, Protocol

from g2rl.tasks.grading.code_files import class_of, is_of_g2rl, raised
from g2rl.types import Problem, Verdict

SHOWN_RESPONSE = 60
"""Characters of a response that a message about it shows."""


class VerifierError(ValueError):
    """A verifier of the user's own is none, failed, or gave no verdict; the message names it."""


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


def check_verifier(verifier: Any, owner: str) -> None:
    """Refuse an object that is no verifier.

    Args:
        verifier: of a task.
        owner: the task in words, for messages.

    Raises:
        VerifierError: it lacks something.
    """
    if verifier is None:
        raise VerifierError(f"{owner} has no verifier; set self.verifier in its constructor")
    for method in ("grade", "key", "equivalent"):
        if not callable(getattr(verifier, method, None)):
            raise VerifierError(f"{owner}: its verifier {class_of(verifier)} has no {method}")

    # whether it may run in this process is no matter of guessing
    if not isinstance(getattr(verifier, "bounded", None), bool):
        raise VerifierError(
            f"{owner}: its verifier {class_of(verifier)} does not say whether it is bounded; write "
            "bounded = False into the class"
        )


def judged(verifier: Verifier, completion: str, problem: Problem) -> Verdict:
    """The verdict of a verifier on one completion.

    Raises:
        VerifierError: a verifier of the user's own raised, or one gave no `Verdict`.
    """
    try:
        verdict = verifier.grade(completion, problem)
    except MemoryError:
        raise  # the worker's limit; the grader counts it as killed
    except Exception as error:
        if is_of_g2rl(verifier):
            raise
        asked = _asked(completion, problem)
        raise VerifierError(f"verifier {class_of(verifier)} {raised(error)} {asked}") from error

    if not isinstance(verdict, Verdict):
        raise VerifierError(
            f"verifier {class_of(verifier)} returned a {type(verdict).__name__} instead of a "
            f"g2rl.types.Verdict {_asked(completion, problem)}"
        )
    return verdict


def _asked(completion: str, problem: Problem) -> str:
    """What a verifier was asked, in words."""
    return f"(for a response to {problem.id} that begins {completion[:SHOWN_RESPONSE]!r})"
