"""Held-out grids of the task detour, the same in every run and never drawn in training."""

from __future__ import annotations

from typing import Unpack

from g2rl.tasks.benchmarks.benchmark import Benchmark
from g2rl.tasks.benchmarks.lab import LabSettings, lab_benchmark
from g2rl.tasks.detour import MAX_MOVES, SIZE, WALLS, DetourVerifier, check_shape, held_out_problems


def detour_benchmark(
    problems: int = 200,
    max_tokens: int = MAX_MOVES + 1,
    size: int = SIZE,
    walls: int = WALLS,
    name: str = "detour",
    **settings: Unpack[LabSettings],
) -> Benchmark:
    """A benchmark of held-out grids. Results are also given for easy and hard grids.

    Args:
        problems: the number of held-out grids.
        max_tokens: of one response.
        size, walls: as in the task `Detour`.
        name: as in `Benchmark`.
        settings: as in `lab_benchmark`; subsets are "easy" and "hard".

    Raises:
        ValueError: there are no such grids, or too few; or as in `lab_benchmark`.
    """
    # a shape that cannot be drawn would be searched for without end
    check_shape(size, walls)
    held_out = held_out_problems(problems, size, walls)
    return lab_benchmark(name, held_out, DetourVerifier(), max_tokens, **settings)
