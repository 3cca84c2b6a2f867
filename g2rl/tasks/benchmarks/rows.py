"""Held-out rows of one's own: those that the task rows holds out, or a file of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from g2rl.tasks.benchmarks.benchmark import Benchmark
from g2rl.tasks.rows_task import Settings, row_problems, row_verifier, split_settings
from g2rl.types import SamplingParams


def rows_benchmark(
    name: str = "rows",
    limit: int | None = None,
    samples: int = 8,
    ks: Sequence[int] | None = None,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    max_tokens: int = 256,
    **given: Unpack[Settings],
) -> Benchmark:
    """A benchmark of rows. With `held_out` above 0 these are the ones that the task leaves out.

    Args:
        name, samples, ks: as in `Benchmark`.
        limit: keeps the first rows only.
        temperature, top_p, top_k, max_tokens: as in `SamplingParams`.
        given: as in the task `RowsTask`.

    Raises:
        DataError, ValueError: as in `RowsTask`.
    """
    # a file of its own is taken whole
    rows, grading = split_settings(given)
    part = "heldout" if rows.get("held_out", 0) > 0 else None
    problems = row_problems(name, part, rows)[:limit]

    # judged as in training
    params = SamplingParams(temperature, top_p, top_k, max_tokens)
    verifier = row_verifier(grading)
    return Benchmark(name, problems, verifier, samples=samples, ks=ks, params=params)
