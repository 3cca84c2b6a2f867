"""Fidelity: one message a figure for notebooks, and `draw` with all of them in one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from g2rl.analysis.fidelity.names import TOTAL, TRUE
from g2rl.analysis.fidelity.records import (
    CorrelationRow,
    FidelitySummary,
    IntervalRecord,
    StoredSummary,
)
from g2rl.analysis.fidelity.report import LABELS, cell, rows_of
from g2rl.analysis.figures.style import caption_below, level_line, open_axis, plt, save_figure
from g2rl.analysis.palette import PAIR_COLOURS, SIGNAL_COLOURS

PHI, RIVAL = "#D55E00", "#0072B2"  # Okabe-Ito: the feature, and everything it is compared with
OVER_PROBLEMS = "Spearman correlation with the true cosine (line: 95 % interval over problems)"


def draw_scatter(pairs: pd.DataFrame, summary: StoredSummary, path: Path) -> Path:
    """Every pair: cosine of Phi across, cosine of true gradients up."""
    figure, axis = plt.subplots(figsize=(7, 5.4), layout="constrained")

    # one dot a pair
    row = rows_of(summary)["phi"]
    scatter_panel(axis, pairs, row)
    axis.set_title(
        f"Φ against truth: Spearman {row['spearman']['value']:.2f}, "
        f"Pearson {row['pearson']['value']:.2f};\n"
        f"standard deviation of true cosines {summary['true_cosine']['sd']:.2f}, "
        f"of Φ cosines {summary['phi_cosine']['sd']:.2f}",
        fontsize=11,
    )
    return finish(figure, summary["caption"], path)


def draw_predictors(summary: StoredSummary, path: Path) -> Path:
    """Spearman correlation of each predictor with the true cosine, the best on top."""
    # one bar a predictor
    spearman = _spearman_of_predictors(summary)
    figure, axis = plt.subplots(figsize=(8, 0.42 * len(spearman) + 1.8), layout="constrained")
    predictor_bars(axis, spearman)

    # bars are drawn from below
    names = list(spearman)
    best, second = names[-1], names[-2]
    axis.set_title(
        f"best predictor of the true cosine: {LABELS[best]}, {cell(spearman[best])};\n"
        f"next: {LABELS[second]}, {cell(spearman[second])}",
        fontsize=11,
    )
    axis.set_xlabel(OVER_PROBLEMS)
    return finish(figure, summary["caption"], path)


def draw_blocks(summary: StoredSummary, path: Path) -> Path:
    """Spearman correlation of Phi with the cosine of one block's gradient, the embedding on top."""
    # blocks in the order of the model: the file sorts the keys of "blocks"
    targets = dict.fromkeys(row["target"] for row in summary["correlations"])
    blocks = [name for name in targets if name in summary["blocks"]]
    blocks.reverse()

    # one bar a block, with its share of the gradient
    spearman = {name: rows_of(summary, name)["phi"]["spearman"] for name in blocks}
    bars = {_block_with_share(summary, name): spearman[name] for name in blocks}
    figure, axis = plt.subplots(figsize=(8, 0.42 * len(blocks) + 1.8), layout="constrained")
    bars_panel(axis, bars, [PHI] * len(blocks))

    # the message: from the worst block to the best
    known = {name: one["value"] for name, one in spearman.items() if one["value"] is not None}
    low, high = min(known, key=known.__getitem__), max(known, key=known.__getitem__)
    axis.set_title(
        f"Φ against the gradient of one block: {known[low]:.2f} ({low}) "
        f"to {known[high]:.2f} ({high})",
        fontsize=11,
    )
    axis.set_xlabel(
        "Spearman correlation with the cosine of the block's gradients\n"
        "(line: 95 % interval over problems; "
        "in brackets: the block's share of the squared gradient norm)"
    )
    return finish(figure, summary["caption"], path)


def draw_policies(summaries: Mapping[str, StoredSummary], path: Path) -> Path:
    """Spearman correlation of Phi with the true cosine in several policies, the first on top.

    Args:
        summaries: by policy; a signal's policy has its colour, others are grey.
    """
    # marks are drawn from below, so the last policy comes first
    spearman: dict[str, IntervalRecord] = {}
    for name in reversed(list(summaries)):
        spearman[name] = rows_of(summaries[name])["phi"]["spearman"]

    figure, axis = plt.subplots(figsize=(8, 0.42 * len(spearman) + 1.8), layout="constrained")
    for place, (name, interval) in enumerate(spearman.items()):
        if interval["value"] is not None:
            colour = SIGNAL_COLOURS.get(name.split(" ")[-1], "0.5")
            axis.plot([interval["low"], interval["high"]], [place, place], color=colour, lw=2)
            axis.plot(interval["value"], place, "D", ms=7, color=colour)
    leftmost = min([0, *(interval["low"] or 0 for interval in spearman.values())])
    axis.set_yticks(range(len(spearman)), list(spearman))
    axis.set(xlim=(leftmost, 1), ylim=(-0.6, len(spearman) - 0.4))
    open_axis(axis)

    # the message: the range over policies
    known = [one["value"] for one in spearman.values() if one["value"] is not None]
    axis.set_title(
        f"Φ against the true cosine in {len(known)} policies: {min(known):.2f} to {max(known):.2f}",
        fontsize=11,
    )
    axis.set_xlabel(OVER_PROBLEMS)

    # captions begin with the policy, which stands at the axis
    captions = {summary["caption"].partition(", ")[2] for summary in summaries.values()}
    return finish(figure, " | ".join(sorted(captions)), path)


