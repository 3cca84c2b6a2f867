"""What the benchmarks of the lab share: their settings, and groups of problems such as hard ones.

The lab are the tasks that a built-in policy answers within minutes: detour, forked_skills and
countdown_hard.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict, Unpack

from g2rl.tasks.benchmarks.benchmark import Benchmark
from g2rl.tasks.grading.verifier import Verifier
from g2rl.types import Problem, SamplingParams


class LabSettings(TypedDict, total=False):
    """Settings that every benchmark of the lab takes, see `lab_benchmark`."""

    subset: str | None
    limit: int | None
    samples: int
    ks: Sequence[int] | None
    temperature: float
    top_p: float
    top_k: int


def lab_benchmark(
    name: str,
    problems: Sequence[Problem],
    verifier: Verifier,
    max_tokens: int,
    **settings: Unpack[LabSettings],
) -> Benchmark:
    """A benchmark of problems in groups, such as easy and hard.

    Args:
        name, verifier: as in `Benchmark`.
        problems: all of them, in the order that a limit counts in.
        max_tokens: of one response.
        settings: `subset` keeps the problems of one group only (None: all), and then `limit` the
            first of these (None: all). `samples` (64) and `ks` (None) are as in `Benchmark`,
            `temperature` (1.0), `top_p` (1.0) and `top_k` (0) as in `SamplingParams`.

    Raises:
        ValueError: there is no such subset, or as in `Benchmark`.
    """
    # the subset first: a limit then counts problems of that subset
    kept_problems = subset_of(problems, settings.get("subset"))[: settings.get("limit")]

    params = SamplingParams(
        temperature=settings.get("temperature", 1.0),
        top_p=settings.get("top_p", 1.0),
        top_k=settings.get("top_k", 0),
        max_tokens=max_tokens,
    )
    samples, ks = settings.get("samples", 64), settings.get("ks")
    return Benchmark(name, kept_problems, verifier, samples=samples, ks=ks, params=params)


def subset_of(problems: Sequence[Problem], subset: str | None) -> list[Problem]:
    """The problems whose group is `subset`; all of them for None.

    Raises:
        ValueError: no problem is of this group; the message lists those there are.
    """
    # most benchmarks are evaluated whole
    if subset is None:
        return list(problems)

    # a name that fits nothing is a typing error
    chosen = [problem for problem in problems if problem.meta.get("group") == subset]
    if not chosen:
        groups = sorted({str(problem.meta.get("group")) for problem in problems})
        raise ValueError(f"benchmark.subset must be one of {groups} or null, got {subset!r}")
    return chosen
