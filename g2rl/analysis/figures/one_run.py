"""Figures of one run: learning curves, and the distribution of gradient cosines before and
after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from g2rl.analysis.captions import probe_caption, probe_identity
from g2rl.analysis.figures.style import caption_below, plt, save_figure, tidy_axis
from g2rl.analysis.palette import CURVE_COLOURS, PAIR_COLOURS
from g2rl.runs.layout import RunFolder
from g2rl.runs.tracking import read_metrics

TRAIN_PANELS = (
    ("train/accuracy", "training accuracy", "share of responses"),
    ("train/length", "response length", "tokens"),
    ("train/entropy", "token entropy", "nats"),
)


def plot_run(run_dir: Path, benchmarks: Sequence[str]) -> list[Path]:
    """Write learning_curves.png and, where both probes exist, cosine_distribution.png."""
    paths = [learning_curves(run_dir, benchmarks)]

    # a run that stopped early has one probe only
    probes = list(RunFolder(run_dir).table_files("probe").values())
    if len(probes) >= 2:
        paths.append(cosine_distribution(run_dir, probes[0], probes[-1]))
    return paths


def learning_curves(run_dir: Path, benchmarks: Sequence[str]) -> Path:
    """Held-out accuracy, training accuracy, response length and token entropy against the step."""
    # four panels
    rows = read_metrics(RunFolder(run_dir).metrics)
    figure, axes = plt.subplots(2, 2, figsize=(9, 6), layout="constrained")

    # held-out accuracy, a line a benchmark or a metric
    held_out = axes[0, 0]
    for place, (metric, label) in enumerate(held_out_curves(rows[0], benchmarks).items()):
        steps, values = _curve(rows, metric)
        colour = CURVE_COLOURS[place % len(CURVE_COLOURS)]
        held_out.plot(steps, values, marker="o", ms=4, label=label, color=colour)
    title = f"held-out {benchmarks[0]}" if len(benchmarks) == 1 else "held-out pass@1"
    tidy_axis(held_out, title, "share of problems")
    held_out.set_ylim(0, 1)
    held_out.legend(frameon=False, ncols=3, fontsize=8, loc="lower center")  # below the curves

    # training
    for axis, (metric, title, unit) in zip(axes.flat[1:], TRAIN_PANELS, strict=True):
        steps, values = _curve(rows, metric)
        if steps:
            axis.plot(steps, values, color="#0072B2")
        tidy_axis(axis, title, unit)
    return save_figure(figure, RunFolder(run_dir).learning_curves)


def _curve(rows: Sequence[Mapping[str, float]], metric: str) -> tuple[list[float], list[float]]:
    """Steps that report a metric, and its values there."""
    # held-out metrics are of some steps only
    reported = [row for row in rows if metric in row]
    return [row["step"] for row in reported], [row[metric] for row in reported]


def held_out_curves(row: Mapping[str, float], benchmarks: Sequence[str]) -> dict[str, str]:
    """Metrics to draw and their labels: pass@1 of each of several benchmarks, or what one measures.

    Of one benchmark with more accuracies than colours, only pass@1 and those of the largest k are
    drawn.
    """
    # several benchmarks share the panel
    if len(benchmarks) > 1:
        return {f"eval/{name}/pass@1": name for name in benchmarks}

    # accuracies are the metrics with an interval
    prefix = f"eval/{benchmarks[0]}/"
    labels: dict[str, str] = {}
    for metric in row:
        if metric.startswith(prefix) and f"{metric}_low" in row:
            labels[metric] = metric.removeprefix(prefix)
    if len(labels) <= len(CURVE_COLOURS):
        return labels

    # too many for the colours: the first and the last k
    largest = max(int(label.partition("@")[2]) for label in labels.values())
    drawn = ("pass@1", f"pass@{largest}", f"maj@{largest}")
    return {metric: label for metric, label in labels.items() if label in drawn}


def cosine_distribution(run_dir: Path, before: Path, after: Path) -> Path:
    """Cosines between gradient features of responses to the same problem, by pair class.

    Args:
        before, after: probe files of the run.
    """
    figure, axes = plt.subplots(
        1, 2, figsize=(10, 4), sharex=True, sharey=True, layout="constrained"
    )
    times = {"before training": before, "after training": after}
    for axis, (time, path) in zip(axes, times.items(), strict=True):
        pairs = pd.read_parquet(path)
        draw_cosines(axis, pairs)
        mean, negative = pairs["cosine"].mean(), (pairs["cosine"] < 0).mean()
        tidy_axis(axis, f"{time}: mean {mean:+.3f}, {negative:.0%} negative", "density")
        axis.set_xlabel("cosine of gradient features, pairs of one group")

        # room for the legend above the bars
        axis.legend(frameon=False, fontsize=8, loc="upper left")
        axis.set_ylim(top=axis.get_ylim()[1] * 1.15)

    # the probe's settings are those of every step
    rows = [row for row in read_metrics(RunFolder(run_dir).metrics) if "probe/cosine" in row]
    texts = [probe_caption(rows[0])]
    for time, row in (("before", rows[0]), ("after", rows[-1])):
        if probe_identity(row):
            texts.append(f"{time}: {probe_identity(row)}")
    caption_below(figure, "; ".join(texts))
    return save_figure(figure, RunFolder(run_dir).cosine_distribution)


def draw_cosines(axis: Any, pairs: pd.DataFrame) -> None:
    """Histogram of the column `cosine` by pair class, with the number of pairs and their mean."""
    for name, colour in PAIR_COLOURS.items():
        # densities: classes have different numbers of pairs
        cosines = pairs.loc[pairs["pair"] == name, "cosine"]
        if cosines.empty:
            continue
        axis.hist(
            cosines,
            bins=20,
            range=(-1, 1),
            density=True,
            histtype="step",
            lw=1.8,
            color=colour,
            label=f"{name} ({len(cosines)}), mean {cosines.mean():+.3f}",
        )
    axis.axvline(0, color="0.7", lw=0.8, zorder=0)
