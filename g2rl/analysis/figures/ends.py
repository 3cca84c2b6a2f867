"""Where runs end: the last value of each run by arm, with the mean and its 95 % t-interval over
seeds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from g2rl.analysis.figures.curves import FEW, Colour, Panels, arm_colours, focus
from g2rl.analysis.figures.one_run import plt
from g2rl.analysis.figures.style import save_figure
from g2rl.analysis.tables import at_end
from g2rl.formulas.intervals import seed_interval
from g2rl.formulas.pairs import SHOWN_CLASSES, metric_suffix

GREY = "0.35"
PROBE = {metric_suffix(name): f"{name} pairs" for name in SHOWN_CLASSES}
"""Ending of a metric's name to the title of the pair class."""


def held_out_panels(frame: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """Of the first benchmark pass@1, pass@k of the largest k and distinct solutions."""
    names = sorted(frame["metric"].unique())
    found: dict[str, tuple[str, str]] = {}
    benchmarks = [name.split("/")[1] for name in names if re.fullmatch(r"eval/[^/]+/pass@1", name)]
    if benchmarks:
        prefix = f"eval/{benchmarks[0]}/"
        ks = [
            int(name.partition("@")[2])
            for name in names
            if re.fullmatch(rf"{prefix}pass@\d+", name)
        ]
        for k in sorted({1, max(ks)}):
            found[f"{prefix}pass@{k}"] = (f"held-out pass@{k}", "share of problems")
        found[f"{prefix}distinct"] = ("distinct right solutions", "solutions a problem")
    return {name: text for name, text in found.items() if name in names}


def outcome_panels(frame: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """Those of the first benchmark, and the probe's mean cosine."""
    probe = {"probe/cosine": ("gradient cosine", "mean cosine, all pairs")}
    return held_out_panels(frame) | (probe if (frame["metric"] == "probe/cosine").any() else {})


def probe_panels(frame: pd.DataFrame, metric: str, unit: str) -> dict[str, tuple[str, str]]:
    """A metric of the probe ("cosine" or "negative_pairs") over all pairs and by pair class."""
    names = set(frame["metric"])
    found = {f"probe/{metric}{suffix}": (label, unit) for suffix, label in PROBE.items()}
    return {name: text for name, text in found.items() if name in names}


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
        frame: of `g2rl.analysis.stored.read_runs`.
        title: the message of the figure.
        caption: what the values depend on; what marks mean is added.
        level: where a thin line is drawn: what one would expect.
        sharey: one scale for all panels.
    """
    arms = list(dict.fromkeys(frame["arm"]))
    colours = arm_colours(arms)
    rows = -(-len(panels) // 2)
    figure, axes = plt.subplots(
        rows, 2, figsize=(9.2, 3.1 * rows + 0.7), layout="constrained", squeeze=False, sharey=sharey
    )
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    few = frame.groupby("arm")["seed"].nunique().min() < FEW
    for axis, (metric, (heading, unit)) in zip(axes.flat, panels.items(), strict=False):
        before, after = at_end(frame, metric, first=True), at_end(frame, metric)
        draw_panel(axis, before, after, arms, colours)
        if few and not sharey:
            focus(axis, pd.concat([before["value"], after["value"]]))
        if level is not None:
            axis.axhline(level, color="0.8", lw=0.8, zorder=0)
        axis.set_title(f"{heading}: {spread(after, arms)}", fontsize=10)
        axis.set_ylabel(unit)
        name_ticks(axis, arms)
    figure.suptitle(title, fontsize=11)
    figure.supxlabel(f"{caption}\n{marks(frame)}", fontsize=8, color=GREY)
    return save_figure(figure, path)


def draw_panel(
    axis: Any,
    before: pd.DataFrame,
    after: pd.DataFrame,
    arms: Sequence[str],
    colours: Mapping[str, Colour],
) -> None:
    """Mean, interval and seeds of each arm; dashed, the mean before training where it was
    measured."""
    untrained = before[before["step"] == 0]["value"]
    if len(untrained):
        axis.axhline(untrained.mean(), color=GREY, lw=1, ls="--", zorder=1)
    for place, arm in enumerate(arms):
        values = after.loc[after["arm"] == arm, "value"].to_numpy()
        if not len(values):
            continue
        mean, low, high = seed_interval(values)
        bars = None
        if len(values) > 1:
            beside = place + 0.2 + np.linspace(-0.05, 0.05, len(values))
            axis.plot(beside, values, "o", ms=3.5, mfc="white", mec=colours[arm], mew=0.9, zorder=2)
            bars = [[mean - low], [high - mean]]
        axis.errorbar(
            place, mean, bars, fmt="D", ms=6, color=colours[arm], capsize=4, lw=1.6, zorder=3
        )
    axis.spines[["top", "right"]].set_visible(False)


def spread(after: pd.DataFrame, arms: Sequence[str]) -> str:
    """``0.36 (evol) to 0.49 (none)``: the arms with the lowest and the highest mean."""
    means = after.groupby("arm", sort=False)["value"].mean()
    low, high = means.idxmin(), means.idxmax()
    digits = 3 if means[high] - means[low] < 0.02 else 2
    if len(means) == 1:
        return f"{means[low]:.{digits}f}"
    short = {arm: arm.replace("lam=", "λ = ") for arm in arms}
    return f"{means[low]:.{digits}f} ({short[low]}) to {means[high]:.{digits}f} ({short[high]})"


def tick_names(arms: Sequence[str]) -> list[str]:
    """Arms as they stand at an axis: the value alone where all are NAME=value of one name."""
    parts = [arm.rpartition("=") for arm in arms]
    same = all(sign for _, sign, _ in parts) and len({name for name, _, _ in parts}) == 1
    return [value for _, _, value in parts] if same else list(arms)


def name_ticks(axis: Any, arms: Sequence[str]) -> None:
    """Arms along the horizontal axis, equally spaced; the common name of numbered arms below."""
    names = tick_names(arms)
    axis.set_xticks(range(len(arms)), names)
    axis.set_xlim(-0.5, len(arms) - 0.5)
    if names != list(arms):
        key = arms[0].rpartition("=")[0]
        axis.set_xlabel("λ (equally spaced, not to scale)" if key == "lam" else key)


def marks(frame: pd.DataFrame) -> str:
    """What line, diamond and dot are."""
    seeds = sorted(frame.groupby("arm")["seed"].nunique().unique())
    count = " or ".join(map(str, seeds))
    bars = "" if seeds == [1] else "; bar: 95 % t-interval over seeds"
    return f"diamond: mean of {count} seeds, dots: each seed{bars}; dashed: before training"
