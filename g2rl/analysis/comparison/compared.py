"""Runs that are compared: read once, told apart, and tested. Pages and tables show what this holds.

`g2rl-analyze compare` and `g2rl-report` read runs by `read_compared`, so that both say the same.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from g2rl.analysis.comparison.alike import comparable
from g2rl.analysis.comparison.choices import Choices
from g2rl.analysis.comparison.contrasts import ArmContrast, contrast_rows, contrasts, explanation
from g2rl.analysis.comparison.paired import paired_rows
from g2rl.analysis.comparison.runs import Run, RunsError, group_runs, long_table, runs_to_compare
from g2rl.analysis.comparison.sweep import headlines
from g2rl.analysis.tables import comparison_rows

NO_SIGNAL = "none"
"""The arm of plain GRPO, to which the others are compared if it is there."""


@dataclass(slots=True, frozen=True)
class Compared:
    """Arms that were measured on the same held-out problems.

    Args:
        name: what they were measured on, ``benchmark=countdown``; "" if that is alike in all runs.
        arms: label of each arm to its runs, in order of seed.
        frame: long, of `g2rl.analysis.comparison.runs.long_table`.
        columns: metrics of the tables to their headings.
        against: the arm that is subtracted from the others; None if no other is there.
        found: every other arm minus that one, on every column.
    """

    name: str
    arms: dict[str, list[Run]]
    frame: pd.DataFrame
    columns: dict[str, str]
    against: str | None
    found: list[ArmContrast]

    @property
    def runs(self) -> list[Run]:
        """Every run, arm after arm."""
        return [run for members in self.arms.values() for run in members]

    # the tables, as cells with the headings first

    def arm_rows(self, first: bool = False) -> list[list[str]]:
        """Every arm by itself: mean over seeds of the last values, or of the first ones."""
        return comparison_rows(self.frame, self.columns, first)

    def paired_rows(self) -> list[list[str]]:
        """What every other arm changes, an arm a row; [] where nothing is subtracted."""
        if self.against is None:
            return []
        return paired_rows(self.frame, self.columns, self.against)

    def contrast_rows(self) -> list[list[str]]:
        """The same, a contrast a row, with p values; [] where nothing is subtracted."""
        if self.against is None:
            return []
        return contrast_rows(self.found, self.columns, self.against)

    def explanation(self) -> str:
        """What `contrast_rows` says, in sentences; "" where nothing is subtracted."""
        return "" if self.against is None else explanation(self.found, self.against)


def read_compared(folders: Sequence[Path], choices: Choices) -> tuple[list[Compared], list[Run]]:
    """Read and compare runs, those of each benchmark by themselves.

    Args:
        folders: of runs, or folders that hold runs.
        choices: of the user.

    Returns:
        One comparison for each benchmark, and the unfinished runs that were left out.

    Raises:
        RunsError: no run, no finished run without `choices.partial`, a seed twice in an arm, or no
            such arm.
        ValueError: no run reports a metric that was asked for.
    """
    members, left_out = runs_to_compare(folders, choices.partial)

    # told apart and read, one benchmark after the other
    alike = comparable(members)
    arms: dict[str, dict[str, list[Run]]] = {}
    for name, of_benchmark in alike.items():
        arms[name] = group_runs(of_benchmark, choices.by, among=members)
    frames = {name: long_table(of_benchmark) for name, of_benchmark in arms.items()}
    _refuse_unknown(choices, arms, frames)
    compared: list[Compared] = []
    for name, frame in frames.items():
        compared.append(_compared(name if len(frames) > 1 else "", arms[name], frame, choices))
    return compared, left_out


def _refuse_unknown(
    choices: Choices, arms: dict[str, dict[str, list[Run]]], frames: dict[str, pd.DataFrame]
) -> None:
    """Refuse names of metrics and of an arm that are in no comparison at all."""
    # a metric may be of one benchmark only
    known = list(dict.fromkeys(name for frame in frames.values() for name in frame["metric"]))
    for pattern in (*choices.metrics, *choices.family):
        if not fnmatch.filter(known, pattern):
            raise ValueError(f"no run reports a metric {pattern!r}{_hint_at(pattern, known)}")

    # and so may an arm
    labels = list(dict.fromkeys(label for of_benchmark in arms.values() for label in of_benchmark))
    if choices.against is not None and choices.against not in labels:
        raise RunsError(
            f"no arm {choices.against!r} to compare with; there is {', '.join(map(repr, labels))}"
        )


def _compared(
    name: str, arms: dict[str, list[Run]], frame: pd.DataFrame, choices: Choices
) -> Compared:
    """The comparison of arms of one benchmark."""
    columns = headlines(frame)
    if choices.metrics:
        columns = matching(frame, choices.metrics)

    # plain GRPO is what others are compared with, unless somebody says otherwise
    against = choices.against
    if against is None:
        against = NO_SIGNAL if NO_SIGNAL in arms else next(iter(arms))
    if against not in arms or len(arms) == 1:
        return Compared(name, arms, frame, columns, None, [])

    # the family is stated by name, or is all that the table shows
    family = list(columns)
    if choices.family:
        family = list(matching(frame, choices.family))
    found = contrasts(frame, columns, against, family)
    return Compared(name, arms, frame, columns, against, found)


def matching(frame: pd.DataFrame, patterns: Sequence[str]) -> dict[str, str]:
    """Names of metrics that match one of the patterns, in their order, to headings."""
    names = list(dict.fromkeys(frame["metric"]))
    headings: dict[str, str] = {}
    for pattern in patterns:
        for name in fnmatch.filter(names, pattern):
            headings[name] = name.removeprefix("eval/")
    return headings


def _hint_at(pattern: str, names: Sequence[str]) -> str:
    """The nearest names to one that does not exist, as the end of an error message."""
    # misspelt, or a part of a longer name
    near = difflib.get_close_matches(pattern, names, n=3)
    if not near:
        near = [name for name in names if pattern in name][:3]
    return f"; did you mean {' or '.join(near)}?" if near else ""
