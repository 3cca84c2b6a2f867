"""The task interface: an endless, seeded stream of training problems and the verifier that judges
them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np

from g2rl.tasks.grading.verifier import Verifier
from g2rl.types import Problem


class Task(Protocol):
    """Training problems and their verifier. `batch` is a pure function of its arguments."""

    name: str
    verifier: Verifier

    def batch(self, seed: int, start: int, size: int) -> list[Problem]:
        """Problems number `start` to `start + size` of the stream with this seed."""
        ...

    def may_draw(self, problem: Problem) -> bool:
        """Whether training could ever meet this problem; no held-out problem may be one of
        these."""
        ...


@runtime_checkable
class Finite(Protocol):
    """A task over a list of problems, visited in shuffled epochs."""

    problems: list[Problem]


OVERLONG = ("error", "drop")


def fit_prompts(task: Task, length: Callable[[Problem], int], limit: int, overlong: str) -> int:
    """Make sure that no prompt of a finite task is over `limit` tokens; returns how many were
    dropped.

    Args:
        length: of a prompt, in tokens.
        overlong: error, or drop, which removes them from the task.

    Raises:
        ValueError: naming how many there are and the longest; or all are too long.
    """
    if overlong not in OVERLONG:
        raise ValueError(f"task.overlong must be one of {OVERLONG}, got {overlong!r}")

    # an endless task is checked as it is drawn
    if not isinstance(task, Finite):
        return 0  # endless: each is checked when it is drawn

    # which prompts fit
    sizes = [length(problem) for problem in task.problems]
    kept = [problem for problem, size in zip(task.problems, sizes, strict=True) if size <= limit]
    dropped = len(sizes) - len(kept)

    # refuse, or leave the others out
    if dropped and (overlong == "error" or not kept):
        longest = max(range(len(sizes)), key=sizes.__getitem__)
        raise ValueError(
            f"{dropped} of {len(sizes)} prompts of task {task.name} are over "
            f"task.max_prompt_tokens={limit}; the longest, {task.problems[longest].id}, has "
            f"{sizes[longest]}: raise the limit, or leave them out with task.overlong=drop"
        )
    task.problems = kept
    return dropped


def refuse_leaks(task: Task, held_out: list[Problem], benchmark: str) -> None:
    """Make sure that no problem of a benchmark is a training problem.

    Raises:
        ValueError: naming how many are, and the first.
    """
    # problems that training could meet
    leaked = [problem.id for problem in held_out if task.may_draw(problem)]
    if leaked:
        raise ValueError(
            f"{len(leaked)} of {len(held_out)} problems of benchmark {benchmark} are training "
            f"problems of task {task.name} (first: {leaked[0]}); for countdown raise "
            "task.source.held_out to benchmark.problems"
        )


def epoch_order(seed: int, epoch: int, size: int) -> np.ndarray:
    """The order in which a data set of `size` rows is visited in an epoch: a keyed permutation."""
    return np.random.default_rng(np.random.SeedSequence((seed, 0xDA7A, epoch))).permutation(size)


def stream_from_rows(problems: list[Problem], seed: int, start: int, size: int) -> list[Problem]:
    """Problems `start` to `start + size` of an endless stream of shuffled epochs over
    `problems`."""
    chosen: list[Problem] = []
    total = len(problems)

    # whole epochs, cut at both ends
    for epoch in range(start // total, (start + size - 1) // total + 1):
        order = epoch_order(seed, epoch, total)
        first = max(start - epoch * total, 0)
        last = min(start + size - epoch * total, total)
        chosen.extend(problems[i] for i in order[first:last])
    return chosen
