"""Fidelity, one message a figure; `g2rl.analysis.figures.fidelity.draw` has all of it in one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from g2rl.analysis.fidelity.names import TOTAL, TRUE
from g2rl.analysis.fidelity.report import LABELS, cell, rows_of
from g2rl.analysis.figures.one_run import plt
from g2rl.analysis.figures.style import save_figure
from g2rl.analysis.palette import PAIR_COLOURS, SIGNAL_COLOURS

PHI, RIVAL = "#D55E00", "#0072B2"  # Okabe-Ito: the feature, and everything it is compared with

GREY = "0.35"
OVER = "Spearman correlation with the true cosine (line: 95 % interval over problems)"


def draw_scatter(pairs: pd.DataFrame, summary: Mapping[str, Any], path: Path) -> Path:
    """Every pair: cosine of Phi across, cosine of true gradients up."""
    figure, axis = plt.subplots(figsize=(7, 5.4), layout="constrained")
    row, true, phi = rows_of(summary)["phi"], summary["true_cosine"], summary["phi_cosine"]
    scatter_panel(axis, pairs, row)
    axis.set_title(
        f"Φ against truth: Spearman {row['spearman']['value']:.2f}, Pearson {row['pearson']['value']:.2f};\n"
        f"standard deviation of true cosines {true['sd']:.2f}, of Φ cosines {phi['sd']:.2f}",
        fontsize=11,
    )
    return finish(figure, summary["caption"], path)


def draw_predictors(summary: Mapping[str, Any], path: Path) -> Path:
    """Spearman correlation of each predictor with the true cosine, the best on top."""
    found = {name: row["spearman"] for name, row in rows_of(summary).items()}
    ordered = sorted(found, key=lambda name: found[name]["value"] or 0.0)
    figure, axis = plt.subplots(figsize=(8, 0.42 * len(found) + 1.8), layout="constrained")
    colours = [PHI if name == "phi" else RIVAL for name in ordered]
    bars_panel(axis, {LABELS[name]: found[name] for name in ordered}, colours)
    best, second = ordered[-1], ordered[-2]
    axis.set_title(
        f"best predictor of the true cosine: {LABELS[best]}, {cell(found[best])};\n"
        f"next: {LABELS[second]}, {cell(found[second])}",
        fontsize=11,
    )
    axis.set_xlabel(OVER)
    return finish(figure, summary["caption"], path)


def draw_blocks(summary: Mapping[str, Any], path: Path) -> Path:
    """Spearman correlation of Phi with the cosine of one block's gradient, the embedding on top."""
    targets = dict.fromkeys(
        row["target"] for row in summary["correlations"]
    )  # in the order of the model
    blocks = [name for name in targets if name in summary["blocks"]][::-1]
    found = {name: rows_of(summary, name)["phi"]["spearman"] for name in blocks}
    named = {
        f"{name} ({summary['blocks'][name]['gradient_share']:.0%})": value
        for name, value in found.items()
    }
    figure, axis = plt.subplots(figsize=(8, 0.42 * len(blocks) + 1.8), layout="constrained")
    bars_panel(axis, named, [PHI] * len(blocks))
    known = {name: value["value"] for name, value in found.items() if value["value"] is not None}
    low, high = min(known, key=known.__getitem__), max(known, key=known.__getitem__)
    axis.set_title(
        f"Φ against the gradient of one block: {known[low]:.2f} ({low}) to {known[high]:.2f} ({high})",
        fontsize=11,
    )
    axis.set_xlabel(
        "Spearman correlation with the cosine of the block's gradients\n"
        "(line: 95 % interval over problems; in brackets: the block's share of the squared gradient norm)"
    )
    return finish(figure, summary["caption"], path)


def draw_policies(summaries: Mapping[str, Mapping[str, Any]], path: Path) -> Path:
    """Spearman correlation of Phi with the true cosine in several policies, the first on top.

    Args:
        summaries: by policy; a signal's policy has its colour, others are grey.
    """
    found = {
        name: rows_of(one)["phi"]["spearman"] for name, one in reversed(list(summaries.items()))
    }
    figure, axis = plt.subplots(figsize=(8, 0.42 * len(found) + 1.8), layout="constrained")
    for place, (name, one) in enumerate(found.items()):
        if one["value"] is not None:
            colour = SIGNAL_COLOURS.get(name.split(" ")[-1], "0.5")
            axis.plot([one["low"], one["high"]], [place, place], color=colour, lw=2)
            axis.plot(one["value"], place, "D", ms=7, color=colour)
    axis.set_yticks(range(len(found)), list(found))
    axis.set(
        xlim=(min([0, *(one["low"] or 0 for one in found.values())]), 1),
        ylim=(-0.6, len(found) - 0.4),
    )
    axis.spines[["top", "right"]].set_visible(False)
    known = [one["value"] for one in found.values() if one["value"] is not None]
    axis.set_title(
        f"Φ against the true cosine in {len(known)} policies: {min(known):.2f} to {max(known):.2f}",
        fontsize=11,
    )
    axis.set_xlabel(OVER)
    said = {
        one["caption"].partition(", ")[2] for one in summaries.values()
    }  # without the policy's name
    return finish(figure, " | ".join(sorted(said)), path)


