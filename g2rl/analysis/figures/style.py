"""What all figures have in common. The only module that selects the backend of matplotlib.

Modules that draw take `plt` from here, so that the backend is selected before they draw.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import matplotlib

# files only, so no display is needed; a notebook's inline figures must keep working beside them
if "inline" not in os.environ.get("MPLBACKEND", ""):
    matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.ticker import MaxNLocator

from g2rl.runs.files import errors_of

# every tick says its own value: no "+6.894" above an axis
matplotlib.rcParams["axes.formatter.useoffset"] = False

GREY = "0.35"
"""Of captions and of lines that stand for a comparison."""
LIGHT_GREY = "0.7"
"""Of lines at a value that means something, such as a cosine of 0."""


def open_axis(axis: Any) -> None:
    """Take away the box around a panel, but for its two axes."""
    axis.spines[["top", "right"]].set_visible(False)


def tidy_axis(axis: Any, title: str, unit: str) -> None:
    """Title, unit of the vertical axis, steps below, no box."""
    axis.set_title(title, fontsize=10)
    axis.set_ylabel(unit)
    axis.set_xlabel("step")
    # there is no step 1.25, and runs have round numbers of steps
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    open_axis(axis)


def caption_below(figure: Any, caption: str) -> None:
    """Small grey text under all panels."""
    figure.supxlabel(caption, fontsize=8, color=GREY)


def level_line(axis: Any, level: float, color: str = LIGHT_GREY) -> None:
    """A thin horizontal line behind everything, at a value that means something."""
    axis.axhline(level, color=color, lw=0.8, zorder=0)


def save_figure(figure: Any, path: Path) -> Path:
    """Write a PNG, making its folder, and close the figure."""
    # closed at once: open figures pile up in memory
    with errors_of(path, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=130)
    plt.close(figure)
    return path
