"""Several arms over training: mean over seeds as a line, 95 % t-interval over seeds as a band.

A metric of every step is averaged over blocks of steps first: each step draws other problems, and
their noise would hide the arms.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.colors import to_rgb

from g2rl.analysis.comparison.runs import GEOMETRY_PREFIX
from g2rl.analysis.figures.style import caption_below, level_line, plt, save_figure, tidy_axis
from g2rl.analysis.palette import OTHER_COLOURS, SIGNAL_COLOURS
from g2rl.analysis.tables import is_share
from g2rl.formulas.intervals import t_quantile, within_share
from g2rl.formulas.pairs import ALL_PAIRS, SHOWN_CLASSES, metric_suffix

Colour = tuple[float, ...]
Panels = Mapping[str, tuple[str, str]]
"""Metric to title and unit."""
TRAINING = {
    "train/accuracy": ("training accuracy", "share of responses"),
    "train/length": ("response length in training", "tokens"),
    "train/entropy": ("token entropy in training", "nats"),
}
HELD_OUT = 4  # panels of benchmarks
FEW = 3  # with fewer seeds a t-interval is so wide that it would flatten every line
POINTS = 12  # of a line at most; more steps are averaged in blocks


class Curve(NamedTuple):
    """One arm's metric, (S,) each; low and high are NaN for one seed."""

    steps: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    seeds: int
    block: int
    """Steps that each point is the mean of; the point stands at their middle."""


