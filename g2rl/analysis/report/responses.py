"""The responses that a page can show: chosen within a budget, joined with what the signal made of
them, and packed.

A page holds whole steps. If a run has more responses than the budget, steps are taken at equal
distances, the first and the last among them, and the page says so.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from g2rl.analysis.report.safe_text import shown_text
from g2rl.runs.layout import RunFolder
from g2rl.runs.tracking import read_table

TEXTS = ("completion", "answer", "finish", "route")
"""Columns of a response that are text."""
NOT_NUMBERS = ("step", "problem", "sample", "correct", "cosine", *TEXTS)
"""Columns of geometry/ that are no number of a single response, or that the page has from
rollouts/."""
FIRST_NUMBERS = ("reward", "shaped_reward", "nu", "advantage", "tokens")
"""Numbers of a response that come first, in this order; the others follow as they are stored."""


@dataclass(slots=True, frozen=True)
class Budget:
    """How much of a run a page holds.

    Args:
        responses: at most, of all steps together; one step is always there.
        characters: at most, of one response or prompt.
        total_characters: at most, of all responses together.
    """

    responses: int = 20_000
    characters: int = 4_000
    total_characters: int = 12_000_000

    def __post_init__(self) -> None:
        if self.responses < 1 or self.characters < 4 or self.total_characters < 1:
            raise ValueError(
                f"a page needs room for a response of four characters, got {self.responses} "
                f"responses of {self.characters} characters, {self.total_characters} in all"
            )


def chosen_steps(steps: Sequence[int], count: int) -> list[int]:
    """`count` of the steps at equal distances, the first and the last among them.

    One step alone is the last one; all are returned if there are no more than `count`.
    """
    if count >= len(steps):
        return list(steps)
    if count <= 1:
        return list(steps[-1:])
    places = np.linspace(0, len(steps) - 1, count).round().astype(int)
    return [steps[place] for place in places]


def responses_of(folder: Path, budget: Budget) -> dict[str, Any]:
    """The responses of a run as plain data for the page's script.

    Args:
        folder: of the run.
        budget: how much of it the page may hold.

    Returns:
        `stored`: the number of steps on disk. `numbers`: names of the numbers of a response, in the
        order in which a page shows them. `steps`: a list of {"step", "groups"}. A group has "id",
        "prompt" and "gold"; lists with one value a response under "correct", "completion",
        "answer", "finish" and "route"; "numbers", a list for each of the names or None; and, with
        gradient features, "cosines": hundredths of the pairs i < j, row by row of the upper
        triangle.
    """
    stored = list(RunFolder(folder).table_files("rollouts"))
    data: dict[str, Any] = {"stored": len(stored), "numbers": [], "steps": []}
    if not stored:
        return data

    # the last step says how many there is room for
    last = _Step.read(folder, stored[-1], budget)
    steps = chosen_steps(stored, last.steps_within(budget))

    # all of them, with the numbers that any of them has
    tables = [_Step.read(folder, step, budget) for step in steps[:-1]]
    tables.append(last)
    names = dict.fromkeys(FIRST_NUMBERS)
    for table in tables:
        names.update(dict.fromkeys(table.numbers))
    data["numbers"] = [name for name in names if any(name in table.numbers for table in tables)]
    for table in tables:
        data["steps"].append({"step": table.step, "groups": table.groups(data["numbers"])})
    return data


@dataclass(slots=True, frozen=True)
class _Step:
    """The two tables of one step, as columns of one value a response."""

    step: int
    texts: Mapping[str, Sequence[str]]
    rollouts: Mapping[str, Sequence[Any]]
    numbers: Mapping[str, Sequence[float | None]]
    cosines: Sequence[Sequence[float]] | None

    @classmethod
    def read(cls, folder: Path, step: int, budget: Budget) -> _Step:
        """Read a step; its texts are already as they are shown.

        Raises:
            ValueError: the two tables of the step are not about the same responses.
        """
        rollouts = read_table(folder, "rollouts", step)
        geometry = read_table(folder, "geometry", step) or {}
        assert rollouts is not None, "the step was found in this folder"

        # a file that is damaged, or not of this version
        missing = {"problem", "sample", "correct", "tokens", "prompt", "gold", *TEXTS} - set(
            rollouts
        )
        if missing:
            raise ValueError(
                f"{folder}: the table of step {step} in rollouts/ has no column {min(missing)}"
            )

        # both are written by one step, row by row
        if geometry and geometry["problem"] != rollouts["problem"]:
            raise ValueError(
                f"{folder}: the tables of step {step} in rollouts/ and geometry/ are about "
                "different responses; train the step again"
            )
        texts = {}
        for name in ("prompt", "gold", *TEXTS):
            texts[name] = [shown_text(text or "", budget.characters) for text in rollouts[name]]

        # numbers of the signal, and the length if there is no signal's table
        numbers: dict[str, Sequence[float | None]] = {"tokens": rollouts["tokens"]}
        for name, values in geometry.items():
            if name not in NOT_NUMBERS:
                numbers[_short_name(name)] = values
        return cls(step, texts, rollouts, numbers, geometry.get("cosine"))

    def steps_within(self, budget: Budget) -> int:
        """How many steps like this one the budget has room for, at least one."""
        rows = len(self.rollouts["problem"])
        characters = sum(len(text) for text in self.texts["completion"])
        most = min(budget.responses // rows, budget.total_characters // max(characters, 1))
        return max(most, 1)

    def groups(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """The groups of the step, each with its responses; numbers in the order of `names`."""
        # a group begins where its first response stands
        starts = [row for row, sample in enumerate(self.rollouts["sample"]) if sample == 0]
        ends = [*starts[1:], len(self.rollouts["sample"])]
        columns = [short_numbers(self.numbers.get(name)) for name in names]

        groups: list[dict[str, Any]] = []
        for start, end in zip(starts, ends, strict=True):
            group: dict[str, Any] = {
                "id": str(self.rollouts["problem"][start]),
                "prompt": self.texts["prompt"][start],
                "gold": self.texts["gold"][start],
                "correct": self.rollouts["correct"][start:end],
                "numbers": [column and column[start:end] for column in columns],
            }
            for name in TEXTS:
                group[name] = self.texts[name][start:end]
            if self.cosines is not None:
                group["cosines"] = hundredths(self.cosines[start:end])
            groups.append(group)
        return groups


def _short_name(column: str) -> str:
    """The novelty of G2RL is called nu, whether it trains, observes or is one of several parts."""
    return column.removeprefix("observe_").removeprefix("g2rl_")


def short_numbers(values: Sequence[float | None] | None) -> list[float | None] | None:
    """A column in five significant digits, as a page needs them; None for what is not finite.

    A column that a step does not have stays None.
    """
    if values is None:
        return None
    numbers_N = np.array(values, dtype=np.float64)

    # how many digits stand before the point decides how many may stand after it
    finite_N = np.isfinite(numbers_N)
    sizes_N = np.abs(np.where(finite_N & (numbers_N != 0), numbers_N, 1.0))
    scale_N = 10.0 ** (4 - np.floor(np.log10(sizes_N)))
    rounded = (np.where(finite_N, numbers_N, 0.0) * scale_N).round() / scale_N

    # integers need no point
    shown: list[float | None] = []
    for value, is_finite in zip(rounded.tolist(), finite_N.tolist(), strict=True):
        whole = int(value) if value.is_integer() else value
        shown.append(whole if is_finite else None)
    return shown


def hundredths(rows: Sequence[Sequence[float]]) -> list[int]:
    """The pairs i < j of a matrix of cosines (G, G), row by row, rounded to hundredths."""
    cosines_GG = np.asarray(rows, dtype=np.float64)
    first, second = np.triu_indices(len(cosines_GG), k=1)
    pairs = np.nan_to_num(cosines_GG[first, second])
    return (100 * pairs).round().astype(int).tolist()


def packed(data: Any) -> str:
    """Plain data as JSON, gzip and base64: small, and no text of a model can end its element.

    The same data give the same text.
    """
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode("utf-8"), 6, mtime=0)).decode("ascii")


def unpacked(text: str) -> Any:
    """What `packed` was given."""
    return json.loads(gzip.decompress(base64.b64decode(text)))
