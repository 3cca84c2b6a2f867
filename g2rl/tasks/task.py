"""The interface of a task, and checks of its problems before training.

A task is an endless, seeded stream of training problems, and the verifier that judges them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np

from g2rl.tasks.grading.code_files import class_of, errors_named
from g2rl.tasks.grading.grader import Grader
from g2rl.tasks.grading.verifier import Verifier, check_verifier
from g2rl.types import Problem

_ORDER_STREAM = 0xDA7A  # sets the random numbers of orders apart from all others


class Task(Protocol):
    """Training problems and their verifier. `batch` is a pure function of its arguments."""

    name: str
    verifier: Verifier

    def batch(self, seed: int, start: int, size: int) -> list[Problem]:
        """Problems number `start` to `start + size` of the stream with this seed."""
        ...

    def may_draw(self, problem: Problem) -> bool:
        """Whether training could ever meet this problem. Then it must not be held out."""
        ...


@runtime_checkable
class Finite(Protocol):
    """A task over a list of problems, which training visits in shuffled epochs."""

    problems: list[Problem]


@runtime_checkable
class Rehearsed(Protocol):
    """A task whose data or functions are the user's own, and are tried before training."""

    verifier: Verifier

    def rehearse(self, grader: Grader) -> None:
        """Grade what is known to be right; raises `ValueError` if that cannot work."""
        ...


class TaskError(ValueError):
    """A task of the user's own is none, or gave no problems as asked; the message names it."""


def check_task(task: Any) -> None:
    """Refuse an object that is no task, before anything is loaded.

    Raises:
        TaskError: it lacks something.
        VerifierError: its verifier does.
    """
    who = f"task class {class_of(task)}"
    if not isinstance(getattr(task, "name", None), str):
        raise TaskError(f'{who} has no name; write name = "..." into the class')
    for method in ("batch", "may_draw"):
        if not callable(getattr(task, method, None)):
            raise TaskError(f"{who} has no method {method}; docs/tasks.md shows a whole task")
    check_verifier(getattr(task, "verifier", None), who)


def drawn(task: Task, seed: int, start: int, size: int) -> list[Problem]:
    """Problems number `start` to `start + size` of a task's stream.

    Raises:
        TaskError: the task gave another number of them, or something else, or an own one raised.
    """
    call = f"task class {class_of(task)}: batch(seed={seed}, start={start}, size={size})"
    with errors_named(task, TaskError, call):
        problems = task.batch(seed, start, size)
    if not isinstance(problems, list | tuple):
        raise TaskError(f"{call} gave a {type(problems).__name__}; it must give a list")
    for problem in problems:
        _check_problem(problem, call)

    # too few would train on less than the settings say
    if len(problems) != size:
        raise TaskError(
            f"{call} gave {len(problems)} problems where {size} were asked for; the stream is "
            "endless, so begin again at its end"
        )
    return list(problems)


def _check_problem(problem: Any, call: str) -> None:
    """Refuse what is no problem, or one of whose texts is none."""
    if not isinstance(problem, Problem):
        raise TaskError(
            f"{call} gave a {type(problem).__name__}; it must give g2rl.types.Problem objects"
        )
    for name in ("id", "prompt", "answer"):
        value = getattr(problem, name)
        if not isinstance(value, str):
            raise TaskError(
                f"{call} gave a Problem whose {name} is a {type(value).__name__}; it must be a text"
            )


OVERLONG = ("error", "drop")
"""What may happen to a prompt that is too long: stop with an error, or leave the problem out."""


