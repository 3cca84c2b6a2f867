"""Where runs end: the last value of each run by arm, with the mean and its 95 % t-interval over
seeds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from g2rl.analysis.figures.curves import Colour, Panels, arm_colours, focus, has_few_seeds
from g2rl.analysis.figures.style import (
    GREY,
    caption_below,
    level_line,
    open_axis,
    plt,
    save_figure,
)
from g2rl.analysis.tables import at_end, is_share
from g2rl.formulas.intervals import seed_interval
from g2rl.formulas.pairs import SHOWN_CLASSES, metric_suffix


def held_out_panels(frame: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """Of the first benchmark pass@1, pass@k of the largest k and distinct solutions, if
    reported."""
    # the first benchmark by name
    names = sorted(frame["metric"].unique())
    benchmarks = [name.split("/")[1] for name in names if re.fullmatch(r"eval/[^/]+/pass@1", name)]
    if not benchmarks:
        return {}

    prefix = f"eval/{benchmarks[0]}/"

    # its accuracies: the smallest and the largest k
    accuracies = [name for name in names if re.fullmatch(rf"{prefix}pass@\d+", name)]
    largest = max(int(name.partition("@")[2]) for name in accuracies)
    panels: dict[str, tuple[str, str]] = {}
    for k in sorted({1, largest}):
        panels[f"{prefix}pass@{k}"] = (f"held-out pass@{k}", "share of problems")
    if f"{prefix}distinct" in names:
        panels[f"{prefix}distinct"] = ("distinct right solutions", "solutions a problem")
    return panels


def outcome_panels(frame: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """Those of the first benchmark, and the probe's mean cosine."""
    # runs without a probe have no cosine
    panels = held_out_panels(frame)
    if (frame["metric"] == "probe/cosine").any():
        panels["probe/cosine"] = ("gradient cosine", "mean cosine, all pairs")
    return panels


def probe_panels(frame: pd.DataFrame, metric: str, unit: str) -> dict[str, tuple[str, str]]:
    """A metric of the probe ("cosine" or "negative_pairs") over all pairs and by pair class."""
    # a class that never had a pair has no metric
    names = set(frame["metric"])
    panels: dict[str, tuple[str, str]] = {}
    for pair_class in SHOWN_CLASSES:
        name = f"probe/{metric}{metric_suffix(pair_class)}"
        if name in names:
            panels[name] = (f"{pair_class} pairs", unit)
    return panels


def draw_ends(
    frame: pd.DataFrame,
    panels: Panels,
    path: Path,
    *,
    title: str,
    caption: str,
    level: float | None = None,
    sharey: bool = False,
) -> Path:
    """One panel a metric: mean over seeds and its interval for each arm, every seed as a small dot.

    Args:
        frame: long, of `g2rl.analysis.stored.read_runs`.
        title: the message of the figure.
        caption: what the values depend on; the meaning of the marks is added.
        level: the value that one would expect, where a thin line is drawn.
        sharey: one scale for all panels.
    """
    arms = list(dict.fromkeys(frame["arm"]))
    colours = arm_colours(arms)

    # two panels side by side
    rows = -(-len(panels) // 2)
    figure, axes = plt.subplots(
        rows, 2, figsize=(9.2, 3.1 * rows + 0.7), layout="constrained", squeeze=False, sharey=sharey
    )
    for axis in axes.flat[len(panels) :]:
        axis.remove()

    few = has_few_seeds(frame)
    for axis, (metric, (heading, unit)) in zip(axes.flat, panels.items(), strict=False):
        # the ends of every run
        before, after = at_end(frame, metric, first=True), at_end(frame, metric)
        draw_panel(axis, before, after, arms, colours, is_share(metric))
        if few and not sharey:
            focus(axis, pd.concat([before["value"], after["value"]]))
        if level is not None:
            level_line(axis, level, color="0.8")

        # the message above, the names of arms below
        axis.set_title(f"{heading}: {spread(after)}", fontsize=10)
        axis.set_ylabel(unit)
        name_ticks(axis, arms)

    figure.suptitle(title, fontsize=11)
    caption_below(figure, f"{caption}\n{marks(frame)}")
    return save_figure(figure, path)


def draw_panel(
    axis: Any,
    before: pd.DataFrame,
    after: pd.DataFrame,
    arms: Sequence[str],
    colours: Mapping[str, Colour],
    share: bool = False,
) -> None:
    """Mean, interval and seeds of each arm; dashed, the mean before training where it was measured.

    Args:
        before, after: first and last value of each run, of `at_end`.
        share: whether values lie between 0 and 1, where their intervals then end.
    """
    # a run need not begin with an evaluation; then its first value is of a later step
    untrained = before[before["step"] == 0]["value"]
    if len(untrained):
        axis.axhline(untrained.mean(), color=GREY, lw=1, ls="--", zorder=1)

    for place, arm in enumerate(arms):
        values = after.loc[after["arm"] == arm, "value"].to_numpy()
        if not len(values):
            continue
        mean, low, high = seed_interval(values, is_share=share)

        # one seed is its own mean
        bars = None
        if len(values) > 1:
            beside = place + 0.2 + np.linspace(-0.05, 0.05, len(values))
            axis.plot(beside, values, "o", ms=3.5, mfc="white", mec=colours[arm], mew=0.9, zorder=2)
            bars = [[mean - low], [high - mean]]
        axis.errorbar(
            place, mean, bars, fmt="D", ms=6, color=colours[arm], capsize=4, lw=1.6, zorder=3
        )
    open_axis(axis)


def spread(after: pd.DataFrame) -> str:
    """``0.36 (evol) to 0.49 (none)``: the arms with the lowest and the highest mean."""
    # the arms at both ends
    means = after.groupby("arm", sort=False)["value"].mean()
    low, high = means.idxmin(), means.idxmax()

    # more digits where two would make the ends look alike
    digits = 3 if means[high] - means[low] < 0.02 else 2
    if len(means) == 1:
        return f"{means[low]:.{digits}f}"
    low_name, high_name = (arm.replace("lam=", "λ = ") for arm in (low, high))
    return f"{means[low]:.{digits}f} ({low_name}) to {means[high]:.{digits}f} ({high_name})"


def tick_names(arms: Sequence[str]) -> list[str]:
    """Arms as they stand at an axis: the value alone where all are NAME=value of one name."""
    # lam=0.1, lam=1: the name stands below the axis
    names, signs, values = zip(*(arm.rpartition("=") for arm in arms), strict=True)
    if all(signs) and len(set(names)) == 1:
        return list(values)
    return list(arms)


def name_ticks(axis: Any, arms: Sequence[str]) -> None:
    """Arms along the horizontal axis, equally spaced; the common name of numbered arms below."""
    names = tick_names(arms)
    axis.set_xticks(range(len(arms)), names)
    axis.set_xlim(-0.5, len(arms) - 0.5)
    if names != list(arms):
        # the name that all arms have in common
        key = arms[0].rpartition("=")[0]
        axis.set_xlabel("λ (equally spaced, not to scale)" if key == "lam" else key)


def marks(frame: pd.DataFrame) -> str:
    """Says what line, diamond and dot are."""
    # arms may have different numbers of seeds
    seeds = sorted(frame.groupby("arm")["seed"].nunique().unique())
    count = " or ".join(map(str, seeds))
    bars = "" if seeds == [1] else "; bar: 95 % t-interval over seeds"
    return f"diamond: mean of {count} seeds, dots: each seed{bars}; dashed: before training"
