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
    asked = f"for a response to {problem.id} that begins {completion[:SHOWN_RESPONSE]!r}"
    verdict: Verdict = _returned(verifier, "grade", (completion, problem), Verdict, asked)
    return verdict


def key_of(verifier: Verifier, answer: str) -> str:
    """A verifier's normal form of an extracted answer.

    Raises:
        VerifierError: a verifier of the user's own raised, or one gave no text.
    """
    key: str = _returned(verifier, "key", (answer,), str, f"for the answer {_shown(answer)}")
    return key


def mean_the_same(verifier: Verifier, left: str, right: str) -> bool:
    """Whether two extracted answers mean the same to a verifier.

    Raises:
        VerifierError: a verifier of the user's own raised, or one gave neither true nor false.
    """
    asked = f"for the answers {_shown(left)} and {_shown(right)}"
    same: bool = _returned(verifier, "equivalent", (left, right), bool, asked)
    return same


def _returned(
    verifier: Verifier, method: str, given: tuple[Any, ...], kind: type, asked: str
) -> Any:
    """What a method of a verifier returns, if it is of the kind that it has to be.

    Args:
        verifier: perhaps of the user's own.
        method: grade, key or equivalent.
        given: its arguments.
        kind: of what it has to return.
        asked: the arguments in words.

    Raises:
        VerifierError: naming class, method and line, and what the method was asked.
    """
    who = f"verifier {class_of(verifier)}: {method}"
    try:
        result = getattr(verifier, method)(*given)
    except MemoryError:
        raise  # the worker's limit; the grader counts it as killed
    except Exception as error:
        # errors of g2rl's own verifiers are defects of ours
        if is_of_g2rl(verifier):
            raise
        raise VerifierError(f"{who} {raised(error)} ({asked})") from error

    # a truth value of numpy, say, would be taken for no
    if not isinstance(result, kind):
        name = "g2rl.types.Verdict" if kind is Verdict else kind.__name__
        raise VerifierError(
            f"{who} returned a {type(result).__name__} instead of a {name} ({asked})"
        )
    return result


def _shown(answer: str) -> str:
    """The beginning of an answer."""
    return repr(answer[:SHOWN_RESPONSE])
