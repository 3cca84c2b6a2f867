"""TODO docstring."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt


def tidy_axis(axis: Any, title: str, unit: str) -> None:
    """Title, unit of the vertical axis, steps below, no box."""
    axis.set_title(title, fontsize=10)
    axis.set_ylabel(unit)
    axis.set_xlabel("step")
    axis.spines[["top", "right"]].set_visible(False)


def save_figure(figure: Any, path: Path) -> Path:
    """Write a PNG, making its folder, and close the figure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path
