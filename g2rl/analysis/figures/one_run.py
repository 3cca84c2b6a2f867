"""Figures of one run: learning curves, and the distribution of gradient cosines before and
after."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

# files only, so no display is needed; a notebook's inline figures must keep working beside them
if "inline" not in os.environ.get("MPLBACKEND", ""):
    matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd

from g2rl.analysis.captions import probe_caption
from g2rl.analysis.figures.style import save_figure, tidy_axis
from g2rl.analysis.palette import CURVE_COLOURS, PAIR_COLOURS
from g2rl.runs.tracking import read_metrics

TRAIN_PANELS = (
    ("train/accuracy", "training accuracy", "share of responses"),
    ("train/length", "response length", "tokens"),
    ("train/entropy", "token entropy", "nats"),
)


def plot_run(run_dir: Path, benchmarks: Sequence[str]) -> list[Path]:
    """Write learning_curves.png and, where both probes exist, cosine_distribution.png."""
    paths = [learning_curves(run_dir, benchmarks)]
    probes = sorted((run_dir / "probe").glob("step_*.parquet"))
    if len(probes) >= 2:
        paths.append(cosine_distribution(run_dir, probes[0], probes[-1]))
    return paths


def learning_curves(run_dir: Path, benchmarks: Sequence[str]) -> Path:
    """Held-out accuracy, training accuracy, response length and token entropy against the step."""
    rows = read_metrics(run_dir / "metrics.jsonl")
    figure, axes = plt.subplots(2, 2, figsize=(9, 6), layout="constrained")
    for place, (key, label) in enumerate(held_out_curves(rows[0], benchmarks).items()):
        points = [(row["step"], row[key]) for row in rows if key in row]
        colour = CURVE_COLOURS[place % len(CURVE_COLOURS)]
        axes[0, 0].plot(*zip(*points, strict=True), marker="o", ms=4, label=label, color=colour)
    one = f"held-out {benchmarks[0]}" if len(benchmarks) == 1 else "held-out pass@1"
    tidy_axis(axes[0, 0], one, "share of problems")
    axes[0, 0].set_ylim(0, 1)
    axes[0, 0].legend(frameon=False, ncols=3, fontsize=8, loc="lower center")  # below the curves
    for axis, (key, title, unit) in zip(axes.flat[1:], TRAIN_PANELS, strict=True):
        points = [(row["step"], row[key]) for row in rows if key in row]
        if points:
            axis.plot(*zip(*points, strict=True), color="#0072B2")
        tidy_axis(axis, title, unit)
    return save_figure(figure, run_dir / "learning_curves.png")


def held_out_curves(row: Mapping[str, float], benchmarks: Sequence[str]) -> dict[str, str]:
    """Metrics to draw and their labels: pass@1 of each of several benchmarks, or what one measures.

    Of one benchmark with more accuracies than colours, only pass@1 and those of the largest k are
    drawn.
    """
    if len(benchmarks) > 1:
        return {f"eval/{name}/pass@1": name for name in benchmarks}
    prefix = f"eval/{benchmarks[0]}/"
    found = {k: k.removeprefix(prefix) for k in row if k.startswith(prefix) and f"{k}_low" in row}
    if len(found) > len(CURVE_COLOURS):
        largest = max(int(label.partition("@")[2]) for label in found.values())
        found = {
            k: v for k, v in found.items() if v in ("pass@1", f"pass@{largest}", f"maj@{largest}")
        }
    return found


def cosine_distribution(run_dir: Path, before: Path, after: Path) -> Path:
    """Cosines between gradient features of responses to the same problem, by pair class."""
    figure, axes = plt.subplots(
        1, 2, figsize=(10, 4), sharex=True, sharey=True, layout="constrained"
    )
    for axis, path, title in zip(
        axes, (before, after), ("before training", "after training"), strict=True
    ):
        pairs = pd.read_parquet(path)
        draw_cosines(axis, pairs)
        negative = (pairs["cosine"] < 0).mean()
        tidy_axis(
            axis, f"{title}: mean {pairs['cosine'].mean():+.3f}, {negative:.0%} negative", "density"
        )
        axis.set_xlabel("cosine of gradient features, pairs of one group")
        axis.legend(frameon=False, fontsize=8, loc="upper left")
        axis.set_ylim(top=axis.get_ylim()[1] * 1.15)
    figure.supxlabel(
        probe_caption(read_metrics(run_dir / "metrics.jsonl")[0]), fontsize=8, color="0.35"
    )
    return save_figure(figure, run_dir / "cosine_distribution.png")


def draw_cosines(axis: Any, pairs: pd.DataFrame) -> None:
    """Histogram of the column `cosine` by pair class, with the number of pairs and their mean."""
    for name, colour in PAIR_COLOURS.items():
        chosen = pairs.loc[pairs["pair"] == name, "cosine"]
        if len(chosen):
            axis.hist(
                chosen,
                bins=20,
                range=(-1, 1),
                density=True,
                histtype="step",
                lw=1.8,
                color=colour,
                label=f"{name} ({len(chosen)}), mean {chosen.mean():+.3f}",
            )
    axis.axvline(0, color="0.7", lw=0.8, zorder=0)
