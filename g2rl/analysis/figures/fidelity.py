"""Fidelity, one message a figure; `g2rl.analysis.fidelity.report.draw` has all of it in one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from g2rl.analysis.comparison.runs import SIGNAL_COLOURS
from g2rl.analysis.fidelity.report import LABELS, PHI, RIVAL, bars_panel, cell, rows_of, scatter_panel
from g2rl.analysis.figures.one_run import plt, save_figure

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
    targets = dict.fromkeys(row["target"] for row in summary["correlations"])  # in the order of the model
    blocks = [name for name in targets if name in summary["blocks"]][::-1]
    found = {name: rows_of(summary, name)["phi"]["spearman"] for name in blocks}
    named = {
        f"{name} ({summary['blocks'][name]['gradient_share']:.0%})": value for name, value in found.items()
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
    found = {name: rows_of(one)["phi"]["spearman"] for name, one in reversed(list(summaries.items()))}
    figure, axis = plt.subplots(figsize=(8, 0.42 * len(found) + 1.8), layout="constrained")
    for place, (name, one) in enumerate(found.items()):
        if one["value"] is not None:
            colour = SIGNAL_COLOURS.get(name.split(" ")[-1], "0.5")
            axis.plot([one["low"], one["high"]], [place, place], color=colour, lw=2)
            axis.plot(one["value"], place, "D", ms=7, color=colour)
    axis.set_yticks(range(len(found)), list(found))
    axis.set(xlim=(min([0, *(one["low"] or 0 for one in found.values())]), 1), ylim=(-0.6, len(found) - 0.4))
    axis.spines[["top", "right"]].set_visible(False)
    known = [one["value"] for one in found.values() if one["value"] is not None]
    axis.set_title(
        f"Φ against the true cosine in {len(known)} policies: {min(known):.2f} to {max(known):.2f}",
        fontsize=11,
    )
    axis.set_xlabel(OVER)
    said = {one["caption"].partition(", ")[2] for one in summaries.values()}  # without the policy's name
    return finish(figure, " | ".join(sorted(said)), path)


def finish(figure: Any, caption: str, path: Path) -> Path:
    """Caption below, in lines that fit."""
    figure.supxlabel(caption.replace("; ", ";\n", 1), fontsize=8, color=GREY)
    return save_figure(figure, path)
