"""Tables of arms: what each run ends with, cells with intervals, and markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from g2rl.formulas.intervals import seed_interval

NOTHING = "-"
"""Cell of what was not measured."""


def at_end(frame: pd.DataFrame, metric: str, first: bool = False) -> pd.DataFrame:
    """The last (or first) value that each run reports of a metric: one row a run."""
    rows = frame[frame["metric"] == metric].sort_values(["arm", "seed", "step"])
    runs = rows.groupby(["arm", "seed"], sort=False)
    ends = runs.head(1) if first else runs.tail(1)
    return ends.reset_index(drop=True)


def comparison_rows(
    frame: pd.DataFrame, metrics: Mapping[str, str] | Sequence[str], first: bool = False
) -> list[list[str]]:
    """Cells of `comparison_table`, the headings first."""
    headings = metrics if isinstance(metrics, Mapping) else {name: name for name in metrics}
    ends = {metric: at_end(frame, metric, first) for metric in headings}

    rows = [["arm", "seeds", *headings.values()]]
    for arm in dict.fromkeys(frame["arm"]):
        seeds = frame.loc[frame["arm"] == arm, "seed"].nunique()
        row = [arm, str(seeds)]
        for end in ends.values():
            row.append(seeds_cell(end.loc[end["arm"] == arm, "value"].tolist(), seeds))
        rows.append(row)
    return rows


def comparison_table(
    frame: pd.DataFrame, metrics: Mapping[str, str] | Sequence[str], first: bool = False
) -> str:
    """Markdown: one row an arm, number of seeds, mean over seeds [95 % t-interval over seeds].

    With one seed there is no interval; an arm that does not report a metric shows "-".

    Args:
        frame: of `collect`.
        metrics: names, or names to headings.
        first: the first value of each run (before training) instead of the last.
    """
    return markdown(comparison_rows(frame, metrics, first))


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as a markdown table, the headings first."""
    return "\n".join(markdown_lines(rows))


def markdown_lines(rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of `markdown`."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines.insert(1, "|---" * len(rows[0]) + "|")
    return lines


def seeds_cell(values: Sequence[float], seeds: int, form: str = ".3f") -> str:
    """``0.490 [0.467, 0.513]``, ``0.490`` of one seed, ``-`` of none.

    Where only some of the arm's `seeds` report the metric, that is said: ``0.490 [0.467, 0.513] (2 of 3)``.

    Args:
        values: one a seed.
        seeds: of the arm.
        form: of the numbers; differences need signs, "+.3f".
    """
    if not values:
        return NOTHING
    mean, low, high = seed_interval(values)
    text = f"{mean:{form}}"
    if len(values) > 1:
        text += f" [{low:{form}}, {high:{form}}]"
    if len(values) < seeds:
        text += f" ({len(values)} of {seeds})"
    return text


def interval_cell(value: float | None, low: float | None, high: float | None) -> str:
    """``0.512 [0.431, 0.590]``; without bounds the value alone, ``-`` where nothing is defined."""
    if value is None:
        return NOTHING
    if low is None or high is None:
        return f"{value:.3f}"
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"