def curve(frame: pd.DataFrame, arm: str, metric: str) -> Curve | None:
    """Mean and 95 % t-interval over seeds of the steps that all seeds report; None where there is
    none.

    Each point has its own interval: a band is no statement about the whole curve at once.
    """
    # without the steps that a seed lacks: its absence would shift the mean
    rows = frame[(frame["arm"] == arm) & (frame["metric"] == metric)]
    shared = rows.pivot(index="step", columns="seed", values="value").dropna()
    if shared.empty:
        return None

    # means over blocks of steps
    block = -(-len(shared) // POINTS)
    block_of_row = np.arange(len(shared)) // block
    values_SN = shared.groupby(block_of_row).mean().to_numpy()
    steps = shared.index.to_series().groupby(block_of_row).mean().to_numpy()

    # mean and interval over seeds
    seeds, mean = values_SN.shape[1], values_SN.mean(axis=1)
    half = np.full(len(mean), np.nan)
    if seeds > 1:
        half = t_quantile(0.95, seeds - 1) * values_SN.std(axis=1, ddof=1) / np.sqrt(seeds)
    low, high = mean - half, mean + half
    if is_share(metric):
        low, high = within_share((low, high))
    return Curve(steps, mean, low, high, seeds, block)


def arm_colours(labels: Sequence[str]) -> dict[str, Colour]:
    """One colour an arm: its signal's, in shades where a signal has several; numbers run along
    viridis.

    ``none``, ``g2rl lam=1``, ``g2rl lam=3`` are black and two shades of the colour of g2rl;
    ``lam=0.1``, ``lam=1``, ``lam=10`` three steps of viridis, dark to light.
    """
    # arms of a signal, mixed with white
    colours: dict[str, Colour] = {}
    for signal, colour in SIGNAL_COLOURS.items():
        of_signal = [label for label in labels if label.split(" ")[0] == signal]
        for place, label in enumerate(of_signal):
            white = 0.6 * place / len(of_signal)
            colours[label] = tuple((1 - white) * part + white for part in to_rgb(colour))

    # the others
    rest = [label for label in labels if label not in colours]
    numbered = len(rest) > len(OTHER_COLOURS) or all(re.search(r"\d", label) for label in rest)
    for place, label in enumerate(rest):
        if numbered:
            along = 0.88 * place / max(1, len(rest) - 1)
            colours[label] = plt.get_cmap("viridis")(along)
        else:
            colours[label] = to_rgb(OTHER_COLOURS[place])
    return colours


def learning_panels(frame: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """Held-out pass@1 of each benchmark (at most four), training accuracy, length, entropy; if
    reported."""
    # benchmarks first, in the order of the runs
    names = list(dict.fromkeys(frame["metric"]))
    held_out = [name for name in names if re.fullmatch(r"eval/[^/]+/pass@1", name)]
    panels: dict[str, tuple[str, str]] = {}
    for name in held_out[:HELD_OUT]:
        panels[name] = (f"held-out {name.split('/')[1]}, pass@1", "share of problems")

    # then what training itself reports
    for name, text in TRAINING.items():
        if name in names:
            panels[name] = text
    return panels


def draw_curves(
    frame: pd.DataFrame, panels: Panels, path: Path, columns: int = 2, title: str = ""
) -> Path:
    """One panel a metric, one line an arm, bands over seeds, one legend with the number of
    seeds.

    Args:
        frame: long, of `g2rl.analysis.comparison.runs.collect`.
        columns: panels side by side.
    """
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(4.6 * columns, 3.1 * rows + 0.6),
        layout="constrained",
        squeeze=False,
    )
    for axis in axes.flat[len(panels) :]:
        axis.remove()

    # one colour an arm in all panels
    arms = list(dict.fromkeys(frame["arm"]))
    colours = arm_colours(arms)
    few = has_few_seeds(frame)
    for axis, (metric, (heading, unit)) in zip(axes.flat, panels.items(), strict=False):
        for arm in arms:
            draw_arm(axis, curve(frame, arm, metric), colours[arm])
        if few:
            focus(axis, frame[frame["metric"] == metric]["value"])
        tidy_axis(axis, heading, unit)

    # what all panels share
    name_arms(figure, frame, colours, title)
    caption_below(figure, band_caption(frame, panels, few))
    return save_figure(figure, path)


def has_few_seeds(frame: pd.DataFrame) -> bool:
    """Whether some arm's intervals are too wide to be shown whole."""
    return bool(frame.groupby("arm")["seed"].nunique().min() < FEW)


def band_caption(frame: pd.DataFrame, panels: Panels, few: bool) -> str:
    """Says what line, point and band are."""
    # every drawn curve may have blocks of its own
    blocks = set()
    for arm in frame["arm"].unique():
        for metric in panels:
            drawn = curve(frame, arm, metric)
            if drawn is not None and drawn.block > 1:
                blocks.add(drawn.block)

    text = "line: mean over seeds; band: 95 % t-interval over seeds (none for one seed)"
    if blocks:
        sizes = " or ".join(map(str, sorted(blocks)))
        text = f"points: means of {sizes} steps where every step reports; {text}"
    if few:
        text += "; bands of two seeds leave the panels"
    return text


def draw_arm(axis: Any, drawn: Curve | None, colour: Colour) -> None:
    """Line and band; nothing for an arm that does not report the metric."""
    if drawn is None:
        return
    axis.plot(drawn.steps, drawn.mean, color=colour, lw=1.6, marker="o", ms=3.5)
    if drawn.seeds > 1:
        axis.fill_between(drawn.steps, drawn.low, drawn.high, color=colour, alpha=0.15, lw=0)


def name_arms(
    figure: Any, frame: pd.DataFrame, colours: Mapping[str, Colour], title: str = ""
) -> None:
    """One legend above the panels: arms and their number of seeds, below the figure's title."""
    # the number of seeds says what a band is worth
    seeds = frame.groupby("arm", sort=False)["seed"].nunique()
    handles = [plt.Line2D([], [], color=colours[arm], lw=2) for arm in seeds.index]
    names = [f"{arm} ({count} {'seed' if count == 1 else 'seeds'})" for arm, count in seeds.items()]

    # as many columns as fit: inches of the handle and its gap, and of a letter
    name_width = 0.55 + 0.085 * max(map(len, names))
    fitting = int(figure.get_figwidth() / name_width)
    figure.legend(
        handles,
        names,
        ncols=max(1, min(4, len(names), fitting)),
        frameon=False,
        loc="outside upper center",
        title=title or None,
        title_fontsize=11,
    )


def focus(axis: Any, values: pd.Series) -> None:
    """Set limits around the seeds themselves, so that wide intervals do not flatten the lines."""
    # a constant metric has no range
    low, high = values.min(), values.max()
    margin = 0.15 * (high - low) or 0.1
    axis.set_ylim(low - margin, high + margin)


def draw_geometry_curves(frame: pd.DataFrame, caption: str, path: Path) -> Path:
    """Mean gradient cosine and negative pairs of training responses, by pair class.

    Args:
        frame: of `training_geometry`.
        caption: how the responses were sampled and scored.
    """
    # two metrics, each over all pairs and in three classes
    cosine_panels = _class_panels("cosine", "mean cosine", "mean gradient cosine")
    negative_panels = _class_panels("negative_pairs", "negative pairs", "share of pairs")
    panels = cosine_panels | negative_panels
    figure, axes = plt.subplots(
        2, 4, figsize=(16, 6.6), layout="constrained", sharex=True, sharey="row"
    )

    # a row a metric, a column a class
    arms = list(dict.fromkeys(frame["arm"]))
    colours = arm_colours(arms)
    for axis, (metric, (title, unit)) in zip(axes.flat, panels.items(), strict=True):
        for arm in arms:
            draw_arm(axis, curve(frame, arm, metric), colours[arm])
        tidy_axis(axis, title, unit if axis in axes[:, 0] else "")

    # the levels of two directions that have nothing to do with each other
    few = has_few_seeds(frame)
    for row, level, kind in zip(axes, (0.0, 0.5), ("cosine", "negative_pairs"), strict=True):
        if few:
            focus(
                row[0], frame[frame["metric"].str.startswith(f"{GEOMETRY_PREFIX}{kind}")]["value"]
            )
        for axis in row:
            level_line(axis, level)

    name_arms(figure, frame, colours)
    caption_below(figure, f"{caption}; {band_caption(frame, panels, few)}{identity_note(frame)}")
    return save_figure(figure, path)


def identity_note(frame: pd.DataFrame) -> str:
    """Identity ratio and identical pairs of each arm for captions, means over steps and runs."""
    lines: list[str] = []
    for arm, of_arm in frame.groupby("arm", sort=False):
        means = of_arm.groupby("metric")["value"].mean()
        ratio = means.get(f"{GEOMETRY_PREFIX}identity_ratio")
        if ratio is None:
            continue

        # files of earlier versions do not tell identical responses
        text = f"identity ratio {ratio:+.3f}"
        identical = means.get(f"{GEOMETRY_PREFIX}identical_pairs")
        if identical is not None:
            text += f", {identical:.1%} of the pairs identical"
        lines.append(f"\n{arm}: {text}")
    return "".join(lines)


def _class_panels(metric: str, name: str, unit: str) -> dict[str, tuple[str, str]]:
    """A metric of the geometry files over all pairs and by class."""
    panels: dict[str, tuple[str, str]] = {}
    for pair_class in SHOWN_CLASSES:
        # the metric ends in the class, the title begins with it
        label = "all pairs" if pair_class == ALL_PAIRS else pair_class
        panels[f"{GEOMETRY_PREFIX}{metric}{metric_suffix(pair_class)}"] = (f"{label}: {name}", unit)
    return panels
