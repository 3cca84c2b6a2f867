"""Figures of `g2rl-analyze geometry`: one cell in panels like the paper's Figure 3, and the
grid."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from g2rl.analysis.captions import conditions, truncation
from g2rl.analysis.figures.one_run import draw_cosines, plt
from g2rl.analysis.figures.style import save_figure
from g2rl.analysis.geometry.numbers import GRADIENT, SEMANTIC
from g2rl.analysis.geometry.report import cells, numbers_of, source
from g2rl.analysis.palette import PAIR_COLOURS
from g2rl.formulas.pairs import ALL_PAIRS, SHOWN_CLASSES

CLASS_COLOURS = {ALL_PAIRS: "#000000", **PAIR_COLOURS}
SHAPES = {GRADIENT: "o", SEMANTIC: "s"}
GREY = "0.35"
SLICES = 8  # of equal numbers of pairs along the semantic cosine
Tables = Mapping[str, pd.DataFrame]


def draw_geometry(
    tables: Tables, about: Mapping[str, Any], path: Path, columns: int = 4, heading: str = ""
) -> Path:
    """The first cell: cosines by pair class, their mean, negative pairs, and semantic beside
    gradient.

    Without an encoder the last panel is left out. `columns` panels stand side by side under the
    `heading`.
    """
    sampled_at, scored_at = cells(tables)[0]
    pairs = tables["pairs"].query("sampled_at == @sampled_at and scored_at == @scored_at")
    semantic = "semantic" in pairs
    figure, axes = panels(4 if semantic else 3, columns)
    draw_cosines(axes[0], pairs)
    axes[0].set(xlabel="gradient cosine of a pair", ylabel="density", xticks=[-1, -0.5, 0, 0.5, 1])
    axes[0].set_ylim(top=axes[0].get_ylim()[1] * 1.35)
    axes[0].legend(frameon=False, fontsize=8, loc="upper left")
    title(axes[0], "distribution over pairs")
    spaces = [GRADIENT, SEMANTIC] if semantic else [GRADIENT]
    mine = {space: numbers_of(tables, space, sampled_at, scored_at) for space in spaces}
    draw_classes(axes[1], mine, "mean_cosine")
    axes[1].axhline(0, color="0.7", lw=0.8, zorder=0)
    axes[1].set_ylabel("mean cosine")
    title(axes[1], "mean cosine")
    draw_classes(axes[2], {GRADIENT: mine[GRADIENT]}, "negative_ratio", percent=True)
    axes[2].axhline(50, color="0.7", lw=0.8, zorder=0)
    axes[2].set(ylabel="pairs with gradient cosine < 0, %", ylim=(0, 100))
    title(axes[2], "negative pairs")
    if semantic:
        draw_semantic(axes[3], pairs)
        axes[3].set(xlabel=f"semantic cosine ({about['encoder']})", ylabel="gradient cosine")
        value = mine[GRADIENT].set_index("metric")["value"]["semantic_spearman"]
        known = "" if np.isnan(value) else f", Spearman {value:+.2f}"
        title(axes[3], f"semantic beside gradient{known}")
    if heading:
        figure.suptitle(heading, fontsize=11)
    figure.supxlabel(
        f"{source(about)};{' ' if columns > 2 else chr(10)}{conditions(about, sampled_at, scored_at)}; "
        "bars: 95 % bootstrap over problems",
        fontsize=8,
        color=GREY,
    )
    return save_figure(figure, path)


def panels(count: int, columns: int) -> tuple[Any, list[Any]]:
    """A figure and its first `count` panels in rows of at most `columns`."""
    columns = min(count, columns)
    rows = -(-count // columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(4.25 * columns + (columns == 2), 4.4 * rows),
        layout="constrained",
        squeeze=False,
    )
    for axis in axes.flat[count:]:
        axis.remove()
    return figure, list(axes.flat[:count])


def draw_classes(
    axis: Any, spaces: Mapping[str, pd.DataFrame], metric: str, percent: bool = False
) -> None:
    """One point and interval a pair class and space."""
    scale = 100 if percent else 1
    for shift, (space, numbers) in enumerate(spaces.items()):
        rows = numbers[numbers["metric"] == metric].set_index("pair")
        offset = 0.0 if len(spaces) == 1 else (shift - 0.5) * 0.25
        for place, name in enumerate(SHOWN_CLASSES):
            if name not in rows.index:
                continue
            value, low, high = (
                scale * rows.loc[name, column] for column in ("value", "low", "high")
            )
            axis.errorbar(
                place + offset,
                value,
                [[value - low], [high - value]],
                fmt=SHAPES[space],
                ms=7,
                capsize=3,
                color=CLASS_COLOURS[name],
                mfc=CLASS_COLOURS[name] if space == GRADIENT else "white",
            )
            axis.annotate(
                f"{value:.0f}" if percent else f"{value:+.2f}",
                (place + offset, value),
                textcoords="offset points",
                xytext=(8, 0),
                va="center",
                fontsize=8,
            )
    if len(spaces) > 1:
        for space in spaces:
            axis.plot(
                [],
                [],
                SHAPES[space],
                color=GREY,
                mfc=GREY if space == GRADIENT else "white",
                label=space,
            )
        axis.legend(frameon=False, fontsize=8, loc="best")
    axis.set_xticks(
        range(len(SHOWN_CLASSES)), [name.replace("-", "-\n") for name in SHOWN_CLASSES], fontsize=8
    )
    axis.set_xlim(-0.5, len(SHOWN_CLASSES) - 0.3)


def draw_semantic(axis: Any, pairs: pd.DataFrame) -> None:
    """Every pair as a dot; black: mean gradient cosine in slices of equal numbers of pairs."""
    for name, colour in PAIR_COLOURS.items():
        mine = pairs[pairs["pair"] == name]
        axis.scatter(
            mine["semantic"], mine["cosine"], s=7, alpha=0.35, lw=0, color=colour, rasterized=True
        )
    order = pairs.sort_values("semantic", kind="stable")
    slices = [part for part in np.array_split(np.arange(len(order)), SLICES) if len(part)]
    means = [order.iloc[part][["semantic", "cosine"]].mean() for part in slices]
    axis.plot(
        [m["semantic"] for m in means],
        [m["cosine"] for m in means],
        "o-",
        color="black",
        lw=1.5,
        ms=4,
        label=f"mean of each {100 / SLICES:g} % of the pairs",
    )
    axis.axhline(0, color="0.7", lw=0.8, zorder=0)
    axis.set_ylim(-1.05, 1.3)
    axis.legend(frameon=False, fontsize=8, loc="upper left")


def draw_grid(tables: Tables, about: Mapping[str, Any], path: Path) -> Path:
    """Mean cosine and share of negative pairs over scoring temperatures, one line a sampling
    temperature."""
    places = cells(tables)
    sampled = list(dict.fromkeys(s for s, _ in places))
    palette = plt.get_cmap("viridis")(np.linspace(0, 0.85, len(sampled)))
    figure, axes = plt.subplots(
        2, 4, figsize=(15, 7), sharex=True, sharey="row", layout="constrained"
    )
    for line, (sampled_at, colour) in enumerate(zip(sampled, palette, strict=True)):
        scored = sorted(b for s, b in places if s == sampled_at)
        shift = (line - (len(sampled) - 1) / 2) * 0.012 * max(b for _, b in places)
        for row, (metric, scale) in enumerate((("mean_cosine", 1), ("negative_ratio", 100))):
            for axis, name in zip(axes[row], SHOWN_CLASSES, strict=True):
                points = [_point(tables, sampled_at, b, name, metric) for b in scored]
                found = [(b, *p) for b, p in zip(scored, points, strict=True) if p is not None]
                if found:
                    draw_line(
                        axis, np.array(found) * [1, scale, scale, scale], sampled_at, shift, colour
                    )
    for axis, name in zip(axes[0], SHOWN_CLASSES, strict=True):
        title(axis, f"{name} pairs")
        axis.axhline(0, color="0.7", lw=0.8, zorder=0)
    for axis in axes[1]:
        axis.axhline(50, color="0.7", lw=0.8, zorder=0)
        axis.set_xlabel("scoring temperature of p_t")
    axes[0, 0].set_ylabel("mean gradient cosine")
    axes[1, 0].set_ylabel("negative pairs, %")
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        title="sampled at temperature",
        ncols=len(sampled),
        frameon=False,
        loc="outside upper center",
    )
    figure.supxlabel(
        f"{source(about)}; {truncation(about['top_p'], about['top_k'])}; ringed: scored at the sampling "
        "temperature; bars: 95 % bootstrap over problems",
        fontsize=8,
        color=GREY,
    )
    return save_figure(figure, path)


def draw_line(axis: Any, points: np.ndarray, sampled_at: float, shift: float, colour: Any) -> None:
    """Columns scored_at, value, low, high: values with intervals; a ring where both temperatures
    agree."""
    x, value, low, high = points.T
    axis.errorbar(
        x + shift,
        value,
        [value - low, high - value],
        fmt="o-",
        ms=4,
        lw=1.4,
        capsize=2,
        color=colour,
        label=f"{sampled_at:g}",
    )
    same = np.isclose(x, sampled_at)
    axis.plot(x[same] + shift, value[same], "o", ms=11, mfc="none", mec=colour, mew=1.6)


def _point(
    tables: Tables, sampled_at: float, scored_at: float, name: str, metric: str
) -> tuple[float, ...] | None:
    """Value, low and high of one number; None where the class has no pair."""
    mine = numbers_of(tables, GRADIENT, sampled_at, scored_at)
    mine = mine[(mine["metric"] == metric) & (mine["pair"] == name)]
    return tuple(mine.iloc[0][["value", "low", "high"]]) if len(mine) else None


def title(axis: Any, text: str) -> None:
    """Small title, no box."""
    axis.set_title(text, fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)
