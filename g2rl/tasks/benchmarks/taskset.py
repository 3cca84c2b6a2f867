"""Held-out tasks of a taskset of the package verifiers, see `g2rl.tasks.taskset`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from g2rl.tasks.benchmarks.benchmark import Benchmark
from g2rl.tasks.taskset import TasksetTask
from g2rl.types import SamplingParams


def taskset_benchmark(
    taskset: str | None,
    settings: Mapping[str, Any] | None = None,
    first: int | None = None,
    held_out: int = 32,
    right_from: float = 1.0,
    limit: int | None = None,
    samples: int = 8,
    ks: Sequence[int] | None = None,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    max_tokens: int = 256,
    name: str = "taskset",
) -> Benchmark:
    """A benchmark of the last tasks of a taskset, which training does not draw.

    Args:
        taskset, settings, first, held_out, right_from: as in `TasksetTask`.
        limit: keeps the first held-out tasks only.
        samples, ks, name: as in `Benchmark`.
        temperature, top_p, top_k, max_tokens: as in `SamplingParams`.
    """
    task = TasksetTask(taskset, settings, first, held_out, right_from)
    params = SamplingParams(temperature, top_p, top_k, max_tokens)
    problems = task.held_out[:limit]
    return Benchmark(name, problems, task.verifier, samples=samples, ks=ks, params=params)
