"""TODO docstring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from g2rl.formulas.intervals import seed_interval


def at_end(frame: pd.DataFrame, metric: str, first: bool = False) -> pd.DataFrame:
    """The last (or first) value that each run reports of a metric: one row a run."""
    chosen = frame[frame["metric"] == metric].sort_values(["arm", "seed", "step"])
    grouped = chosen.groupby(["arm", "seed"], sort=False)
    return (grouped.head(1) if first else grouped.tail(1)).reset_index(drop=True)


def comparison_rows(
    frame: pd.DataFrame, metrics: Mapping[str, str] | Sequence[str], first: bool = False
) -> list[list[str]]:
    """Cells of `comparison_table`, the headings first."""
    headings = metrics if isinstance(metrics, Mapping) else {name: name for name in metrics}
    ends = {metric: at_end(frame, metric, first) for metric in headings}
    rows = [["arm", "seeds", *headings.values()]]
    for arm in dict.fromkeys(frame["arm"]):
        seeds = frame.loc[frame["arm"] == arm, "seed"].nunique()
        cells = [cell(end.loc[end["arm"] == arm, "value"].tolist(), seeds) for end in ends.values()]
        rows.append([arm, str(seeds), *cells])
    return rows


def comparison_table(
    frame: pd.DataFrame, metrics: Mapping[str, str] | Sequence[str], first: bool = False
) -> str:
    """Markdown: one row an arm, number of seeds, mean over seeds [95 % t-interval over seeds].

    Args:
        frame: of `collect`.
        metrics: names, or names to headings.
        first: the first value of each run (before training) instead of the last.

    With one seed there is no interval; an arm that does not report a metric shows "-".
    """
    return markdown(comparison_rows(frame, metrics, first))


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as a table, the headings first."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


def cell(values: Sequence[float], seeds: int) -> str:
    """``0.490 [0.467, 0.513]``, ``0.490`` of one seed, ``-`` of none.

    Where only some of the arm's `seeds` report the metric, that is said: ``0.490 [0.467, 0.513] (2
    of 3)``.
    """
    if not values:
        return "-"
    mean, low, high = seed_interval(values)
    bounds = f" [{low:.3f}, {high:.3f}]" if len(values) > 1 else ""
    return f"{mean:.3f}{bounds}" + (f" ({len(values)} of {seeds})" if len(values) < seeds else "")
