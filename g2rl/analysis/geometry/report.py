"""The numbers of `g2rl-analyze geometry` as JSON, in markdown and as a table on the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pandas as pd

from g2rl.analysis.captions import conditions
from g2rl.analysis.geometry.records import (
    GRADIENT,
    SEMANTIC,
    CellSummary,
    GeometrySettings,
    GeometrySummary,
)
from g2rl.analysis.geometry.strategies import OTHER, distinct_interval, style_shares
from g2rl.analysis.tables import interval_cell
from g2rl.analysis.tables import markdown as markdown_table
from g2rl.formulas.diversity import BINS
from g2rl.formulas.estimators import Interval, bootstrap_interval
from g2rl.formulas.pairs import ALL_PAIRS, SHOWN_CLASSES
from g2rl.runs.terminal import Part

LABELS = {
    "mean_cosine": ("mean cosine", "+.3f"),
    "mean_cosine_distinct": ("mean cosine of different responses", "+.3f"),
    "negative_ratio": ("negative pairs, share", ".3f"),
    "negative_distinct": ("negative pairs among different responses, share", ".3f"),
    "identical_ratio": ("identical pairs, share", ".3f"),
    "identity_ratio": ("identity ratio (0 expected at equal temperatures, untruncated)", "+.3f"),
    "near_orthogonal_ratio": ("pairs with |cos| < {threshold:g}, share", ".3f"),
    "histogram_entropy": (f"histogram entropy, nats ({BINS} bins)", ".2f"),
    "effective_rank": ("effective rank", ".2f"),
    "participation_ratio": ("participation ratio", ".2f"),
    "vendi_score": ("Vendi score", ".2f"),
    "semantic_pearson": ("correlation with semantic cosine (Pearson)", "+.2f"),
    "semantic_spearman": ("correlation with semantic cosine (Spearman)", "+.2f"),
}
"""Label of each number, and its format."""
IN_A_GRID = ("mean_cosine", "mean_cosine_distinct", "negative_ratio", "identity_ratio")
"""The numbers of a grid of cells that the terminal shows."""
Tables = Mapping[str, pd.DataFrame]
"""pairs, responses, numbers and, for `summary`, groups: of `Geometry.tables` or `read_geometry`."""


class Cell(NamedTuple):
    """The temperatures of one cell."""

    sampled_at: float
    scored_at: float


# reading the tables


def cells(tables: Tables) -> list[Cell]:
    """Sampling and scoring temperature of each cell, in the order in which they were measured."""
    # the table of responses tells which cells there are: every cell has some
    temperatures = tables["responses"][["sampled_at", "scored_at"]].drop_duplicates()
    return [Cell(float(a), float(b)) for a, b in temperatures.itertuples(index=False)]


def samples_of(tables: Tables, sampled_at: float, scored_at: float) -> pd.DataFrame:
    """The responses of one cell."""
    # exact comparison: both temperatures were written from the same settings
    frame = tables["responses"]
    return frame[(frame["sampled_at"] == sampled_at) & (frame["scored_at"] == scored_at)]


def numbers_of(tables: Tables, space: str, sampled_at: float, scored_at: float) -> pd.DataFrame:
    """The numbers of one cell in one space; those of embeddings know no scoring temperature."""
    frame = tables["numbers"]
    of_set = frame[(frame["space"] == space) & (frame["sampled_at"] == sampled_at)]
    if space == GRADIENT:
        return of_set[of_set["scored_at"] == scored_at]
    return of_set


def sample_facts(responses: pd.DataFrame) -> dict[str, Interval]:
    """What the responses of one cell are like, each with its interval over problems."""
    # means over the responses of a problem, intervals over problems
    by_problem = responses.groupby("problem", sort=False)
    cut_off = (responses["finish"] == "length").groupby(responses["problem"], sort=False)
    return {
        "accuracy": bootstrap_interval(by_problem["correct"].mean().to_numpy()),
        "distinct_right_answers": distinct_interval(responses),
        "tokens": bootstrap_interval(by_problem["tokens"].mean().to_numpy()),
        "entropy": bootstrap_interval(by_problem["entropy"].mean().to_numpy()),
        "cut_off": bootstrap_interval(cut_off.mean().to_numpy()),
    }


def has_styles(responses: pd.DataFrame) -> bool:
    """Whether most responses follow one of the tiny policy's four strategies."""
    return bool((responses["style"] != OTHER).mean() > 0.5)


