"""Differences between arms, seed by seed, so that what runs of one seed share drops out.

Runs of one seed train on the same problems in the same order and are evaluated on the same
problems with the same random numbers. The difference of two arms therefore varies less from seed to
seed than either arm alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from g2rl.analysis.comparison.runs import RunsError
from g2rl.analysis.tables import at_end, seeds_cell


def paired_differences(frame: pd.DataFrame, metric: str, against: str) -> dict[str, list[float]]:
    """Each other arm's last value minus that of `against`, one number a seed that both have.

    Args:
        frame: long, of `g2rl.analysis.comparison.runs.collect`.

    Raises:
        RunsError: there is no such arm.
    """
    arms = list(dict.fromkeys(frame["arm"]))
    if against not in arms:
        raise RunsError(
            f"no arm {against!r} to compare with; there is {', '.join(map(repr, arms))}"
        )

    # the last value of every run
    ends = at_end(frame, metric)
    base = _value_by_seed(ends, against)
    differences: dict[str, list[float]] = {}
    for arm in arms:
        if arm == against:
            continue

        # seeds that only one of the arms has cannot be paired
        values = _value_by_seed(ends, arm)
        shared_seeds = sorted(set(values) & set(base))
        differences[arm] = [float(values[seed] - base[seed]) for seed in shared_seeds]
    return differences


def _value_by_seed(ends: pd.DataFrame, arm: str) -> dict[int, float]:
    """An arm's value of each seed; empty for an arm that does not report the metric."""
    rows = ends[ends["arm"] == arm]
    return dict(zip(rows["seed"], rows["value"], strict=True))


def paired_rows(frame: pd.DataFrame, metrics: Mapping[str, str], against: str) -> list[list[str]]:
    """Cells of a table, the headings first: mean difference [95 % t-interval over shared seeds].

    Args:
        metrics: names to headings.
    """
    # metric by metric; every metric has the same arms
    columns = [paired_differences(frame, metric, against) for metric in metrics]
    arms = list(columns[0]) if columns else []

    rows = [[f"minus {against}", "seeds", *metrics.values()]]
    for arm in arms:
        # metrics may be reported by fewer seeds than the runs have
        most_seeds = max(len(differences[arm]) for differences in columns)
        row = [arm, str(most_seeds)]
        for differences in columns:
            row.append(seeds_cell(differences[arm], most_seeds, "+.3f"))
        rows.append(row)
    return rows
