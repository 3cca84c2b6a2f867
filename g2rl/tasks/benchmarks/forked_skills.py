"""Held-out problems of the task forked_skills: other digits of the same families."""

from __future__ import annotations

from typing import Unpack

from g2rl.tasks.benchmarks.benchmark import Benchmark
from g2rl.tasks.benchmarks.lab import LabSettings, lab_benchmark
from g2rl.tasks.forked_skills import ForkedSkillsVerifier, problems


def forked_skills_benchmark(
    max_tokens: int = 8, name: str = "forked_skills", **settings: Unpack[LabSettings]
) -> Benchmark:
    """A benchmark of all held-out problems. Results are also given for easy and hard families.

    Args:
        max_tokens: of one response.
        name: as in `Benchmark`.
        settings: as in `lab_benchmark`; subsets are "easy" and "hard". Families take turns, so a
            limit keeps the mixture.

    Raises:
        ValueError: as in `lab_benchmark`.
    """
    held_out = problems(held_out=True)
    return lab_benchmark(name, held_out, ForkedSkillsVerifier(), max_tokens, **settings)
