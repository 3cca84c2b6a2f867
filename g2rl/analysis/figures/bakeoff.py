"""A bake-off on one task: what is kept against accuracy, every arm as a path through training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any, NamedTuple

import numpy as np

from g2rl.analysis.bakeoff.rows import Row
from g2rl.analysis.bakeoff.study import ACCURACY, DISTINCT, Study
from g2rl.analysis.figures.style import (
    GREY,
    LIGHT_GREY,
    caption_below,
    open_axis,
    plt,
    save_figure,
)


class Look(NamedTuple):
    """How an arm is drawn and called."""

    colour: str
    name: str


SHOWN = {
    "grpo": Look("#000000", "plain GRPO"),
    "g2rl": Look("#E69F00", "G2RL, default"),
    "g2rl_01_lam3": Look("#D55E00", "G2RL {0, 1}, λ = 3"),
    "g2rl_01_lam3_random": Look("#CC79A7", "its control, ν by chance"),
    "maxrl": Look("#56B4E9", "MaxRL"),
    "passk": Look("#0072B2", "pass@4"),
    "darling": Look("#009E73", "DARLING"),
    "poly_epo": Look("#882255", "Poly-EPO"),
}
"""Arms that are drawn in colour, if they are there; all others are grey."""
GREY_NAMES = {
    "g2rl_01_lam0": "G2RL {0, 1}, λ = 0",
    "g2rl_01_lam1": "G2RL {0, 1}, λ = 1",
    "g2rl_01_lam10": "G2RL {0, 1}, λ = 10",
    "g2rl_01_lam3_shaped": "G2RL {0, 1}, λ = 3, shaped",
    "g2rl_01_lam3_std": "G2RL {0, 1}, λ = 3, std",
}
"""What the title calls grey arms whose own names say little."""
GAP = 0.055
"""Least distance of two names, as a share of the panel's height."""
MOST_NAMED = 3
"""The title names so many arms."""
MESSAGE_WIDTH = 132
"""Letters of a line of the title: more are wider than the figure."""

Paths = Mapping[str, np.ndarray]
"""Of each arm accuracy, coverage and distinct right answers at every evaluation, (3, E)."""


def draw_bakeoff(
    study: Study, rows_of_arms: Mapping[str, Sequence[Row]], path: Path, caption: str
) -> Path:
    """Coverage and distinct right answers against accuracy: one path an arm from the base policy to
    the end of training. Up keeps more, right gains accuracy.

    Args:
        study: the task.
        rows_of_arms: of each arm the runs whose mean is drawn.
        path: of the figure.
        caption: which runs these are.
    """
    kept = kept_metric(study, rows_of_arms)
    paths = {arm: mean_path(rows, kept) for arm, rows in rows_of_arms.items()}
    figure, axes = plt.subplots(1, 2, figsize=(11.5, 5.2), layout="constrained")

    # what is kept, in two senses
    subset, _, k = kept.rpartition("pass@")
    of_hard = ", on the hard problems" if subset else ""
    headings = (
        f"{kept}: right in one of {k} attempts{of_hard}",
        "different right answers a problem",
    )
    for place, (axis, heading) in enumerate(zip(axes, headings, strict=True), start=1):
        draw_paths(axis, paths, place)
        axis.set_title(heading, fontsize=10)
        axis.set_xlabel(f"{ACCURACY}: right at the first attempt")
        open_axis(axis)

    # names once, beside the panel in which arms lie further apart
    name_ends(axes[1], paths)
    figure.suptitle(message(study, kept, paths), fontsize=11)
    caption_below(figure, caption)
    return save_figure(figure, path)


def kept_metric(study: Study, rows_of_arms: Mapping[str, Sequence[Row]]) -> str:
    """What the left panel shows: the task's own metric, if every evaluation has samples for it."""
    for rows in rows_of_arms.values():
        for row in rows:
            if any(study.primary not in point for point in row["curve"]):
                return study.coverage
    return study.primary


def mean_path(rows: Sequence[Row], coverage: str) -> np.ndarray:
    """Accuracy, coverage and distinct answers after each evaluation, (3, E): means over runs."""
    per_run: list[list[list[float]]] = []
    for row in rows:
        points = row["curve"]
        names = (ACCURACY, coverage, DISTINCT)
        per_run.append([[point[name] for point in points] for name in names])
    mean_3E: np.ndarray = np.array(per_run).mean(axis=0)
    return mean_3E