def finish(figure: Any, caption: str, path: Path) -> Path:
    """Caption below, in lines that fit."""
    figure.supxlabel(caption.replace("; ", ";\n", 1), fontsize=8, color=GREY)
    return save_figure(figure, path)


def draw(pairs: pd.DataFrame, summary: Mapping[str, Any], caption: str, path: Path) -> Path:
    """Scatter of Phi against true cosine, Spearman of every predictor, and of Phi by block of
    parameters."""
    figure, axes = plt.subplots(
        1, 3, figsize=(14, 4.8), layout="constrained", width_ratios=(1.15, 1, 1)
    )
    scatter_panel(axes[0], pairs, rows_of(summary)["phi"])
    found = rows_of(summary)
    ordered = sorted(found, key=lambda name: found[name]["spearman"]["value"] or 0.0)
    bars = {LABELS[name]: found[name]["spearman"] for name in ordered}
    bars_panel(axes[1], bars, [PHI if name == "phi" else RIVAL for name in ordered])
    axes[1].set_title("which similarity predicts the true cosine", fontsize=10)
    blocks = list(reversed(summary["blocks"]))
    by_block = {name: rows_of(summary, name)["phi"]["spearman"] for name in blocks}
    bars_panel(axes[2], by_block, [PHI] * len(blocks))
    axes[2].set_title("Φ against the gradient of one block only", fontsize=10)
    axes[2].set_yticks(
        range(len(blocks)),
        [f"{name} ({summary['blocks'][name]['gradient_share']:.0%})" for name in blocks],
        fontsize=9 if len(blocks) < 15 else 6,
    )
    axes[2].set_xlabel(
        "Spearman correlation with the block's cosine\n(in brackets: its share of the squared norm)"
    )
    figure.supxlabel(caption, fontsize=8, color="0.35")
    return save_figure(figure, path)


def scatter_panel(axis: Any, pairs: pd.DataFrame, row: Mapping[str, Any]) -> None:
    """Phi against true cosine, one dot a pair; `row` holds their correlations, see `rows_of`."""
    size = 9 if len(pairs) > 300 else 26
    for name, colour in PAIR_COLOURS.items():
        chosen = pairs[pairs["pair"] == name]
        if len(chosen):
            axis.scatter(
                chosen["phi"],
                chosen[TRUE + TOTAL],
                s=size,
                alpha=0.5,
                lw=0,
                color=colour,
                label=f"{name} ({len(chosen)})",
            )
    axis.axline((0, 0), slope=1, color="0.6", lw=0.8, ls="--", label="equal")
    axis.axhline(0, color="0.85", lw=0.8, zorder=0)
    axis.axvline(0, color="0.85", lw=0.8, zorder=0)
    axis.set_xticks([-1, -0.5, 0, 0.5, 1])
    axis.set_xlabel("cosine of gradient features Φ")
    axis.set_ylabel("cosine of true gradients, all parameters")
    axis.set_title(
        f"pairs of responses to one problem: Pearson {row['pearson']['value']:.2f}, "
        f"Spearman {row['spearman']['value']:.2f}",
        fontsize=10,
    )
    legend = axis.legend(frameon=False, fontsize=8, loc="upper left")
    for handle in legend.legend_handles[:-1]:
        handle.set_alpha(1)
        handle.set_sizes([24])
    axis.spines[["top", "right"]].set_visible(False)


def bars_panel(axis: Any, values: Mapping[str, Mapping[str, Any]], colours: list[str]) -> None:
    """Horizontal bars with their intervals; what is undefined has none."""
    for place, (interval, colour) in enumerate(zip(values.values(), colours, strict=True)):
        if interval["value"] is None:
            axis.text(0.0, place, " undefined", va="center", fontsize=8)
            continue
        axis.barh(place, interval["value"], height=0.65, color=colour, alpha=0.75, lw=0)
        if interval["low"] is not None:
            axis.plot([interval["low"], interval["high"]], [place, place], color="black", lw=1.2)
    axis.axvline(0, color="0.4", lw=0.8)
    axis.set_yticks(range(len(values)), list(values), fontsize=9)
    axis.set_ylim(-0.6, len(values) - 0.4)
    axis.set_xlabel(
        "Spearman correlation with the true cosine\n(line: 95 % interval over problems)"
    )
    axis.spines[["top", "right"]].set_visible(False)
