"""The interface of a verifier, which decides whether the answer in a completion is right.

A verifier is a picklable object of plain data. It is sent to worker processes, so its module must
not import torch. It must never evaluate model output.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from g2rl.tasks.grading.code_files import class_of, errors_named
from g2rl.types import Problem, Verdict

SHOWN_RESPONSE = 60
"""Characters of a response that a message about it shows."""


LARGEST_REWARD = 1e6
"""A reward of a larger size is refused: it would drown all others, and overflow in float32."""
TYPES_OF_FIELDS: dict[str, tuple[type, ...]] = {
    "correct": (bool,),
    "answer": (str, type(None)),
    "route": (str,),
    "graded": (float, int, type(None)),
}
"""What a verdict holds."""


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


def judged(verifier: Verifier, completion: str, problem: Problem, method: str = "grade") -> Verdict:
    """The verdict of a verifier on one completion.

    Args:
        verifier: is asked.
        completion: the response.
        problem: what it responds to.
        method: "grade", or "screen" of a staged one.

    Raises:
        VerifierError: a verifier of the user's own raised, or one gave no `Verdict`.
    """

    # said of a few responses, and not put together for each
    def asked() -> str:
        return f"(for a response to {problem.id} that begins {completion[:SHOWN_RESPONSE]!r})"

    with _errors_named(verifier, asked):
        verdict = getattr(verifier, method)(completion, problem)

    # and what it returned
    fault = _fault_of(verdict)
    if fault is not None:
        raise VerifierError(f"verifier {class_of(verifier)} returned {fault} {asked()}")
    judgement: Verdict = verdict
    return judgement


def decided(verifier: Any, answer: str, gold: str) -> tuple[bool, str]:
    """What the second stage of a staged verifier says of an answer: (correct, route).

    Raises:
        VerifierError: a verifier of the user's own raised, or one gave something else.
    """

    def asked() -> str:
        return f"as what it decides of the answer {answer[:SHOWN_RESPONSE]!r}"

    with _errors_named(verifier, asked):
        outcome = verifier.decide(answer, gold)

    # and what it returned
    match outcome:
        case (bool() as correct, str() as route):
            return correct, route
    raise VerifierError(
        f"verifier {class_of(verifier)} returned {outcome!r:.{SHOWN_RESPONSE}} {asked()}; it must "
        "be (correct, route), a bool and a str"
    )


def key_of(verifier: Verifier, answer: str) -> str:
    """A verifier's normal form of an answer.

    Raises:
        VerifierError: a verifier of the user's own raised, or one gave no text.
    """

    def asked() -> str:
        return f"as the key of the answer {answer[:SHOWN_RESPONSE]!r}"

    with _errors_named(verifier, asked):
        key = verifier.key(answer)
    if not isinstance(key, str):
        kind = type(key).__name__
        raise VerifierError(f"verifier {class_of(verifier)} returned a {kind}, no text, {asked()}")
    return key


def are_equivalent(verifier: Verifier, left: str, right: str) -> bool:
    """Whether a verifier takes two answers for the same.

    Raises:
        VerifierError: a verifier of the user's own raised.
    """
    return bool(_compared(verifier, left, right, "equivalent"))


def are_equivalent_at_once(verifier: Verifier, left: str, right: str) -> bool | None:
    """The same by the first stage of a staged verifier; None where it leaves that open.

    Raises:
        VerifierError: a verifier of the user's own raised.
    """
    same = _compared(verifier, left, right, "screen_equivalent")
    return None if same is None else bool(same)


def _compared(verifier: Verifier, left: str, right: str, method: str) -> Any:
    """What a method of a verifier says of two answers."""

    def asked() -> str:
        return f"of the answers {left[:SHOWN_RESPONSE]!r} and {right[:SHOWN_RESPONSE]!r}"

    with _errors_named(verifier, asked):
        return getattr(verifier, method)(left, right)


def _errors_named(verifier: Verifier, asked: Callable[[], str]) -> AbstractContextManager[None]:
    """`errors_named` for a verifier that was asked something."""
    who = f"verifier {class_of(verifier)}"
    return errors_named(verifier, VerifierError, who, lambda error: f" {asked()}")


def _fault_of(verdict: Any) -> str | None:
    """What keeps a value from being a verdict, in words; None for a verdict."""
    if not isinstance(verdict, Verdict):
        return f"a {type(verdict).__name__} instead of a g2rl.types.Verdict"

    # numbers of numpy cannot be written down as JSON
    for name, kinds in TYPES_OF_FIELDS.items():
        value = getattr(verdict, name)
        if not isinstance(value, kinds):
            words = " or ".join("None" if kind is type(None) else kind.__name__ for kind in kinds)
            return f"a Verdict whose {name} is a {type(value).__name__}; it must be {words}"
    if verdict.graded is not None and not abs(verdict.graded) <= LARGEST_REWARD:
        return (
            f"a Verdict whose graded is no reward; it must be finite, and at most "
            f"{LARGEST_REWARD:g} in size"
        )
    return None
