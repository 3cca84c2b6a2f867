"""Figures of a page: SVG whose colours are the page's own, each with its numbers as a table.

matplotlib draws; its colours are then named by variables of the style sheet, so that one drawing
fits a light and a dark screen. Text stays text: it can be selected, and takes the page's font.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib
import numpy as np
from matplotlib.ticker import MaxNLocator

from g2rl.analysis.figures.style import plt
from g2rl.analysis.palette import CURVE_COLOURS, OTHER_COLOURS, PAIR_COLOURS, SIGNAL_COLOURS
from g2rl.analysis.tables import NOTHING, interval_cell

SIZE = (4.4, 2.9)
"""Width and height of a drawing in inches; the page scales it to its column."""
PLACE = (0.145, 0.15, 0.84, 0.71)
"""Left, bottom, width and height of its axis in shares of `SIZE`: room for two lines of legend."""

INK, MUTED, LINE = "#010203", "#040506", "#070809"
"""Stand for the page's colours of text, of lesser text and of thin lines; nothing else has them."""

SETTINGS = {
    "svg.fonttype": "none",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": LINE,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": LINE,
    "grid.linewidth": 0.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.useoffset": False,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "font.size": 9,
}
"""Of matplotlib, while a drawing is made."""


def _variables() -> dict[str, str]:
    """Colours of a drawing, in lower case, to what stands for them in the page."""
    names = {INK: "var(--ink)", MUTED: "var(--muted)", LINE: "var(--line)"}

    # the style sheet lightens these on a dark screen; without one they are what they are
    palette = (*SIGNAL_COLOURS.values(), *PAIR_COLOURS.values(), *OTHER_COLOURS, *CURVE_COLOURS)
    for colour in palette:
        name = colour.lower()
        names[name] = f"var(--c{name[1:]},{name})"
    return names


VARIABLES = _variables()


@dataclass(slots=True, frozen=True)
class Drawing:
    """One figure of a page.

    Args:
        title: what is drawn.
        svg: the element, safe to put into a page.
        numbers: what is drawn as cells of a table, the headings first.
        caption: what a reader must know beside it; "" if nothing.
    """

    title: str
    svg: str
    numbers: list[list[str]]
    caption: str = ""


@dataclass(slots=True, frozen=True)
class Line:
    """Values (S,) over steps (S,), perhaps with an interval around each."""

    label: str
    colour: Any
    steps: Sequence[float]
    values: Sequence[float]
    low: Sequence[float] = field(default=())
    high: Sequence[float] = field(default=())


def drawing(
    title: str,
    draw: Callable[[Any], None],
    numbers: list[list[str]],
    caption: str = "",
) -> Drawing:
    """Let a function draw on an empty axis, and make a figure of the page of it.

    Args:
        title: stands above the figure and is read aloud in its place.
        draw: is given the axis.
        numbers: what is drawn as cells, the headings first.
        caption: stands below.
    """
    # without a salt, the ids inside a drawing would be others every time
    with matplotlib.rc_context({**SETTINGS, "svg.hashsalt": title}):
        # fixed margins: a layout that is computed draws everything twice
        figure = plt.figure(figsize=SIZE)
        axis = figure.add_axes(PLACE)
        draw(axis)
        buffer = io.StringIO()
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
        plt.close(figure)
    return Drawing(title, inline(buffer.getvalue(), title), numbers, caption)


def inline(svg: str, title: str) -> str:
    """The SVG element alone, without a size of its own, named for those who do not see it."""
    # from the element on; what stands before it is for files of their own
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    head, _, rest = svg.partition(">")
    view = re.search(r'viewBox="[^"]*"', head)
    assert view is not None, "matplotlib writes a viewBox"

    # ids must differ between the drawings of a page, and so do their titles
    prefix = f"d{hashlib.sha256(title.encode('utf-8')).hexdigest()[:8]}-"
    rest = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}", rest)

    # the page's colours
    colours = re.compile("|".join(VARIABLES), re.IGNORECASE)
    rest = colours.sub(lambda match: VARIABLES[match[0].lower()], rest)
    label = title.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return f'<svg {view[0]} role="img" aria-label="{label}">{rest.strip()}'


