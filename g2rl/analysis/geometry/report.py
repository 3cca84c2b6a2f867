"""The numbers of `g2rl-analyze geometry` as JSON, markdown and a terminal table; its captions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd
from rich import box
from rich.table import Table

from g2rl.analysis.captions import conditions
from g2rl.analysis.geometry.numbers import ALL, GRADIENT, SEMANTIC
from g2rl.analysis.geometry.strategies import OTHER, distinct_interval, style_shares
from g2rl.formulas.diversity import BINS
from g2rl.formulas.estimators import Interval, bootstrap_interval

CLASSES = (ALL, "correct-correct", "correct-wrong", "wrong-wrong")
LABELS = {
    "mean_cosine": ("mean cosine", "+.3f"),
    "negative_ratio": ("negative pairs, share", ".3f"),
    "near_orthogonal_ratio": ("pairs with |cos| < {threshold:g}, share", ".3f"),
    "histogram_entropy": (f"histogram entropy, nats ({BINS} bins)", ".2f"),
    "effective_rank": ("effective rank", ".2f"),
    "participation_ratio": ("participation ratio", ".2f"),
    "vendi_score": ("Vendi score", ".2f"),
    "semantic_pearson": ("correlation with semantic cosine (Pearson)", "+.2f"),
    "semantic_spearman": ("correlation with semantic cosine (Spearman)", "+.2f"),
}
Tables = Mapping[str, pd.DataFrame]


def cells(tables: Tables) -> list[tuple[float, float]]:
    """Sampling and scoring temperature of each cell, in the order in which they were measured."""
    keys = tables["responses"][["sampled_at", "scored_at"]].drop_duplicates()
    return [(float(a), float(b)) for a, b in keys.itertuples(index=False)]


def source(about: Mapping[str, Any]) -> str:
    """Model, problems, number of responses and their budget."""
    return (
        f"{about['model']} on {about['benchmark']}: {about['problems']} problems x {about['responses']} "
        f"responses of up to {about['max_tokens']} tokens"
    )


def samples_of(tables: Tables, sampled_at: float, scored_at: float) -> pd.DataFrame:
    """The responses of one cell."""
    frame = tables["responses"]
    return frame[(frame["sampled_at"] == sampled_at) & (frame["scored_at"] == scored_at)]


def numbers_of(tables: Tables, space: str, sampled_at: float, scored_at: float) -> pd.DataFrame:
    """The numbers of one cell in one space; those of embeddings know no scoring temperature."""
    frame = tables["numbers"]
    mine = (frame["space"] == space) & (frame["sampled_at"] == sampled_at)
    return frame[mine & (frame["scored_at"] == scored_at)] if space == GRADIENT else frame[mine]


def sample_facts(responses: pd.DataFrame) -> dict[str, Interval]:
    """What the responses of one cell are like, each with its interval over problems."""
    each = responses.groupby("problem", sort=False)
    facts = {
        "accuracy": bootstrap_interval(each["correct"].mean().to_numpy()),
        "distinct_right_answers": distinct_interval(responses),
        "tokens": bootstrap_interval(each["tokens"].mean().to_numpy()),
        "entropy": bootstrap_interval(each["entropy"].mean().to_numpy()),
    }
    cut = (responses["finish"] == "length").groupby(responses["problem"], sort=False).mean()
    return {**facts, "cut_off": bootstrap_interval(cut.to_numpy())}


def summary(tables: Tables, about: Mapping[str, Any]) -> dict[str, Any]:
    """Everything as plain data; null stands for what is not defined."""
    found = []
    for sampled_at, scored_at in cells(tables):
        responses = samples_of(tables, sampled_at, scored_at)
        gradient = numbers_of(tables, GRADIENT, sampled_at, scored_at)
        semantic = numbers_of(tables, SEMANTIC, sampled_at, scored_at)
        zeros = tables["groups"].query(
            "space == @GRADIENT and sampled_at == @sampled_at and scored_at == @scored_at"
        )
        found.append(
            {
                "sampled_at": sampled_at,
                "scored_at": scored_at,
                "caption": f"{source(about)}; {conditions(about, sampled_at, scored_at)}",
                "zero_features": int(zeros["zero_features"].sum()),
                "responses": {k: v._asdict() for k, v in sample_facts(responses).items()},
                "strategies": _records(style_shares(responses)) if has_styles(responses) else None,
                "gradient": _records(gradient),
                "semantic": _records(semantic) or None,
            }
        )
    return {"settings": dict(about), "histogram_bins": BINS, "cells": found}


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    plain = frame.drop(columns=["space", "sampled_at", "scored_at"], errors="ignore").to_dict(
        "records"
    )
    return [
        {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}
        for row in plain
    ]


def has_styles(responses: pd.DataFrame) -> bool:
    """Whether the responses are in the tiny policy's four strategies."""
    return bool((responses["style"] != OTHER).mean() > 0.5)


