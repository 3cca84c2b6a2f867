"""Differences between arms, seed by seed: what runs of one seed share drops out.

Runs of one seed train on the same problems in the same order and are evaluated on the same problems
with the same random numbers, so an arm minus another of the same seed varies less than either
alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from g2rl.analysis.comparison.runs import RunsError
from g2rl.analysis.tables import at_end
from g2rl.formulas.intervals import seed_interval


def paired_differences(frame: pd.DataFrame, metric: str, against: str) -> dict[str, list[float]]:
    """Each other arm's last value minus that of `against`, one number a seed that both have.

    Args:
        frame: of `g2rl.analysis.comparison.runs.collect`.

    Raises:
        RunsError: there is no such arm.
    """
    arms = list(dict.fromkeys(frame["arm"]))
    if against not in arms:
        raise RunsError(
            f"no arm {against!r} to compare with; there is {', '.join(map(repr, arms))}"
        )
    ends = at_end(frame, metric).set_index(["arm", "seed"])["value"]
    base = (
        ends.loc[against] if against in ends.index.get_level_values(0) else pd.Series(dtype=float)
    )
    found: dict[str, list[float]] = {}
    for arm in arms:
        if arm != against:
            own = ends.loc[arm] if arm in ends.index.get_level_values(0) else pd.Series(dtype=float)
            shared = sorted(set(own.index) & set(base.index))
            found[arm] = [float(own[seed] - base[seed]) for seed in shared]
    return found


def paired_rows(frame: pd.DataFrame, metrics: Mapping[str, str], against: str) -> list[list[str]]:
    """Cells of a table, the headings first: mean difference [95 % t-interval over shared seeds]."""
    columns = {metric: paired_differences(frame, metric, against) for metric in metrics}
    rows = [[f"minus {against}", "seeds", *metrics.values()]]
    for arm in next(iter(columns.values()), {}):
        most = max(len(found[arm]) for found in columns.values())
        rows.append(
            [arm, str(most), *(difference_cell(found[arm], most) for found in columns.values())]
        )
    return rows


def difference_cell(values: list[float], seeds: int) -> str:
    """``-0.012 [-0.028, +0.003]``, without interval for one seed, ``-`` where no seed is shared."""
    if not values:
        return "-"
    mean, low, high = seed_interval(values)
    bounds = f" [{low:+.3f}, {high:+.3f}]" if len(values) > 1 else ""
    return f"{mean:+.3f}{bounds}" + (f" ({len(values)} of {seeds})" if len(values) < seeds else "")
