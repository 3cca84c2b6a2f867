"""Held-out problems of the task countdown_hard, which training never draws."""

from __future__ import annotations

from typing import Unpack

from g2rl.tasks.benchmarks.benchmark import Benchmark
from g2rl.tasks.benchmarks.lab import LabSettings, lab_benchmark
from g2rl.tasks.countdown import TINY_TEMPLATE, CountdownVerifier
from g2rl.tasks.countdown_hard import problems


def countdown_hard_benchmark(
    max_tokens: int = 120,
    template: str = TINY_TEMPLATE,
    name: str = "countdown_hard",
    **settings: Unpack[LabSettings],
) -> Benchmark:
    """A benchmark of the held-out problems that the tiny policy hardly solves.

    Args:
        max_tokens: of one response.
        template: as in the task `CountdownHard`.
        name: as in `Benchmark`.
        settings: as in `lab_benchmark`; subsets are "easy" and "hard".

    Raises:
        ValueError: as in `lab_benchmark`.
    """
    # in file order, so that a limit keeps the same problems in every run
    held_out = problems("heldout", template)
    return lab_benchmark(name, held_out, CountdownVerifier(), max_tokens, **settings)
