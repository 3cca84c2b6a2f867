"""Join finished runs into one table and one figure: one line a signal, bands over seeds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from g2rl.analysis.plots import plt, save_figure, tidy_axis
from g2rl.tracking import read_metrics

# Okabe-Ito, one colour a signal in every figure
SIGNAL_COLOURS = {"none": "#000000", "entropy": "#E69F00", "evol": "#0072B2", "g2rl": "#D55E00"}
OTHER_COLOURS = ("#009E73", "#CC79A7", "#56B4E9", "#F0E442")


def finals(runs: Mapping[str, Sequence[Path]], metrics: Sequence[str]) -> pd.DataFrame:
    """Value of each metric after training: columns label, seed number, metric, value.

    Args:
        runs: label of an arm to the folders of its runs, one a seed.

    Raises:
        FileNotFoundError: for a run that has not finished (no summary.json).
    """
    rows: list[dict[str, Any]] = []
    for label, folders in runs.items():
        for number, folder in enumerate(folders):
            summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
            for metric in metrics:
                row = {"label": label, "seed": number, "metric": metric}
                rows.append({**row, "before": summary["before"][metric], "after": summary["after"][metric]})
    return pd.DataFrame(rows)


def markdown_table(frame: pd.DataFrame, metrics: Mapping[str, str]) -> str:
    """Mean over seeds and, in brackets, each seed; one row an arm. `metrics`: name to heading."""
    lines = ["| signal | " + " | ".join(metrics.values()) + " |", "|---" * (len(metrics) + 1) + "|"]
    for label in frame["label"].unique():
        cells = []
        for metric in metrics:
            values = frame[(frame["label"] == label) & (frame["metric"] == metric)].sort_values("seed")[
                "after"
            ]
            cells.append(f"**{values.mean():.3f}** ({', '.join(f'{v:.3f}' for v in values)})")
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def curves(runs: Mapping[str, Sequence[Path]], metric: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Steps (S,) and values (seeds, S) of one metric for each arm, at the steps every seed reports."""
    found = {}
    for label, folders in runs.items():
        series = [
            {row["step"]: row[metric] for row in read_metrics(folder / "metrics.jsonl") if metric in row}
            for folder in folders
        ]
        steps = sorted(set.intersection(*(set(s) for s in series)))
        found[label] = (np.array(steps), np.array([[s[step] for step in steps] for s in series]))
    return found


def plot_arms(runs: Mapping[str, Sequence[Path]], panels: Mapping[str, tuple[str, str]], path: Path) -> Path:
    """One panel a metric (name to title and unit): mean over seeds, band from lowest to highest seed."""
    figure, axes = plt.subplots(
        1, len(panels), figsize=(4.2 * len(panels), 3.6), layout="constrained", squeeze=False
    )
    spare = iter(OTHER_COLOURS)
    colours = {label: SIGNAL_COLOURS.get(label) or next(spare) for label in runs}
    for axis, (metric, (title, unit)) in zip(axes[0], panels.items(), strict=True):
        for label, (steps, values) in curves(runs, metric).items():
            axis.plot(steps, values.mean(0), color=colours[label], label=label, lw=1.8, marker="o", ms=3)
            axis.fill_between(steps, values.min(0), values.max(0), color=colours[label], alpha=0.15, lw=0)
        tidy_axis(axis, title, unit)
    axes[0, 0].legend(frameon=False)
    return save_figure(figure, path)