def draw_paths(axis: Any, paths: Paths, place: int) -> None:
    """One panel: quantity number `place` of each path against its accuracy."""
    # grey first, so that colours lie above
    for arm, path_3E in sorted(paths.items(), key=lambda item: item[0] in SHOWN):
        # fewer samples in between hold fewer different answers, so these have no path
        shown_3E = path_3E if place == 1 else path_3E[:, [0, -1]]
        x_E, y_E = shown_3E[0], shown_3E[place]
        if arm in SHOWN:
            colour = SHOWN[arm].colour
            axis.plot(x_E, y_E, "-", color=colour, lw=1.8, alpha=0.55, zorder=3)
            axis.plot(x_E[-1], y_E[-1], "o", color=colour, ms=9, zorder=4)
        else:
            axis.plot(x_E[-1], y_E[-1], "o", color=LIGHT_GREY, ms=5, zorder=2)

    # where all begin
    x, y = np.mean([path_3E[[0, place], 0] for path_3E in paths.values()], axis=0)
    axis.plot(x, y, "*", color="black", ms=15, zorder=5)
    axis.annotate("base", (x, y), xytext=(-4, -18), textcoords="offset points", fontsize=9)
    axis.axhline(y, color=GREY, lw=0.8, ls="--", zorder=0)


def name_ends(axis: Any, paths: Paths) -> None:
    """The names of the coloured arms at the right of a panel, in the order of their ends."""
    low, high = axis.get_ylim()
    gap = GAP * (high - low)
    height = low - gap
    ends = [(arm, path_3E[0, -1], path_3E[2, -1]) for arm, path_3E in paths.items() if arm in SHOWN]

    # from the bottom up, each at least a line above the one before
    ends.sort(key=lambda end: end[2])
    heights: list[float] = []
    for _, _, y in ends:
        height = max(y, height + gap)
        heights.append(height)

    # what is pushed above the panel comes down again, and pushes those below it
    ceiling = high
    for place in reversed(range(len(heights))):
        heights[place] = min(heights[place], ceiling)
        ceiling = heights[place] - gap
    for (arm, x, y), height in zip(ends, heights, strict=True):
        axis.annotate(
            SHOWN[arm].name,
            (x, y),
            xytext=(1.02, height),
            textcoords=axis.get_yaxis_transform(),
            va="center",
            fontsize=10,
            color=SHOWN[arm].colour,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": SHOWN[arm].colour, "lw": 0.5},
        )
    axis.set_ylim(low, high)


def message(study: Study, kept: str, paths: Paths) -> str:
    """What the figure says: what the baseline gains and loses, and who keeps most."""
    if study.baseline not in paths:
        return f"{study.task}: {kept} and distinct right answers against {ACCURACY}"
    (x, y, z), (x_end, y_end, z_end) = paths[study.baseline].T[[0, -1]]
    baseline = SHOWN[study.baseline].name if study.baseline in SHOWN else study.baseline
    first_line = (
        f"{study.task}: {baseline} takes {ACCURACY} from {x:.2f} to {x_end:.2f}, {kept} "
        f"from {y:.3f} to {y_end:.3f}, different right answers from {z:.1f} to {z_end:.1f}"
    )

    # who keeps most, and what that costs
    ends: list[tuple[float, float, str]] = []
    for arm, path_3E in paths.items():
        name = SHOWN[arm].name if arm in SHOWN else f"{GREY_NAMES.get(arm, arm)} (grey)"
        ends.append((float(path_3E[2, -1]), float(path_3E[0, -1]), name))
    named: list[str] = []
    for answers, accuracy, name in sorted(ends, reverse=True)[:MOST_NAMED]:
        named.append(f"{answers:.1f} by {name} at {ACCURACY} {accuracy:.2f}")

    # no wider than the figure
    second_line = f"most different answers: {'; '.join(named)}"
    lines = [*wrap(first_line, MESSAGE_WIDTH), *wrap(second_line, MESSAGE_WIDTH)]
    return "\n".join(lines)