def fit_prompts(task: Task, length: Callable[[Problem], int], limit: int, overlong: str) -> int:
    """Make sure that no prompt of a finite task is over `limit` tokens.

    Args:
        task: an endless task is left alone; each of its prompts is checked when it is drawn.
        length: gives the length of a problem's prompt, in tokens.
        limit: the most tokens that a prompt may have.
        overlong: one of `OVERLONG`; "drop" removes the problems from the task.

    Returns:
        The number of problems that were dropped.

    Raises:
        ValueError: some prompts are too long and `overlong` is "error", or all are too long.
    """
    if overlong not in OVERLONG:
        raise ValueError(f"task.overlong must be one of {OVERLONG}, got {overlong!r}")

    # an endless task has no list of problems to look through
    if not isinstance(task, Finite):
        return 0

    # the problems whose prompts fit
    sizes = [length(problem) for problem in task.problems]
    fitting = []
    for problem, size in zip(task.problems, sizes, strict=True):
        if size <= limit:
            fitting.append(problem)

    # refuse the others, or leave them out
    dropped = len(sizes) - len(fitting)
    if dropped and (overlong == "error" or not fitting):
        longest = max(range(len(sizes)), key=sizes.__getitem__)
        leave_out = ", or leave them out with task.overlong=drop" if fitting else ""
        raise ValueError(
            f"{dropped} of {len(sizes)} prompts of task {task.name} are over "
            f"task.max_prompt_tokens={limit}; the longest, {task.problems[longest].id}, has "
            f"{sizes[longest]}: raise the limit{leave_out}"
        )
    task.problems = fitting
    return dropped


def refuse_leaks(
    task: Task,
    held_out: list[Problem],
    benchmark: str,
    can_hold_out: bool = True,
    can_name_rows: bool = False,
) -> None:
    """Make sure that no problem of a benchmark is a training problem.

    Args:
        task: the training task.
        held_out: the problems of the benchmark.
        benchmark: its name, for the message.
        can_hold_out: whether the task has the setting `task.source.held_out`.
        can_name_rows: whether the benchmark has the setting `benchmark.source`.

    Raises:
        ValueError: some are; the message says how many, and names the first.
        TaskError: an own task raised.
    """
    leaked: list[str] = []
    for problem in held_out:
        call = f"task class {class_of(task)}: may_draw({problem.id!r})"
        with errors_named(task, TaskError, call):
            if task.may_draw(problem):
                leaked.append(problem.id)
    if not leaked:
        return

    # what helps: a task holds out problems of its own benchmark only
    advice = "choose another benchmark, or take these problems out of the data of either"
    if can_name_rows and can_hold_out:
        advice = (
            "give the benchmark other rows, benchmark.source=FILE, or where both read one file let "
            "the task hold some out, task.source.held_out=NUMBER"
        )
    elif can_name_rows:
        advice = f"name other rows, benchmark.source=FILE, {advice}"
    elif can_hold_out:
        advice = (
            "if this is the task's own benchmark, raise task.source.held_out (for countdown and "
            "detour to benchmark.problems), else choose another"
        )
    raise ValueError(
        f"{len(leaked)} of {len(held_out)} problems of benchmark {benchmark} are training "
        f"problems of task {task.name} (first: {leaked[0]}), which would count what was learnt by "
        f"heart; {advice}"
    )


def epoch_order(seed: int, epoch: int, size: int) -> np.ndarray:
    """The order in which an epoch visits a data set of `size` rows.

    A permutation of 0 to size - 1 that depends on the arguments alone.
    """
    key = np.random.SeedSequence((seed, _ORDER_STREAM, epoch))
    return np.random.default_rng(key).permutation(size)


def stream_from_rows(problems: list[Problem], seed: int, start: int, size: int) -> list[Problem]:
    """Problems `start` to `start + size` of an endless stream: shuffled epochs over `problems`."""
    batch: list[Problem] = []
    total = len(problems)
    for epoch in range(start // total, (start + size - 1) // total + 1):
        order = epoch_order(seed, epoch, total)

        # the part of this epoch that lies in the batch
        first = max(start - epoch * total, 0)
        last = min(start + size - epoch * total, total)
        batch.extend(problems[index] for index in order[first:last])
    return batch
