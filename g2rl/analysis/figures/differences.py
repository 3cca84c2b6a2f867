"""Differences between arms, seed by seed: how an arm changes a metric, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from g2rl.analysis.comparison.paired import paired_differences
from g2rl.analysis.figures.curves import FEW, Colour, Panels, arm_colours
from g2rl.analysis.figures.style import GREY, caption_below, open_axis, plt, save_figure
from g2rl.formulas.intervals import seed_interval


def draw_differences(
    frame: pd.DataFrame, panels: Panels, against: str, path: Path, title: str = ""
) -> Path:
    """One panel a metric, one row an arm: mean difference to `against`, its 95 % t-interval, every
    seed.

    Args:
        frame: long, of `g2rl.analysis.comparison.runs.collect`.
        panels: metrics with heading and unit.
        against: the arm that is subtracted; a line at 0 stands for it.
    """
    # one row for every arm but the one that is subtracted
    arms = list(dict.fromkeys(frame["arm"]))
    colours = arm_colours(arms)
    others = [arm for arm in arms if arm != against]
    figure, axes = plt.subplots(
        1,
        len(panels),
        figsize=(2.2 + 3.1 * len(panels), 1.3 + 0.42 * len(others)),
        layout="constrained",
        squeeze=False,
        sharey=True,
    )

    for axis, (metric, (heading, unit)) in zip(axes[0], panels.items(), strict=True):
        # zero is the arm that is subtracted
        differences = paired_differences(frame, metric, against)
        axis.axvline(0.0, color=GREY, lw=1)
        for row, arm in enumerate(others):
            draw_row(axis, row, differences[arm], colours[arm])
        _set_limits(axis, differences)

        # the first arm on top
        axis.set_title(heading, fontsize=10)
        axis.set_xlabel(f"difference, {unit}")
        axis.set_yticks(range(len(others)), others)
        axis.set_ylim(len(others) - 0.4, -0.6)
        open_axis(axis)

    # what all panels share
    figure.suptitle(title or f"after training, minus {against} of the same seed", fontsize=11)
    caption_below(
        figure,
        "diamond: mean over seeds; bar: 95 % t-interval (of two seeds it may leave the panel); "
        "dots: seeds",
    )
    return save_figure(figure, path)


def draw_row(axis: Any, row: int, differences: Sequence[float], colour: Colour) -> None:
    """One arm: its seeds as dots, and their mean with its interval; nothing without a seed."""
    if not differences:
        return

    # seeds below their mean, so that both are seen
    mean, low, high = seed_interval(np.array(differences))
    bars = [[mean - low], [high - mean]] if len(differences) > 1 else None
    below = [row + 0.22] * len(differences)
    axis.plot(differences, below, "o", ms=3.5, mfc="white", mec=colour, mew=0.9, zorder=2)
    axis.errorbar(mean, row, xerr=bars, fmt="D", ms=5, color=colour, capsize=3, lw=1.5, zorder=3)


def _set_limits(axis: Any, differences: Mapping[str, Sequence[float]]) -> None:
    """Show zero and the bounds of every arm, with a margin."""
    # an arm without a shared seed has no bounds
    shown = [bound for values in differences.values() for bound in bounds(values)]
    if shown:
        margin = 0.05 * (max(shown) - min(shown)) or 0.01
        axis.set_xlim(min(*shown, 0.0) - margin, max(*shown, 0.0) + margin)


def bounds(values: Sequence[float]) -> list[float]:
    """Values the axis must show: every seed, and the interval if there are enough seeds for one."""
    # the interval of two seeds would leave no room for anything else
    if len(values) < FEW:
        return list(values)
    _, low, high = seed_interval(values)
    return [*values, low, high]
