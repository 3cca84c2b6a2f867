"""A bake-off on one task: coverage against accuracy, every arm as a path through training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from g2rl.analysis.bakeoff.rows import Row
from g2rl.analysis.bakeoff.study import ACCURACY, Study
from g2rl.analysis.figures.style import (
    GREY,
    LIGHT_GREY,
    caption_below,
    open_axis,
    plt,
    save_figure,
)

SHOWN = {
    "grpo": "#000000",
    "g2rl": "#E69F00",
    "g2rl_01_lam3": "#D55E00",
    "g2rl_01_lam3_random": "#CC79A7",
    "maxrl": "#56B4E9",
    "passk": "#0072B2",
    "darling": "#009E73",
}
"""Arms that are drawn in colour, if they are there; all others are grey."""
GAP = 0.028
"""Least distance of two names, as a share of the panel's height."""


def draw_bakeoff(
    study: Study, rows_of_arms: Mapping[str, Sequence[Row]], path: Path, caption: str
) -> Path:
    """One path an arm from the base policy to the end of training: up keeps coverage, right gains
    accuracy.

    Args:
        study: the task.
        rows_of_arms: of each arm the runs whose mean is drawn.
        path: of the figure.
        caption: which runs these are.
    """
    figure, axis = plt.subplots(figsize=(8.6, 5.6), layout="constrained")
    paths = {arm: mean_path(rows, study.coverage) for arm, rows in rows_of_arms.items()}

    # grey first, so that colours lie above
    for arm in sorted(paths, key=lambda name: name in SHOWN):
        colour, width = SHOWN.get(arm, LIGHT_GREY), 2.0 if arm in SHOWN else 0.8
        x_E, y_E = paths[arm]
        axis.plot(x_E, y_E, "-", color=colour, lw=width, zorder=3 if arm in SHOWN else 1)
        axis.plot(x_E[-1], y_E[-1], "o", color=colour, ms=7 if arm in SHOWN else 4, zorder=4)

    # where all begin
    start = np.mean([[x_E[0], y_E[0]] for x_E, y_E in paths.values()], axis=0)
    axis.plot(*start, "*", color="black", ms=15, zorder=5)
    axis.annotate("base policy", start, xytext=(8, -14), textcoords="offset points", fontsize=9)
    axis.axhline(start[1], color=GREY, lw=0.8, ls="--", zorder=0)

    name_ends(axis, paths)
    axis.set_xlabel(f"{ACCURACY}: right at the first attempt")
    axis.set_ylabel(f"{study.coverage}: right in one of 32 attempts")
    axis.set_title(message(study, paths), fontsize=11, loc="left")
    open_axis(axis)
    caption_below(figure, caption)
    return save_figure(figure, path)


def mean_path(rows: Sequence[Row], coverage: str) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy and coverage after each evaluation, (E,) each: means over runs."""
    x_RE = np.array([[point[ACCURACY] for point in row["curve"]] for row in rows])
    y_RE = np.array([[point[coverage] for point in row["curve"]] for row in rows])
    return x_RE.mean(axis=0), y_RE.mean(axis=0)


def name_ends(axis: Any, paths: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """The names of the coloured arms in a column at the right, in the order of their ends."""
    ends = {arm: (x_E[-1], y_E[-1]) for arm, (x_E, y_E) in paths.items() if arm in SHOWN}
    low, high = axis.get_ylim()
    right = max(float(x_E.max()) for x_E, _ in paths.values())
    left = axis.get_xlim()[0]
    column = right + 0.03 * (right - left)

    # from the top down, each at least a line below the one before
    height = high
    for arm, (x, y) in sorted(ends.items(), key=lambda item: -item[1][1]):
        height = min(y, height - GAP * (high - low))
        axis.annotate(
            arm,
            (x, y),
            xytext=(column, height),
            textcoords="data",
            va="center",
            fontsize=9,
            color=SHOWN[arm],
            arrowprops={"arrowstyle": "-", "color": SHOWN[arm], "lw": 0.5},
        )
    axis.set_xlim(left, column + 0.22 * (right - left))
    axis.set_ylim(low, high)


def message(study: Study, paths: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> str:
    """What the figure says: what the baseline gains and loses, and how many arms lose less."""
    if study.baseline not in paths:
        return f"{study.task}: {study.coverage} against {ACCURACY}"
    x_E, y_E = paths[study.baseline]
    others = [path for arm, path in paths.items() if arm != study.baseline]
    better = sum(x[-1] >= x_E[-1] - 0.02 and y[-1] > y_E[-1] + 0.02 for x, y in others)
    return (
        f"{study.task}: plain GRPO takes {ACCURACY} from {x_E[0]:.2f} to {x_E[-1]:.2f} and "
        f"{study.coverage} from {y_E[0]:.2f} to {y_E[-1]:.2f};\n{better} of {len(others)} other "
        f"arms end with more {study.coverage} (by 0.02) at no less {ACCURACY} (within 0.02)"
    )