# as JSON


def summary(tables: Tables, about: GeometrySettings) -> GeometrySummary:
    """Everything as plain data; None stands for what is undefined."""
    summaries = [_cell_summary(tables, about, cell) for cell in cells(tables)]
    return {"settings": about, "histogram_bins": BINS, "cells": summaries}


def _cell_summary(tables: Tables, about: GeometrySettings, cell: Cell) -> CellSummary:
    responses = samples_of(tables, *cell)

    # the responses themselves
    facts = {name: interval._asdict() for name, interval in sample_facts(responses).items()}

    # responses whose feature is zero have no direction, and cosine 0 to all
    groups = tables["groups"]
    of_cell = (
        (groups["space"] == GRADIENT)
        & (groups["sampled_at"] == cell.sampled_at)
        & (groups["scored_at"] == cell.scored_at)
    )
    return {
        "sampled_at": cell.sampled_at,
        "scored_at": cell.scored_at,
        "caption": f"{source(about)}; {conditions(about, *cell)}",
        "zero_features": int(groups.loc[of_cell, "zero_features"].sum()),
        "responses": facts,
        "strategies": _records(style_shares(responses)) if has_styles(responses) else None,
        "gradient": _records(numbers_of(tables, GRADIENT, *cell)),
        "semantic": _records(numbers_of(tables, SEMANTIC, *cell)) or None,
    }


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as plain data, without the columns that are the same in the whole cell."""
    # the cell's summary names the temperatures once
    varying = frame.drop(columns=["space", "sampled_at", "scored_at"], errors="ignore")
    records = []
    for row in varying.to_dict("records"):
        record = {}
        for name, value in row.items():
            # JSON has no NaN
            undefined = isinstance(value, float) and math.isnan(value)
            record[name] = None if undefined else value
        records.append(record)
    return records


# as text


def source(about: GeometrySettings) -> str:
    """Model, problems, number of responses and their budget."""
    return (
        f"{about['model']} on {about['benchmark']}: {about['problems']} problems x "
        f"{about['responses']} responses of up to {about['max_tokens']} tokens"
    )


def lines(tables: Tables, about: GeometrySettings, cell: Cell) -> Iterator[list[str]]:
    """Rows of one cell's table: a name and one text a pair class."""
    for space in (GRADIENT, SEMANTIC):
        # without an encoder there are no semantic numbers
        of_space = numbers_of(tables, space, *cell)
        measured = set(of_space["metric"])
        for metric, (label, form) in LABELS.items():
            if metric not in measured:
                continue

            # a text a class; empty where the class has no pair
            of_metric = of_space[of_space["metric"] == metric].set_index("pair")
            row = [f"{space}: {label.format(threshold=about['near_orthogonal'])}"]
            for name in SHOWN_CLASSES:
                if name in of_metric.index:
                    value, low, high = of_metric.loc[name, ["value", "low", "high"]]
                    row.append(interval_cell(value, low, high, form, undefined="undefined"))
                else:
                    row.append("")
            yield row


