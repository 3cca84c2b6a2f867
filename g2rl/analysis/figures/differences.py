"""Differences between arms, seed by seed, as a figure: what an arm changes, and how sure that
is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from g2rl.analysis.comparison.paired import paired_differences
from g2rl.analysis.figures.curves import FEW, Panels, arm_colours
from g2rl.analysis.figures.one_run import plt
from g2rl.analysis.figures.style import save_figure
from g2rl.formulas.intervals import seed_interval


def draw_differences(
    frame: pd.DataFrame, panels: Panels, against: str, path: Path, title: str = ""
) -> Path:
    """One panel a metric, one row an arm: mean difference to `against`, its 95 % t-interval, every
    seed.

    Args:
        frame: of `g2rl.analysis.comparison.runs.collect`.
        panels: metrics with heading and unit.
        against: the arm that is subtracted; a line at 0 stands for it.
    """
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
        found = paired_differences(frame, metric, against)
        axis.axvline(0.0, color="0.35", lw=1)
        for row, arm in enumerate(others):
            if not found[arm]:
                continue
            mean, low, high = seed_interval(np.array(found[arm]))
            bars = [[mean - low], [high - mean]] if len(found[arm]) > 1 else None
            seeds = [row + 0.22] * len(found[arm])
            axis.plot(
                found[arm], seeds, "o", ms=3.5, mfc="white", mec=colours[arm], mew=0.9, zorder=2
            )
            axis.errorbar(
                mean, row, xerr=bars, fmt="D", ms=5, color=colours[arm], capsize=3, lw=1.5, zorder=3
            )
        if shown := [bound for values in found.values() for bound in bounds(values)]:
            margin = 0.05 * (max(shown) - min(shown)) or 0.01
            axis.set_xlim(min(*shown, 0.0) - margin, max(*shown, 0.0) + margin)
        axis.set_title(heading, fontsize=10)
        axis.set_xlabel(f"difference, {unit}")
        axis.set_yticks(range(len(others)), others)
        axis.set_ylim(len(others) - 0.4, -0.6)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title or f"after training, minus {against} of the same seed", fontsize=11)
    figure.supxlabel(
        "diamond: mean over seeds; bar: 95 % t-interval (of two seeds it may leave the panel); dots: seeds",
        fontsize=8,
        color="0.35",
    )
    return save_figure(figure, path)


def bounds(values: list[float]) -> list[float]:
    """What of an arm must be seen: its seeds, and its interval unless it is of too few seeds."""
    return [*values, *(seed_interval(values)[1:] if len(values) >= FEW else ())]
