"""Figures of `g2rl-analyze geometry`: one cell in panels like the paper's Figure 3, and the
grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from g2rl.analysis.captions import conditions, truncation
from g2rl.analysis.figures.one_run import draw_cosines
from g2rl.analysis.figures.style import (
    GREY,
    caption_below,
    level_line,
    open_axis,
    plt,
    save_figure,
)
from g2rl.analysis.geometry.records import GRADIENT, SEMANTIC, GeometrySettings
from g2rl.analysis.geometry.report import Tables, cells, identity_caption, numbers_of, source
from g2rl.analysis.palette import PAIR_COLOURS
from g2rl.formulas.pairs import ALL_PAIRS, SHOWN_CLASSES

CLASS_COLOURS = {ALL_PAIRS: "#000000", **PAIR_COLOURS}
SHAPES = {GRADIENT: "o", SEMANTIC: "s"}
SLICES = 8  # of equal numbers of pairs along the semantic cosine


# one cell


def draw_geometry(
    tables: Tables, about: GeometrySettings, path: Path, columns: int = 4, heading: str = ""
) -> Path:
    """The first cell: cosines by pair class, their mean, negative pairs, and semantic beside
    gradient.

    Args:
        tables, about: of `Geometry.tables` and the command, or of
            `g2rl.analysis.stored.read_geometry`. Without an encoder the last panel is left out.
        columns: panels side by side.
        heading: title of the figure.
    """
    # the pairs and numbers of that cell
    cell = cells(tables)[0]
    pairs = tables["pairs"]
    pairs = pairs[(pairs["sampled_at"] == cell.sampled_at) & (pairs["scored_at"] == cell.scored_at)]
    numbers = {GRADIENT: numbers_of(tables, GRADIENT, *cell)}
    has_semantic = "semantic" in pairs
    if has_semantic:
        numbers[SEMANTIC] = numbers_of(tables, SEMANTIC, *cell)

    # three panels of gradient cosines, one beside semantic ones
    figure, axes = panels(4 if has_semantic else 3, columns)
    draw_distribution(axes[0], pairs)
    draw_means(axes[1], numbers)
    draw_negative(axes[2], numbers[GRADIENT])
    if has_semantic:
        draw_semantic(axes[3], pairs)
        _name_semantic(axes[3], numbers[GRADIENT], about)

    # a caption under two columns breaks after its source
    if heading:
        figure.suptitle(heading, fontsize=11)
    gap = " " if columns > 2 else "\n"
    caption_below(
        figure,
        f"{source(about)};{gap}{conditions(about, *cell)}; bars: 95 % bootstrap over problems"
        f"{identity_caption(tables, cell)}",
    )
    return save_figure(figure, path)


def panels(count: int, columns: int) -> tuple[Any, list[Any]]:
    """A figure and its first `count` panels in rows of at most `columns`."""
    # panels of one size, two columns a little wider
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


def draw_distribution(axis: Any, pairs: pd.DataFrame) -> None:
    """Histogram of gradient cosines by pair class, with room for its legend."""
    # the legend stands above the curves
    draw_cosines(axis, pairs)
    axis.set(xlabel="gradient cosine of a pair", ylabel="density", xticks=[-1, -0.5, 0, 0.5, 1])
    axis.set_ylim(top=axis.get_ylim()[1] * 1.35)
    axis.legend(frameon=False, fontsize=8, loc="upper left")
    title(axis, "distribution over pairs")


def draw_means(axis: Any, numbers: Mapping[str, pd.DataFrame]) -> None:
    """Mean cosine by pair class in each space."""
    draw_classes(axis, numbers, "mean_cosine")
    level_line(axis, 0)
    axis.set_ylabel("mean cosine")
    title(axis, "mean cosine")


def draw_negative(axis: Any, numbers: pd.DataFrame) -> None:
    """Share of negative gradient cosines by pair class."""
    draw_classes(axis, {GRADIENT: numbers}, "negative_ratio", percent=True)
    level_line(axis, 50)
    axis.set(ylabel="pairs with gradient cosine < 0, %", ylim=(0, 100))
    title(axis, "negative pairs")


def draw_classes(
    axis: Any, spaces: Mapping[str, pd.DataFrame], metric: str, percent: bool = False
) -> None:
    """One point and interval a pair class and space.

    Args:
        spaces: the numbers of each space, of `numbers_of`.
    """
    # of two spaces one stands left, the other right of a class's place
    scale = 100 if percent else 1
    for shift, (space, numbers) in enumerate(spaces.items()):
        of_metric = numbers[numbers["metric"] == metric].set_index("pair")
        offset = 0.0 if len(spaces) == 1 else (shift - 0.5) * 0.25
        for place, name in enumerate(SHOWN_CLASSES):
            if name not in of_metric.index:
                continue
            value, low, high = (
                scale * of_metric.loc[name, column] for column in ("value", "low", "high")
            )

            # filled for gradient features, hollow for embeddings
            colour = CLASS_COLOURS[name]
            axis.errorbar(
                place + offset,
                value,
                [[value - low], [high - value]],
                fmt=SHAPES[space],
                ms=7,
                capsize=3,
                color=colour,
                mfc=colour if space == GRADIENT else "white",
            )

            # the number beside its point
            axis.annotate(
                f"{value:.0f}" if percent else f"{value:+.2f}",
                (place + offset, value),
                textcoords="offset points",
                xytext=(8, 0),
                va="center",
                fontsize=8,
            )

    # the legend tells spaces apart by shape, in no class's colour
    if len(spaces) > 1:
        for space in spaces:
            filling = GREY if space == GRADIENT else "white"
            axis.plot([], [], SHAPES[space], color=GREY, mfc=filling, label=space)
        axis.legend(frameon=False, fontsize=8, loc="best")

    # long names break at the hyphen
    names = [name.replace("-", "-\n") for name in SHOWN_CLASSES]
    axis.set_xticks(range(len(names)), names, fontsize=8)
    axis.set_xlim(-0.5, len(names) - 0.3)


def draw_semantic(axis: Any, pairs: pd.DataFrame) -> None:
    """Every pair as a dot; black: mean gradient cosine in slices of equal numbers of pairs."""
    for name, colour in PAIR_COLOURS.items():
        # thousands of dots: drawn as pixels, and thin
        of_class = pairs[pairs["pair"] == name]
        axis.scatter(
            of_class["semantic"],
            of_class["cosine"],
            s=7,
            alpha=0.35,
            lw=0,
            color=colour,
            rasterized=True,
        )

    # means along the semantic cosine
    ordered = pairs.sort_values("semantic", kind="stable")
    semantic_means, cosine_means = [], []
    for rows in np.array_split(np.arange(len(ordered)), SLICES):
        if len(rows):
            means = ordered.iloc[rows][["semantic", "cosine"]].mean()
            semantic_means.append(means["semantic"])
            cosine_means.append(means["cosine"])
    axis.plot(
        semantic_means,
        cosine_means,
        "o-",
        color="black",
        lw=1.5,
        ms=4,
        label=f"mean of each {100 / SLICES:g} % of the pairs",
    )

    # room for the legend above the dots
    level_line(axis, 0)
    axis.set_ylim(-1.05, 1.3)
    axis.legend(frameon=False, fontsize=8, loc="upper left")


def _name_semantic(axis: Any, numbers: pd.DataFrame, about: GeometrySettings) -> None:
    """Labels and title of the panel of `draw_semantic`."""
    axis.set(xlabel=f"semantic cosine ({about['encoder']})", ylabel="gradient cosine")

    # undefined where all pairs have one cosine
    correlation = numbers.set_index("metric")["value"]["semantic_spearman"]
    text = "" if np.isnan(correlation) else f", Spearman {correlation:+.2f}"
    title(axis, f"semantic beside gradient{text}")


# the grid of temperatures


def draw_grid(tables: Tables, about: GeometrySettings, path: Path) -> Path:
    """Mean cosine and share of negative pairs over scoring temperatures, one line a sampling
    temperature."""
    # one line a sampling temperature, dark to light
    places = cells(tables)
    sampled = list(dict.fromkeys(cell.sampled_at for cell in places))
    hottest = max(cell.scored_at for cell in places)
    colours = plt.get_cmap("viridis")(np.linspace(0, 0.85, len(sampled)))
    figure, axes = plt.subplots(
        2, 4, figsize=(15, 7), sharex=True, sharey="row", layout="constrained"
    )

    # a row a metric, a column a class; lines a little apart, so that their bars do not cover
    for number, (sampled_at, colour) in enumerate(zip(sampled, colours, strict=True)):
        scored = sorted(cell.scored_at for cell in places if cell.sampled_at == sampled_at)
        shift = (number - (len(sampled) - 1) / 2) * 0.012 * hottest
        for row, (metric, scale) in zip(
            axes, (("mean_cosine", 1), ("negative_ratio", 100)), strict=True
        ):
            for axis, name in zip(row, SHOWN_CLASSES, strict=True):
                points = _points(tables, sampled_at, scored, name, metric)
                if points:
                    points_B4 = np.array(points) * [1, scale, scale, scale]
                    draw_line(axis, points_B4, sampled_at, shift, colour)

    _name_grid(axes)

    # one legend for all panels
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        title="sampled at temperature",
        ncols=len(sampled),
        frameon=False,
        loc="outside upper center",
    )
    caption_below(
        figure,
        f"{source(about)}; {truncation(about['top_p'], about['top_k'])}; "
        "ringed: scored at the sampling temperature; bars: 95 % bootstrap over problems"
        f"{grid_identity(tables)}",
    )
    return save_figure(figure, path)


def grid_identity(tables: Tables) -> str:
    """Identity ratio and identical pairs of each cell scored at its sampling temperature."""
    lines = []
    for cell in cells(tables):
        text = identity_caption(tables, cell)
        if text and np.isclose(cell.sampled_at, cell.scored_at):
            lines.append(f"\nat {cell.sampled_at:g}: {text.removeprefix('; ')}")
    return "".join(lines)


def _name_grid(axes: Any) -> None:
    """Titles, units and the expected levels of the grid's panels."""
    # above: cosines, of which 0 is the level of independent directions
    for axis, name in zip(axes[0], SHOWN_CLASSES, strict=True):
        title(axis, f"{name} pairs")
        level_line(axis, 0)

    # below: shares of negative pairs, of which half is that level
    for axis in axes[1]:
        level_line(axis, 50)
        axis.set_xlabel("scoring temperature of p_t")
    axes[0, 0].set_ylabel("mean gradient cosine")
    axes[1, 0].set_ylabel("negative pairs, %")
    for axis in axes.flat:
        open_axis(axis)


