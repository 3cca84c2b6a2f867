"""Draw docs/figures/tour.png, one training step from problems to new weights (docs/tour.md).

python docs/figures/tour.py [FILE]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

OUT = Path(__file__).with_suffix(".png")
WIDTH, HEIGHT = 4.7, 0.9  # of a box, in the units of the axes
BOX, EDGE, INK, RECORD, SOFT = "#eef3fa", "#4a6fa5", "#1c2733", "#a34b00", "#5f6b76"
MONO = "DejaVu Sans Mono"
Point = tuple[float, float]

# name: centre of the box, its package, what happens there
STAGES = {
    "draw": (0.0, 10.2, "tasks", "draw P problems"),
    "sample": (0.0, 8.4, "engines", "draw G responses to each problem"),
    "grade": (-3.1, 6.2, "tasks/grading", "judge each response"),
    "score": (3.1, 6.2, "policy", "log-probabilities, entropies, features"),
    "explore": (0.0, 3.8, "exploration", "shape the rewards of each group"),
    "advantages": (0.0, 2.0, "formulas", "compare the rewards within each group"),
    "update": (0.0, 0.2, "training", "loss and optimizer step, by mini-batches"),
    "write": (0.0, -1.6, "runs", "write a row, two tables, a checkpoint"),
}


def draw_stage(axis: Axes, number: int, name: str) -> None:
    """A box with the number and name of a stage, its package and what happens there."""
    x, y, package, text = STAGES[name]
    corner = (x - WIDTH / 2, y - HEIGHT / 2)
    style = "round,pad=0,rounding_size=0.12"
    box = FancyBboxPatch(
        corner, WIDTH, HEIGHT, boxstyle=style, facecolor=BOX, edgecolor=EDGE, linewidth=1.2
    )
    axis.add_patch(box)
    title = f"{number}  {name}  ·  {package}"
    axis.text(x, y + 0.17, title, ha="center", va="center", weight="bold")
    axis.text(x, y - 0.19, text, ha="center", va="center", fontsize=9)


def draw_arrow(axis: Axes, points: Sequence[Point]) -> None:
    """A line through some points that ends in an arrow head."""
    columns, heights = zip(*points[:-1], strict=True)
    axis.plot(columns, heights, color=EDGE, linewidth=1.3, solid_joinstyle="round")
    style = {"arrowstyle": "-|>", "color": EDGE, "linewidth": 1.3, "shrinkA": 0, "shrinkB": 0}
    axis.annotate("", xy=points[-1], xytext=points[-2], arrowprops=style)


def draw_record(axis: Axes, x: float, y: float, record: str, meaning: str, side: str) -> None:
    """The record that an arrow carries, and what it holds, to the left or right of a point."""
    axis.text(x, y + 0.17, record, ha=side, va="center", color=RECORD, family=MONO, fontsize=9.5)
    axis.text(x, y + 0.02, meaning, ha=side, va="top", color=SOFT, fontsize=8.5)


def bottom(name: str, shift: float = 0.0) -> Point:
    """The lower edge of a stage, `shift` to the right of its middle."""
    return STAGES[name][0] + shift, STAGES[name][1] - HEIGHT / 2


def top(name: str, shift: float = 0.0) -> Point:
    """The upper edge of a stage, `shift` to the right of its middle."""
    return STAGES[name][0] + shift, STAGES[name][1] + HEIGHT / 2


def draw_flow(axis: Axes) -> None:
    """What goes from stage to stage, from the top down."""
    draw_arrow(axis, [bottom("draw"), top("sample")])
    draw_record(axis, 0.2, 9.3, "Problem", "prompt and right answer", "left")

    # responses are graded and scored at the same time
    draw_arrow(axis, [bottom("sample", -1.0), top("grade", 0.4)])
    draw_arrow(axis, [bottom("sample", 1.0), top("score", -0.4)])
    draw_record(axis, -2.1, 7.4, "text, Problem", "one pair a response", "right")
    draw_record(axis, 2.1, 7.4, "Rollouts", "prompts and responses as tokens", "left")
    axis.text(0, 6.2, "at the\nsame\ntime", ha="center", va="center", color=SOFT, fontsize=8.5)

    # and meet in one batch
    draw_arrow(axis, [bottom("grade", 0.4), top("explore", -1.0)])
    draw_arrow(axis, [bottom("score", -0.4), top("explore", 1.0)])
    draw_record(axis, -2.45, 4.95, "Verdict", "right or wrong", "right")
    draw_record(axis, 2.45, 4.95, "Scores", "entropies, features", "left")
    draw_record(axis, 0.0, 4.7, "GroupBatch", "all of it, P x G", "center")

    # from rewards to weights
    draw_arrow(axis, [bottom("explore"), top("advantages")])
    draw_record(axis, 0.2, 2.9, "Shaped", "shaped rewards", "left")
    draw_arrow(axis, [bottom("advantages"), top("update")])
    draw_record(axis, 0.2, 1.1, "UpdateBatch", "advantages and responses", "left")
    draw_arrow(axis, [bottom("update"), top("write")])
    draw_record(axis, 0.2, -0.7, "UpdateResult", "metrics", "left")


def draw_ways_around(axis: Axes) -> None:
    """What passes stages by: old log-probabilities on the right, new weights on the left."""
    turn = STAGES["score"][0] + 1.6
    update_y = STAGES["update"][1]
    draw_arrow(axis, [bottom("score", 1.6), (turn, update_y), (WIDTH / 2, update_y)])
    draw_record(axis, turn + 0.2, 2.9, "Scores", "log-probabilities\nbefore the update", "left")

    turn = -5.7
    sample_y = STAGES["sample"][1]
    path = [(-WIDTH / 2, update_y), (turn, update_y), (turn, sample_y), (-WIDTH / 2, sample_y)]
    draw_arrow(axis, path)
    draw_record(axis, turn + 0.2, 2.9, "push_weights()", "new weights\nfor the next step", "left")


def main() -> None:
    """Draw the picture."""
    plt.rcParams["text.color"] = INK
    figure, axis = plt.subplots(figsize=(10.2, 9.8), dpi=110)
    axis.set_xlim(-6.0, 7.4)
    axis.set_ylim(-2.2, 10.8)
    axis.set_aspect("equal")
    axis.axis("off")

    for number, name in enumerate(STAGES, start=1):
        draw_stage(axis, number, name)
    draw_flow(axis)
    draw_ways_around(axis)

    out = Path(sys.argv[1]) if len(sys.argv) > 1 else OUT
    figure.savefig(out, bbox_inches="tight", pad_inches=0.1, facecolor="white")


if __name__ == "__main__":
    main()