def lines(
    tables: Tables, about: Mapping[str, Any], sampled_at: float, scored_at: float
) -> Iterator[list[str]]:
    """Rows of one cell's table: a name and one text a pair class."""
    for space in (GRADIENT, SEMANTIC):
        mine = numbers_of(tables, space, sampled_at, scored_at)
        for metric in [m for m in LABELS if m in set(mine["metric"])]:
            label, form = LABELS[metric]
            rows = mine[mine["metric"] == metric].set_index("pair")
            texts = [_text(rows.loc[name], form) if name in rows.index else "" for name in CLASSES]
            yield [f"{space}: {label.format(threshold=about['near_orthogonal'])}", *texts]


def _text(row: Any, form: str) -> str:
    if math.isnan(row["value"]):
        return "undefined"
    bounds = "" if math.isnan(row["low"]) else f" [{row['low']:{form}}, {row['high']:{form}}]"
    return f"{row['value']:{form}}{bounds}"


def sentences(tables: Tables, sampled_at: float, scored_at: float) -> list[str]:
    """Pairs in each class, accuracy, length, entropy, solutions and strategies of one cell."""
    responses = samples_of(tables, sampled_at, scored_at)
    gradient = numbers_of(tables, GRADIENT, sampled_at, scored_at).query("metric == 'mean_cosine'")
    pairs = ", ".join(
        f"{r['pair']} {r['pairs']} in {r['problems']} problems" for _, r in gradient.iterrows()
    )
    facts = sample_facts(responses)
    said = [
        f"Pairs: {pairs}.",
        f"Accuracy {_interval(facts['accuracy'], '.3f')}; distinct right answers a problem "
        f"{_interval(facts['distinct_right_answers'], '.2f')}; {_interval(facts['tokens'], '.1f')} tokens; "
        f"entropy {_interval(facts['entropy'], '.3f')} nats; {facts['cut_off'].value:.1%} cut at the limit.",
    ]
    if has_styles(responses):
        shares = style_shares(responses)
        said.append(
            "Strategies: "
            + ", ".join(
                f"{r['style']} {_interval(Interval(r['value'], r['low'], r['high']), '.2f')}"
                for _, r in shares.iterrows()
            )
            + "."
        )
    return said


def headline(tables: Tables) -> str:
    """The first cell in two lines: mean cosine and negative pairs of all pairs; mean cosine by
    class."""
    mine = numbers_of(tables, GRADIENT, *cells(tables)[0]).set_index(["metric", "pair"])["value"]
    means = mine["mean_cosine"]
    classes = ", ".join(
        f"{name} {means[name]:+.2f}" for name in CLASSES if name != ALL and name in means
    )
    return (
        f"mean cosine {means[ALL]:+.2f} over all pairs, {mine['negative_ratio'][ALL]:.0%} negative;\n"
        f"mean of {classes}"
    )


def _interval(interval: Interval, form: str) -> str:
    return f"{interval.value:{form}} [{interval.low:{form}}, {interval.high:{form}}]"


def markdown(tables: Tables, about: Mapping[str, Any]) -> str:
    """One table a cell, each under its caption."""
    parts = [
        "# Geometry of responses",
        "",
        f"{source(about)}. 95 % bootstrap intervals over problems.",
        "",
    ]
    for sampled_at, scored_at in cells(tables):
        parts += [f"## {conditions(about, sampled_at, scored_at)}", ""]
        parts += ["| | " + " | ".join(CLASSES) + " |", "|---" * (len(CLASSES) + 1) + "|"]
        parts += [
            "| " + " | ".join(row).replace("|cos|", "\\|cos\\|") + " |"
            for row in lines(tables, about, sampled_at, scored_at)
        ]
        parts += ["", *(f"{sentence}" for sentence in sentences(tables, sampled_at, scored_at)), ""]
    if about["encoder"]:
        parts += [f"Semantic: embeddings of {about['encoder']}."]
    return "\n".join(parts).rstrip() + "\n"


def cell_table(tables: Tables, about: Mapping[str, Any]) -> Table:
    """The terminal's table: every number of a single cell; of a grid, cosine and negative pairs of
    each."""
    table = Table(
        title=f"{source(about)}, 95 % bootstrap intervals over problems",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("")
    for name in CLASSES:
        table.add_column(name, justify="right")
    several = len(cells(tables)) > 1
    for sampled_at, scored_at in cells(tables):
        table.add_row(conditions(about, sampled_at, scored_at), style="bold")
        for row in lines(tables, about, sampled_at, scored_at):
            if not several or row[0] in (
                f"{GRADIENT}: mean cosine",
                f"{GRADIENT}: negative pairs, share",
            ):
                table.add_row(row[0], *(text.replace(" [", "\n\\[") for text in row[1:]))
    return table
