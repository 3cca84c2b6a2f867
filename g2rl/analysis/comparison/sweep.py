"""The end of a sweep: one long table of its arms and a short one with intervals over seeds."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from g2rl.analysis.tables import is_share, markdown, seeds_cell
from g2rl.runs.files import atomic_path
from g2rl.runs.layout import RunFolder

STATUSES = ("finished", "failed", "interrupted", "missing")
HEADLINES = (
    (r"eval/.+/pass@\d+", ""),
    (r"eval/.+/maj@\d+", ""),
    (r"eval/.+/distinct", "distinct solutions"),
    (r"eval/.+/length", "length, tokens"),
    (r"probe/cosine", "gradient cosine"),
    (r"probe/negative_pairs", "negative pairs"),
)
"""Metrics of the short table, as patterns, and their headings; "" takes the metric's name without
eval/."""


@dataclass(slots=True, frozen=True)
class Arm:
    """One run of a sweep.

    Args:
        label: what the sweep varies beside the seed, ``exploration.lam=0.3``; equal for the seeds
            of an arm.
        settings: the same by key.
        folder: of the run.
        status: of STATUSES.
    """

    label: str
    seed: int
    settings: dict[str, str]
    folder: Path
    status: str


def sweep_frame(arms: Sequence[Arm]) -> pd.DataFrame:
    """One row a run and metric.

    Columns: arm, a column a varied setting, seed, status, folder, metric, before, after. `before`
    is of step 0 (NaN where it was not measured then), `after` of the last step. A run that has not
    finished has one row without metric.
    """
    # finished runs have a row a metric, others one row
    rows: list[dict[str, Any]] = []
    for arm in arms:
        rows += _rows_of(arm)
    frame = pd.DataFrame(rows)

    # a setting whose values are all numbers becomes a column of numbers: lam, but not exploration
    setting_names = dict.fromkeys(key for arm in arms for key in arm.settings)
    for key in setting_names:
        numbers = pd.to_numeric(frame[key], errors="coerce")
        if numbers.notna().all():
            frame[key] = numbers
    return frame.astype({"before": "float64", "after": "float64", "metric": "string"})


def _rows_of(arm: Arm) -> list[dict[str, Any]]:
    """The rows of one run in `sweep_frame`."""
    about_the_run = {
        "arm": arm.label,
        **arm.settings,
        "seed": arm.seed,
        "status": arm.status,
        "folder": str(arm.folder),
    }

    # an unfinished run has no numbers that could be compared
    if arm.status != "finished":
        return [{**about_the_run, "metric": None, "before": math.nan, "after": math.nan}]

    # metrics before and after training
    summary = json.loads(RunFolder(arm.folder).summary.read_text(encoding="utf-8"))
    rows = []
    for name, after in summary["after"].items():
        if name != "step":
            before = summary["before"].get(name, math.nan)
            rows.append({**about_the_run, "metric": name, "before": before, "after": after})
    return rows


def headlines(frame: pd.DataFrame) -> dict[str, str]:
    """Metrics of the short table that the frame holds, to their headings."""
    names = sorted(frame["metric"].dropna().unique(), key=_natural_order)

    # in the order of the patterns, whatever the order of the metrics
    headings: dict[str, str] = {}
    for pattern, heading in HEADLINES:
        for name in names:
            if re.fullmatch(pattern, name):
                headings[name] = heading or name.removeprefix("eval/")
    return headings


def _natural_order(name: str) -> list[tuple[int, str]]:
    """Sorts pass@4 before pass@16."""
    # digits compare as numbers, the rest as text
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdigit() else (0, part) for part in parts]


def sweep_table(frame: pd.DataFrame) -> str:
    """Markdown: the table of `sweep_rows`, and below it what did not finish."""
    lines = [markdown(sweep_rows(frame))]
    missing = unfinished(frame)
    if missing:
        lines += ["", *missing]
    return "\n".join(lines)


def unfinished(frame: pd.DataFrame) -> list[str]:
    """A line for each run that did not finish, with its folder and the reason if there is one."""
    lines: list[str] = []
    for run in frame[frame["status"] != "finished"].itertuples():
        lines.append(f"- {run.status}: {run.folder}{_reason(Path(run.folder), run.status)}")
    return lines


def sweep_rows(frame: pd.DataFrame) -> list[list[str]]:
    """Cells: one row an arm, with its finished runs and mean after training [95 % t-interval].

    The first row below the headings is the mean before training.
    """
    # headings, and a first row with the mean before training
    headings = headlines(frame)
    finished = frame[frame["status"] == "finished"]
    rows = [["arm", "finished", *headings.values()]]
    if headings:
        rows.append(_before_row(finished, list(headings)))

    # one row an arm
    for label in dict.fromkeys(frame["arm"]):
        runs = frame.loc[frame["arm"] == label].drop_duplicates("folder")
        count = int((runs["status"] == "finished").sum())
        row = [label, f"{count} of {len(runs)}"]
        of_arm = finished[finished["arm"] == label]
        for name in headings:
            values = of_arm.loc[of_arm["metric"] == name, "after"].tolist()
            row.append(seeds_cell(values, count, is_share=is_share(name)))
        rows.append(row)
    return rows


def _before_row(finished: pd.DataFrame, metrics: Sequence[str]) -> list[str]:
    """Mean before training over all runs that measured it."""
    row = ["*before training*", "-"]
    for name in metrics:
        values = finished.loc[finished["metric"] == name, "before"].dropna()
        row.append(f"{values.mean():.3f}" if len(values) else "-")
    return row


def _reason(folder: Path, status: str) -> str:
    """The last line of a failed run's traceback, ": " before it; "" where there is none."""
    # only failed runs have a reason of their own
    traceback = RunFolder(folder).error
    if status != "failed" or not traceback.is_file():
        return ""
    lines = traceback.read_text(encoding="utf-8").strip().splitlines() or [""]
    return f": {lines[-1]}"


def set_aside_earlier_tables(arms: Sequence[Arm], folder: Path) -> None:
    """Give the tables of an earlier sweep in this folder names of their own, so that none is lost.

    Args:
        arms: of this sweep. One that holds all arms of the earlier sweep takes its tables' place.
        folder: of both sweeps.
    """
    place = folder / "sweep.parquet"
    if not place.exists():
        return
    earlier = set(pd.read_parquet(place, columns=["folder"])["folder"])
    if earlier <= {str(arm.folder) for arm in arms}:
        return

    # the first number that is free
    number = 1
    while (folder / f"sweep-{number}.parquet").exists():
        number += 1
    place.rename(folder / f"sweep-{number}.parquet")
    table = folder / "table.md"
    if table.exists():
        table.rename(folder / f"table-{number}.md")


def write_sweep(arms: Sequence[Arm], folder: Path) -> pd.DataFrame:
    """Write sweep.parquet and table.md into `folder`; returns what is in the former."""
    set_aside_earlier_tables(arms, folder)

    # the long table
    frame = sweep_frame(arms)
    with atomic_path(folder / "sweep.parquet") as aside:
        frame.to_parquet(aside, index=False)

    # the short one
    table = sweep_table(frame)
    with atomic_path(folder / "table.md") as aside:
        aside.write_text(
            f"{table}\n\nMean over seeds [95 % t-interval over seeds].\n", encoding="utf-8"
        )
    return frame
