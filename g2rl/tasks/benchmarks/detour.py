"""Held-out grids of the task detour, the same in every run and never drawn in training."""

from __future__ import annotations

from collections.abc import Sequence

from g2rl.tasks.benchmarks.benchmark import Benchmark
from g2rl.tasks.benchmarks.subset import subset_of
from g2rl.tasks.detour import MAX_MOVES, SIZE, WALLS, DetourVerifier, check_shape, held_out_problems
from g2rl.types import SamplingParams


def detour_benchmark(
    problems: int = 200,
    subset: str | None = None,
    limit: int | None = None,
    samples: int = 64,
    ks: Sequence[int] | None = None,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    max_tokens: int = MAX_MOVES + 1,
    size: int = SIZE,
    walls: int = WALLS,
    name: str = "detour",
) -> Benchmark:
    """A benchmark of held-out grids. Results are also given for easy and hard grids.

    Args:
        problems: the number of held-out grids.
        subset: "easy" or "hard" for these problems only.
        limit: keeps the first of them only.
        samples, ks, name: as in `Benchmark`.
        temperature, top_p, top_k, max_tokens: as in `SamplingParams`.
        size, walls: as in the task `Detour`.

    Raises:
        ValueError: there are no such grids, or too few.
    """
    # a shape that cannot be drawn would be searched for without end
    check_shape(size, walls)

    # the subset first: a limit then counts problems of that subset
    held_out = subset_of(held_out_problems(problems, size, walls), subset)[:limit]
    params = SamplingParams(temperature, top_p, top_k, max_tokens)
    return Benchmark(name, held_out, DetourVerifier(), samples=samples, ks=ks, params=params)
