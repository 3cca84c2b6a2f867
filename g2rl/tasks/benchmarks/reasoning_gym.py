"""Procedural problems of arithmetic, logic, graphs and algorithms, from the reasoning-gym package.

An example is ``Find the Greatest Common Divisor (GCD) of these numbers: 26, 760.``, gold ``2``.
Problem i of a family is a function of (seed, i), so the set is the same everywhere for one version
of the package.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from g2rl.tasks.benchmarks.benchmark import Benchmark
from g2rl.tasks.grading.gym import SAFE, GymVerifier
from g2rl.tasks.math import PAPER_INSTRUCTION
from g2rl.tasks.reasoning_gym import check_configs, config_of, held_out_problem
from g2rl.types import Problem, SamplingParams


def reasoning_gym_benchmark(
    families: Sequence[str] = tuple(SAFE),
    configs: Mapping[str, Mapping[str, Any]] | None = None,
    per_family: int = 20,
    limit: int | None = None,
    samples: int = 8,
    ks: Sequence[int] | None = None,
    temperature: float = 0.8,
    top_p: float = 1.0,
    top_k: int = 0,
    max_tokens: int = 2048,
    instruction: str = PAPER_INSTRUCTION,
) -> Benchmark:
    """A benchmark of problems from several families.

    Args:
        families: names of reasoning-gym data sets, all in `SAFE`.
        configs: settings of families by name, as in the task `ReasoningGymTask`.
        per_family: number of problems of each family.
        limit: keeps the first problems only; families take turns, so the mixture stays.
        samples, ks: as in `Benchmark`.
        temperature, top_p, top_k, max_tokens: as in `SamplingParams`.
        instruction: last line of the prompt.

    Raises:
        ImportError: reasoning-gym is not installed.
        ValueError: there is no problem, or the scorer of a family is not known to be safe.
    """
    if per_family < 1 or not families:
        raise ValueError(
            f"reasoning_gym: per_family must be >= 1 and families not empty, got {per_family}"
        )

    # settings for a family that is not asked for would do nothing
    check_configs(families, configs)

    # families take turns
    problems: list[Problem] = []
    for index in range(per_family):
        for family in families:
            config = config_of(family, configs)
            problems.append(held_out_problem(family, index, per_family, instruction, config))

    params = SamplingParams(temperature, top_p, top_k, max_tokens)
    return Benchmark(
        "reasoning_gym", problems[:limit], GymVerifier(), samples=samples, ks=ks, params=params
    )