def draw_line(
    axis: Any, points_B4: np.ndarray, sampled_at: float, shift: float, colour: Any
) -> None:
    """Values with intervals; a ring where both temperatures agree.

    Args:
        points_B4: columns scored_at, value, low, high.
        shift: moves the line to the right.
    """
    x, value, low, high = points_B4.T
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

    # where both temperatures agree the inner product of sums is zero in expectation
    same = np.isclose(x, sampled_at)
    axis.plot(x[same] + shift, value[same], "o", ms=11, mfc="none", mec=colour, mew=1.6)


def _points(
    tables: Tables, sampled_at: float, scored: Sequence[float], name: str, metric: str
) -> list[tuple[float, ...]]:
    """scored_at, value, low and high of one number; nothing where the class has no pair."""
    points = []
    for scored_at in scored:
        # a class may have pairs at one sampling temperature only
        numbers = numbers_of(tables, GRADIENT, sampled_at, scored_at)
        rows = numbers[(numbers["metric"] == metric) & (numbers["pair"] == name)]
        if len(rows):
            points.append((scored_at, *rows.iloc[0][["value", "low", "high"]]))
    return points


def title(axis: Any, text: str) -> None:
    """Small title, no box."""
    axis.set_title(text, fontsize=10)
    open_axis(axis)
