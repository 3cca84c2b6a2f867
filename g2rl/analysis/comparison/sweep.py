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

from g2rl.analysis.tables import cell
from g2rl.runs.files import atomic_path

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
    """One row a run and metric: arm, a column a varied setting, seed, status, folder, metric,
    before, after.

    `before` is of step 0 (NaN where it was not measured then), `after` of the last step. A run that
    has not finished has one row without metric.
    """
    rows: list[dict[str, Any]] = []
    for arm in arms:
        head = {
            "arm": arm.label,
            **arm.settings,
            "seed": arm.seed,
            "status": arm.status,
            "folder": str(arm.folder),
        }
        if arm.status != "finished":
            rows.append({**head, "metric": None, "before": math.nan, "after": math.nan})
            continue
        summary = json.loads((arm.folder / "summary.json").read_text(encoding="utf-8"))
        rows += [
            {
                **head,
                "metric": name,
                "before": summary["before"].get(name, math.nan),
                "after": value,
            }
            for name, value in summary["after"].items()
            if name != "step"
        ]
    frame = pd.DataFrame(rows)
    for key in dict.fromkeys(key for arm in arms for key in arm.settings):
        numbers = pd.to_numeric(frame[key], errors="coerce")
        if numbers.notna().all():  # lam = 0.3 as a number, exploration = g2rl as text
            frame[key] = numbers
    return frame.astype({"before": "float64", "after": "float64", "metric": "string"})


def headlines(frame: pd.DataFrame) -> dict[str, str]:
    """Metrics of the short table that the frame holds, to their headings."""
    names = sorted(frame["metric"].dropna().unique(), key=_natural)
    return {
        name: heading or name.removeprefix("eval/")
        for pattern, heading in HEADLINES
        for name in names
        if re.fullmatch(pattern, name)
    }


def _natural(name: str) -> list[tuple[int, str]]:
    """pass@4 before pass@16."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]


def sweep_table(frame: pd.DataFrame) -> str:
    """Markdown: one row an arm, runs that finished of all, mean after training [95 % t-interval
    over seeds].

    The first row is the mean before training. Runs that did not finish stand below, each with its
    folder.
    """
    chosen = headlines(frame)
    head = ["arm", "finished", *chosen.values()]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    done = frame[frame["status"] == "finished"]
    before = [done.loc[done["metric"] == name, "before"].dropna() for name in chosen]
    if chosen:
        cells = [f"{values.mean():.3f}" if len(values) else "-" for values in before]
        lines.append("| *before training* | - | " + " | ".join(cells) + " |")
    for label in dict.fromkeys(frame["arm"]):
        runs = frame.loc[frame["arm"] == label].drop_duplicates("folder")
        part = done[done["arm"] == label]
        count = int((runs["status"] == "finished").sum())
        cells = [cell(part.loc[part["metric"] == name, "after"].tolist(), count) for name in chosen]
        finished = f"{count} of {len(runs)}"
        lines.append(f"| {' | '.join([label, finished, *cells])} |")
    left = frame[frame["status"] != "finished"]
    lines += [""] * bool(len(left))
    lines += [f"- {row.status}: {row.folder}{_reason(row)}" for row in left.itertuples()]
    return "\n".join(lines)


def _reason(row: Any) -> str:
    """The last line of a failed run's traceback."""
    place = Path(row.folder) / "error.txt"
    if row.status != "failed" or not place.is_file():
        return ""
    lines = place.read_text(encoding="utf-8").strip().splitlines() or [""]
    return f": {lines[-1]}"


def write_sweep(arms: Sequence[Arm], folder: Path) -> str:
    """Write sweep.parquet and table.md into `folder`; returns the table."""
    frame = sweep_frame(arms)
    with atomic_path(folder / "sweep.parquet") as aside:
        frame.to_parquet(aside, index=False)
    table = sweep_table(frame)
    with atomic_path(folder / "table.md") as aside:
        aside.write_text(
            f"{table}\n\nMean over seeds [95 % t-interval over seeds].\n", encoding="utf-8"
        )
    return table
