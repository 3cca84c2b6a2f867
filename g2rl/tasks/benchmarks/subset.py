"""Take one group of problems out of a benchmark, such as the hard ones."""

from __future__ import annotations

from collections.abc import Sequence

from g2rl.types import Problem


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
