"""One group seen closely: the cosines S between its responses, and beside each row what the
response says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from g2rl.analysis.captions import conditions
from g2rl.analysis.figures.style import caption_below, plt, save_figure
from g2rl.analysis.geometry.records import GeometrySettings
from g2rl.analysis.geometry.report import Tables, cells, samples_of
from g2rl.analysis.palette import PAIR_COLOURS
from g2rl.formulas.pairs import ALL_PAIRS, CORRECT_CORRECT, WRONG_WRONG, pairs_by_class

RIGHT, WRONG = PAIR_COLOURS[CORRECT_CORRECT], PAIR_COLOURS[WRONG_WRONG]
NUMBERED = 16  # responses up to which every square shows its number


def most_mixed(responses: pd.DataFrame) -> str:
    """The problem whose verdicts are most evenly split, the first of several.

    Args:
        responses: columns problem, correct; one cell of `g2rl-analyze geometry`.
    """
    # one half is the most mixed share
    share = responses.groupby("problem", sort=False)["correct"].mean()
    return str((share - 0.5).abs().idxmin())


def cosines_of(pairs: pd.DataFrame, size: int) -> np.ndarray:
    """S (G, G), symmetric with ones on the diagonal, from the pairs i < j of one group.

    Raises:
        ValueError: not every pair once.
    """
    # each pair i < j once
    first, second = pairs["first"].to_numpy(), pairs["second"].to_numpy()
    present = set(zip(first.tolist(), second.tolist(), strict=True))
    expected = {(i, j) for j in range(size) for i in range(j)}
    if present != expected or len(pairs) != len(present):
        raise ValueError(f"{len(pairs)} rows are not the pairs of one group of {size} responses")

    cosine_GG = np.eye(size)
    cosine_GG[first, second] = cosine_GG[second, first] = pairs["cosine"]
    return cosine_GG


def class_means(cosine_GG: np.ndarray, correct_G: np.ndarray) -> dict[str, float]:
    """Mean cosine of the pairs i < j of each class; a class without a pair is absent."""
    # the mean over all pairs is no class
    cosines_of_class = pairs_by_class(cosine_GG, correct_G)
    cosines_of_class.pop(ALL_PAIRS, None)
    return {name: float(cosines.mean()) for name, cosines in cosines_of_class.items()}


def draw_group(
    tables: Tables,
    about: GeometrySettings,
    path: Path,
    problem: str | None = None,
    width: int = 84,
) -> Path:
    """Heat map of S of one group of the first cell, right responses first, completions beside the
    rows.

    Args:
        tables, about: of `g2rl.analysis.stored.read_geometry`.
        problem: its id; None takes the one whose verdicts are most evenly split.
        width: characters to which a completion is cut, in its middle.

    Raises:
        ValueError: no such problem.
    """
    # one group of the first cell
    cell = cells(tables)[0]
    responses = samples_of(tables, *cell)
    problem = problem or most_mixed(responses)
    group = responses[responses["problem"] == problem].sort_values("sample")
    if group.empty:
        raise ValueError(
            f"no problem {problem!r}; there are {', '.join(responses['problem'].unique())}"
        )
    pairs = tables["pairs"]
    of_group = (
        (pairs["problem"] == problem)
        & (pairs["sampled_at"] == cell.sampled_at)
        & (pairs["scored_at"] == cell.scored_at)
    )
    cosine_GG = cosines_of(pairs[of_group], len(group))

    # right responses first
    order = np.argsort(~group["correct"].to_numpy(), kind="stable")
    cosine_GG, group = cosine_GG[np.ix_(order, order)], group.iloc[order]

    # the map at the left, the texts at the right, row by row
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(11, 0.34 * len(group) + 2.2), layout="constrained", width_ratios=(1, 1.55)
    )
    draw_heat(figure, left, cosine_GG, group)
    write_responses(right, group, width)

    # the message: means by class
    means = class_means(cosine_GG, group["correct"].to_numpy())
    by_class = ", ".join(f"{name} {value:+.2f}" for name, value in means.items())
    figure.suptitle(f"“{group['prompt'].iloc[0]}”: mean gradient cosine {by_class}", fontsize=11)
    caption_below(
        figure,
        f"{about['model']}; {conditions(about, *cell)}; ✓ right, ✗ wrong; "
        f"text cut to {width} characters",
    )
    return save_figure(figure, path)


def draw_heat(figure: Any, axis: Any, cosine_GG: np.ndarray, group: pd.DataFrame) -> None:
    """S with a line between right and wrong; red and blue are told apart by any colour vision.

    Args:
        group: its responses in the order of the rows, columns sample and correct.
    """
    # one scale for every group
    image = axis.imshow(cosine_GG, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
    figure.colorbar(
        image, ax=axis, shrink=0.85, location="left", label="cosine of gradient features, S"
    )
    if len(group) <= NUMBERED:
        _write_numbers(axis, cosine_GG)

    # the line between right and wrong, if there are both
    border = int(group["correct"].sum()) - 0.5
    if 0 < border < len(group) - 1:
        axis.axhline(border, color="black", lw=1.6)
        axis.axvline(border, color="black", lw=1.6)

    # number and verdict of each response, at both axes
    names = []
    for sample, correct in zip(group["sample"], group["correct"], strict=True):
        names.append(f"{sample} {mark(correct)}")
    axis.set_xticks(range(len(group)), [name.replace(" ", "\n") for name in names], fontsize=8)
    axis.set_yticks(range(len(group)), names, fontsize=8)
    axis.yaxis.tick_right()
    axis.set_xlabel("response")
    axis.tick_params(length=0)


def _write_numbers(axis: Any, cosine_GG: np.ndarray) -> None:
    """Each cosine in its square, white on dark colours."""
    for i, j in np.ndindex(cosine_GG.shape):
        value = cosine_GG[i, j]
        axis.text(
            j,
            i,
            f"{value:.1f}".replace("-0.0", "0.0"),
            ha="center",
            va="center",
            fontsize=7,
            color="white" if abs(value) > 0.6 else "black",
        )


def write_responses(axis: Any, group: pd.DataFrame, width: int) -> None:
    """A line a response at the height of its row, in the colour of its verdict."""
    for row, (text, correct) in enumerate(zip(group["completion"], group["correct"], strict=True)):
        line = cut(text, width).replace("$", r"\$")  # a dollar would start mathematics
        colour = RIGHT if correct else WRONG
        axis.text(0, row, line, va="center", fontsize=8, family="monospace", color=colour)
    axis.set(xlim=(0, 1), ylim=(len(group) - 0.5, -0.5))
    axis.axis("off")


def cut(text: str, width: int) -> str:
    """One line of at most `width` characters; longer texts keep their beginning and their end."""
    # line breaks would leave the row
    line = " ".join(text.split())
    if len(line) <= width:
        return line

    # the answer stands at the end, the approach at the beginning
    head = (width - 3) // 2
    tail = width - 3 - head
    return f"{line[:head].rstrip()} … {line[-tail:].lstrip()}"


def mark(correct: bool) -> str:
    return "✓" if correct else "✗"