def lines_drawing(
    title: str,
    unit: str,
    lines: Sequence[Line],
    *,
    caption: str = "",
    share: bool = False,
    level: float | None = None,
) -> Drawing:
    """Lines over training steps.

    Args:
        title: what is drawn.
        unit: of the values.
        lines: at least one of them has a value.
        caption: stands below.
        share: values lie between 0 and 1, and the whole range is shown.
        level: a value that means something, where a thin line is drawn.
    """

    def draw(axis: Any) -> None:
        for line in lines:
            # points are seen where there are few
            marker = "o" if len(line.steps) <= FEW_POINTS else None
            axis.plot(
                line.steps,
                line.values,
                label=line.label,
                color=line.colour,
                marker=marker,
                ms=3.5,
                lw=1.6,
            )

            # the interval behind the line
            if len(line.low):
                axis.fill_between(
                    line.steps, line.low, line.high, color=line.colour, alpha=0.15, lw=0
                )
        if level is not None:
            axis.axhline(level, color=MUTED, lw=0.9, zorder=0.5)

        # steps are whole numbers
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, steps=[1, 2, 5, 10]))
        axis.set_xlabel("step")
        axis.set_ylabel(unit)
        if share:
            axis.set_ylim(0, 1)
        if len(lines) > 1 or lines[0].label:
            legend(axis, len(lines))

    return drawing(title, draw, numbers_of(lines), caption)


FEW_POINTS = 15
"""A line of at most so many points shows each of them."""


def legend(axis: Any, entries: int) -> None:
    """Names of the lines above the axis, where they cover nothing."""
    axis.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=entries if entries <= 3 else 2,
        borderaxespad=0.2,
    )


def numbers_of(lines: Sequence[Line]) -> list[list[str]]:
    """The values of lines as cells: a row a step, a column a line, the headings first."""
    # each line has steps of its own
    cells: dict[float, dict[int, str]] = {}
    for place, line in enumerate(lines):
        for index, (step, value) in enumerate(zip(line.steps, line.values, strict=True)):
            low, high = None, None
            if len(line.low):
                low, high = float(line.low[index]), float(line.high[index])
            cells.setdefault(step, {})[place] = interval_cell(value, low, high, ".4g")

    # one table for all lines
    rows = [["step", *(line.label or "value" for line in lines)]]
    for step, of_step in sorted(cells.items()):
        rows.append([f"{step:g}", *(of_step.get(place, NOTHING) for place in range(len(lines)))])
    return rows


@dataclass(slots=True, frozen=True)
class Measured:
    """A value with its interval before and after training."""

    label: str
    before: tuple[float, float, float]
    after: tuple[float, float, float]


def ends_drawing(title: str, unit: str, measured: Sequence[Measured], caption: str) -> Drawing:
    """Values before and after training side by side, each with its interval."""

    def draw(axis: Any) -> None:
        # a little beside each other, so that intervals do not cover one another
        for name, beside, colour, face in (
            ("before", -0.12, MUTED, "none"),
            ("after", 0.12, CURVE_COLOURS[0], CURVE_COLOURS[0]),
        ):
            values_M3 = np.array([getattr(one, name) for one in measured])
            places = np.arange(len(measured)) + beside
            bars = np.abs(values_M3[:, 1:] - values_M3[:, :1]).T
            axis.errorbar(
                places,
                values_M3[:, 0],
                bars,
                fmt="o",
                ms=6,
                color=colour,
                mfc=face,
                capsize=3,
                lw=1.6,
                label=f"{name} training",
            )
        axis.set_xticks(range(len(measured)), [one.label for one in measured])
        axis.set_xlim(-0.5, len(measured) - 0.5)
        axis.set_ylim(0, 1)
        axis.set_ylabel(unit)
        legend(axis, 2)

    # the same values for those who read
    rows = [["", "before training", "after training"]]
    for one in measured:
        rows.append([one.label, interval_cell(*one.before), interval_cell(*one.after)])
    return drawing(title, draw, rows, caption)


def histogram_drawing(
    title: str, values: Sequence[tuple[str, str, np.ndarray]], caption: str
) -> Drawing:
    """Distributions of cosines on [-1, 1] in 20 bins, as densities.

    Args:
        title: what is drawn.
        values: label, colour and the cosines of each class; classes without any are left out.
        caption: how they were measured.
    """
    present = [(label, colour, one) for label, colour, one in values if len(one)]

    def draw(axis: Any) -> None:
        for label, colour, one in present:
            # densities, because classes differ in their number of pairs
            axis.hist(
                one,
                bins=20,
                range=(-1, 1),
                density=True,
                histtype="step",
                lw=1.6,
                color=colour,
                label=label,
            )
        axis.axvline(0, color=MUTED, lw=0.9, zorder=0.5)
        axis.set_xticks([-1, -0.5, 0, 0.5, 1])
        axis.set_xlabel("cosine of gradient features, pairs of one group")
        axis.set_ylabel("density")
        legend(axis, len(present))

    # what a histogram hides: how many pairs there were, and their mean
    rows = [["pairs", "number", "mean cosine", "negative"]]
    for label, _, one in present:
        rows.append([label, str(len(one)), f"{one.mean():+.3f}", f"{(one < 0).mean():.1%}"])
    return drawing(title, draw, rows, caption)
