"""Tables of numbers with intervals: the cells, the rows of several arms, and markdown."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence

import pandas as pd

from g2rl.formulas.intervals import seed_interval
from g2rl.runs.metric_columns import METRICS
from g2rl.runs.terminal import Part

NOTHING = "-"
"""Cell of what was not measured."""


def markdown(rows: Sequence[Sequence[str]], right_aligned: Collection[str] = ()) -> str:
    """Rows of cells as a markdown table, the headings first.

    Args:
        right_aligned: headings of the columns whose cells stand at the right.
    """
    headings, *body = rows

    # a table without a heading above its first column starts with "| |"
    lines = [f"| {' | '.join(headings).lstrip()} |"]

    # markdown's line under the headings
    rules = ["---:" if heading in right_aligned else "---" for heading in headings]
    lines.append(f"|{'|'.join(rules)}|")

    lines += [f"| {' | '.join(cells)} |" for cells in body]
    return "\n".join(lines)


def page(parts: Sequence[Part]) -> str:
    """Paragraphs and tables as one text of markdown."""
    texts: list[str] = []
    for part in parts:
        texts.append(part if isinstance(part, str) else markdown(part))
    return "\n\n".join(texts)


def interval_cell(
    value: float | None,
    low: float | None,
    high: float | None,
    form: str = ".3f",
    undefined: str = NOTHING,
) -> str:
    """``0.512 [0.431, 0.590]``; without bounds the value alone. None and NaN are undefined.

    Args:
        form: format of each number, e.g. "+.3f" where the sign matters.
        undefined: the text of an undefined value.
    """
    # None in files, NaN in data frames
    if value is None or math.isnan(value):
        return undefined
    if low is None or high is None or math.isnan(low):
        return f"{value:{form}}"
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"


def seeds_cell(
    values: Sequence[float], seeds: int, form: str = ".3f", is_share: bool = False
) -> str:
    """Mean over seeds with its 95 % t-interval; no interval for one value, ``-`` for none.

    Where only some of the arm's seeds report the metric, the cell says so: ``0.490 [0.467, 0.513]
    (2 of 3)``.

    Args:
        values: one a seed that reports the metric.
        seeds: how many the arm has.
        form: format of each number, e.g. "+.3f" for differences.
        is_share: whether values lie between 0 and 1, where their interval then ends.
    """
    if not values:
        return NOTHING

    # a mean over fewer seeds than those of other metrics is marked
    text = interval_cell(*seed_interval(values, is_share=is_share), form)
    if len(values) < seeds:
        text += f" ({len(values)} of {seeds})"
    return text


def is_share(metric: str) -> bool:
    """Whether the values of a metric lie between 0 and 1."""
    # a bake-off stores metrics without the name of the benchmark
    if re.fullmatch(r"(hard/)?(pass|maj|mean)@\d+", metric):
        return True

    # quantities of pairs have names of their own in files of geometry and in pages
    place, _, quantity = metric.rpartition("/")
    if place in ("", "geometry"):
        metric = f"probe/{quantity}"
    column = METRICS.column(metric)
    return column is not None and column.unit == "share"


def at_end(frame: pd.DataFrame, metric: str, first: bool = False) -> pd.DataFrame:
    """The last (or first) value of a metric that each run reports: one row a run.

    Args:
        frame: long, of `g2rl.analysis.comparison.runs.collect`.
    """
    # runs report some metrics at some steps only
    rows = frame[frame["metric"] == metric].sort_values(["arm", "seed", "step"])
    runs = rows.groupby(["arm", "seed"], sort=False)
    ends = runs.head(1) if first else runs.tail(1)
    return ends.reset_index(drop=True)


def comparison_rows(
    frame: pd.DataFrame, metrics: Mapping[str, str] | Sequence[str], first: bool = False
) -> list[list[str]]:
    """Cells of `comparison_table`, the headings first."""
    headings = metrics if isinstance(metrics, Mapping) else {name: name for name in metrics}

    # once a metric, not once a metric and arm
    ends = {metric: at_end(frame, metric, first) for metric in headings}

    rows = [["arm", "seeds", *headings.values()]]
    for arm in dict.fromkeys(frame["arm"]):
        seeds = frame.loc[frame["arm"] == arm, "seed"].nunique()
        row = [arm, str(seeds)]
        for metric, end in ends.items():
            values = end.loc[end["arm"] == arm, "value"].tolist()
            row.append(seeds_cell(values, seeds, is_share=is_share(metric)))
        rows.append(row)
    return rows


def comparison_table(
    frame: pd.DataFrame, metrics: Mapping[str, str] | Sequence[str], first: bool = False
) -> str:
    """Markdown: one row an arm with its number of seeds and mean over seeds [95 % t-interval].

    With one seed there is no interval; an arm that does not report a metric shows "-".

    Args:
        frame: long, of `g2rl.analysis.comparison.runs.collect`.
        metrics: names, or names to headings.
        first: the first value of each run (before training) instead of the last.
    """
    return markdown(comparison_rows(frame, metrics, first))