def sentences(tables: Tables, cell: Cell) -> list[str]:
    """Pairs in each class, accuracy, length, entropy, solutions and strategies of one cell."""
    # pairs
    gradient = numbers_of(tables, GRADIENT, *cell).query("metric == 'mean_cosine'")
    counts = []
    for _, row in gradient.iterrows():
        counts.append(f"{row['pair']} {row['pairs']} in {row['problems']} problems")
    texts = [f"Pairs: {', '.join(counts)}."]

    # responses
    responses = samples_of(tables, *cell)
    facts = sample_facts(responses)
    texts.append(
        f"Accuracy {interval_cell(*facts['accuracy'])}; distinct right answers a problem "
        f"{interval_cell(*facts['distinct_right_answers'], '.2f')}; "
        f"{interval_cell(*facts['tokens'], '.1f')} tokens; "
        f"entropy {interval_cell(*facts['entropy'])} nats; "
        f"{facts['cut_off'].value:.1%} cut at the limit."
    )

    # strategies
    if has_styles(responses):
        shares = []
        for _, row in style_shares(responses).iterrows():
            interval = interval_cell(row["value"], row["low"], row["high"], ".2f")
            shares.append(f"{row['style']} {interval}")
        texts.append(f"Strategies: {', '.join(shares)}.")
    return texts


def identity_caption(tables: Tables, cell: Cell) -> str:
    """Identity ratio and share of identical pairs of one cell, for captions; "" where unknown."""
    numbers = numbers_of(tables, GRADIENT, *cell)
    all_pairs = numbers[numbers["pair"] == ALL_PAIRS].set_index("metric")

    # a number that was not measured is left out of the caption
    parts: list[str] = []
    for metric, label in (("identity_ratio", "identity ratio"), ("identical_ratio", "identical")):
        if metric in all_pairs.index:
            value, low, high = all_pairs.loc[metric, ["value", "low", "high"]]
            parts.append(f"{label} {value:.2f} [{low:.2f}, {high:.2f}]")
    return f"; {', '.join(parts)} of all pairs" if parts else ""


def headline(tables: Tables) -> str:
    """The first cell in two lines: mean cosine and negative pairs of all pairs; mean cosine by
    class."""
    # the first cell by metric and class
    numbers = numbers_of(tables, GRADIENT, *cells(tables)[0])
    value_of = numbers.set_index(["metric", "pair"])["value"]
    means = value_of["mean_cosine"]

    by_class = []
    for name in SHOWN_CLASSES:
        if name != ALL_PAIRS and name in means:
            by_class.append(f"{name} {means[name]:+.2f}")
    return (
        f"mean cosine {means[ALL_PAIRS]:+.2f} over all pairs, "
        f"{value_of['negative_ratio'][ALL_PAIRS]:.0%} negative;\n"
        f"mean of {', '.join(by_class)}"
    )


def markdown(tables: Tables, about: GeometrySettings) -> str:
    """One table a cell, each under its caption."""
    sections = [
        "# Geometry of responses",
        f"{source(about)}. 95 % bootstrap intervals over problems.",
    ]
    for cell in cells(tables):
        # markdown would take the bars of |cos| for the end of a cell
        rows = [["", *SHOWN_CLASSES], *lines(tables, about, cell)]
        sections += [
            f"## {conditions(about, *cell)}",
            markdown_table(rows).replace("|cos|", "\\|cos\\|"),
            "\n".join(sentences(tables, cell)),
        ]
    if about["encoder"]:
        sections.append(f"Semantic: embeddings of {about['encoder']}.")
    return "\n\n".join(sections) + "\n"


def cell_parts(tables: Tables, about: GeometrySettings) -> list[Part]:
    """What the terminal shows: every number of a single cell, or `IN_A_GRID` for each of a grid."""
    # a grid of all numbers would fill screens
    in_a_grid = {f"{GRADIENT}: {LABELS[metric][0]}" for metric in IN_A_GRID}
    is_grid = len(cells(tables)) > 1
    parts: list[Part] = [f"{source(about)}, 95 % bootstrap intervals over problems"]
    for cell in cells(tables):
        # one column a class
        rows = [["", *SHOWN_CLASSES]]
        for label, *texts in lines(tables, about, cell):
            if label in in_a_grid or not is_grid:
                rows.append([label, *texts])
        parts += [f"**{conditions(about, *cell)}**", rows]
    return parts