def finish(figure: Any, caption: str, path: Path) -> Path:
    """Caption below, in lines that fit; save."""
    caption_below(figure, caption.replace("; ", ";\n", 1))
    return save_figure(figure, path)


def draw(pairs: pd.DataFrame, summary: FidelitySummary, caption: str, path: Path) -> Path:
    """Scatter of Phi against true cosine, Spearman of every predictor, and of Phi by block of
    parameters."""
    figure, axes = plt.subplots(
        1, 3, figsize=(14, 4.8), layout="constrained", width_ratios=(1.15, 1, 1)
    )

    # every pair, and every predictor
    scatter_panel(axes[0], pairs, rows_of(summary)["phi"])
    predictor_bars(axes[1], _spearman_of_predictors(summary))
    axes[1].set_title("which similarity predicts the true cosine", fontsize=10)

    # blocks, the first on top
    blocks = list(reversed(summary["blocks"]))
    by_block = {name: rows_of(summary, name)["phi"]["spearman"] for name in blocks}
    bars_panel(axes[2], by_block, [PHI] * len(blocks))
    axes[2].set_title("Φ against the gradient of one block only", fontsize=10)
    axes[2].set_yticks(
        range(len(blocks)),
        [_block_with_share(summary, name) for name in blocks],
        fontsize=9 if len(blocks) < 15 else 6,
    )
    axes[2].set_xlabel(
        "Spearman correlation with the block's cosine\n(in brackets: its share of the squared norm)"
    )
    caption_below(figure, caption)
    return save_figure(figure, path)


def _spearman_of_predictors(summary: FidelitySummary) -> dict[str, IntervalRecord]:
    """Spearman correlation of each predictor with the true cosine, the best last."""
    # undefined correlations stand where zero would
    spearman = {name: row["spearman"] for name, row in rows_of(summary).items()}
    ordered = sorted(spearman, key=lambda name: spearman[name]["value"] or 0.0)
    return {name: spearman[name] for name in ordered}


def _block_with_share(summary: FidelitySummary, name: str) -> str:
    """``head (12%)``: a block and its share of the squared gradient norm."""
    return f"{name} ({summary['blocks'][name]['gradient_share']:.0%})"


def scatter_panel(axis: Any, pairs: pd.DataFrame, row: CorrelationRow) -> None:
    """Phi against true cosine, one dot a pair; `row` holds their correlations, see `rows_of`."""
    # many dots must be small
    size = 9 if len(pairs) > 300 else 26
    for name, colour in PAIR_COLOURS.items():
        of_class = pairs[pairs["pair"] == name]
        if of_class.empty:
            continue
        axis.scatter(
            of_class["phi"],
            of_class[TRUE + TOTAL],
            s=size,
            alpha=0.5,
            lw=0,
            color=colour,
            label=f"{name} ({len(of_class)})",
        )

    # where both are equal, and where they are zero
    axis.axline((0, 0), slope=1, color="0.6", lw=0.8, ls="--", label="equal")
    level_line(axis, 0, color="0.85")
    axis.axvline(0, color="0.85", lw=0.8, zorder=0)

    axis.set_xticks([-1, -0.5, 0, 0.5, 1])
    axis.set_xlabel("cosine of gradient features Φ")
    axis.set_ylabel("cosine of true gradients, all parameters")
    axis.set_title(
        f"pairs of responses to one problem: Pearson {row['pearson']['value']:.2f}, "
        f"Spearman {row['spearman']['value']:.2f}",
        fontsize=10,
    )

    # dots of the legend are whole and of one size, whatever the panel's are
    legend = axis.legend(frameon=False, fontsize=8, loc="upper left")
    for handle in legend.legend_handles[:-1]:
        handle.set_alpha(1)
        handle.set_sizes([24])
    open_axis(axis)


def predictor_bars(axis: Any, spearman: Mapping[str, IntervalRecord]) -> None:
    """A bar a predictor, from below; that of Phi in its own colour."""
    # the feature against everything it is compared with
    colours = [PHI if name == "phi" else RIVAL for name in spearman]
    bars_panel(axis, {LABELS[name]: interval for name, interval in spearman.items()}, colours)


def bars_panel(axis: Any, values: Mapping[str, IntervalRecord], colours: list[str]) -> None:
    """Horizontal bars with their intervals, from below; undefined values have none."""
    for place, (interval, colour) in enumerate(zip(values.values(), colours, strict=True)):
        # no bar at all would read as a correlation of 0
        if interval["value"] is None:
            axis.text(0.0, place, " undefined", va="center", fontsize=8)
            continue
        axis.barh(place, interval["value"], height=0.65, color=colour, alpha=0.75, lw=0)
        if interval["low"] is not None:
            axis.plot([interval["low"], interval["high"]], [place, place], color="black", lw=1.2)

    # labels stand beside the bars, in the same order
    axis.axvline(0, color="0.4", lw=0.8)
    axis.set_yticks(range(len(values)), list(values), fontsize=9)
    axis.set_ylim(-0.6, len(values) - 0.4)
    axis.set_xlabel(
        "Spearman correlation with the true cosine\n(line: 95 % interval over problems)"
    )
    open_axis(axis)
