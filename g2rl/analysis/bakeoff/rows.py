"""What a bake-off stores of each run: one line of JSON, a few kB, in one file a task.

A row says what the run was (`task`, `arm`, `rate`, `seed`, `overrides`, `protocol`, `command`,
`config_sha256`), what it cost (`cpu_seconds`) and what was measured through training: `curve` has
one entry an evaluation, with `step`, `samples`, `pass@k`, `distinct`, and the same of the hard
subset as `hard/pass@k` and `hard/distinct`.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]
"""One run; see the head of the file."""

KEY = ("task", "arm", "rate", "seed")
"""What a run is called by; a later row of the same key replaces an earlier one."""


@dataclass(slots=True, frozen=True)
class Rows:
    """Rows by their key."""

    by_key: dict[tuple[Any, ...], Row]

    def find(self, identity: Mapping[str, Any]) -> Row | None:
        """The row that has all these values; None if there is none, or one of another protocol."""
        row = self.by_key.get(tuple(identity[name] for name in KEY))
        if row is None or any(row.get(name) != value for name, value in identity.items()):
            return None
        return row

    def of(self, task: str) -> list[Row]:
        """All rows of a task."""
        return [row for row in self.by_key.values() if row["task"] == task]


def read_rows(folders: Sequence[Path]) -> Rows:
    """Every row in the files of some folders; of two rows of one run the last one counts.

    Raises:
        ValueError: a line that is not the last of its file is no row.
    """
    # folders in their order, so that own rows stand above stored ones
    by_key: dict[tuple[Any, ...], Row] = {}
    for folder in folders:
        for path in sorted(folder.glob("*.jsonl")):
            for row in _lines(path):
                by_key[tuple(row[name] for name in KEY)] = row
    return Rows(by_key)


def _lines(path: Path) -> list[Row]:
    """The rows of one file; a last line that was cut off is left out."""
    # one row a line
    rows: list[Row] = []
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            # a crash cuts off the last line, never one before it
            if number < len(lines):
                raise ValueError(f"{path}, line {number}: not JSON ({error.msg})") from error
    return rows


def add_row(folder: Path, row: Row) -> None:
    """Append a row to the file of its task; it is on the disk when this returns."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{row['task']}.jsonl").open("a+b") as out:
        # two runs may end at once
        fcntl.flock(out, fcntl.LOCK_EX)

        # a process that was killed while it wrote has left half a line, which no row may follow
        out.seek(0, os.SEEK_END)
        if out.tell() > 0:
            out.seek(-1, os.SEEK_END)
            if out.read(1) != b"\n":
                _drop_half_line(out)
        out.write(json.dumps(row, sort_keys=True).encode() + b"\n")
        out.flush()
        os.fsync(out.fileno())


def _drop_half_line(out: Any) -> None:
    """Cut an open file off after its last whole line."""
    out.seek(0)
    whole = out.read().rpartition(b"\n")
    out.truncate(len(whole[0]) + len(whole[1]))
    out.seek(0, os.SEEK_END)


def write_rows(folder: Path, rows: Rows) -> None:
    """Write rows sorted by their key, one file a task, so that what is stored shows small diffs."""
    # in an order that does not depend on when a run ended
    for task in sorted({row["task"] for row in rows.by_key.values()}):
        ordered = sorted(rows.of(task), key=lambda row: (row["arm"], row["seed"], row["rate"]))
        lines = [json.dumps(row, sort_keys=True) + "\n" for row in ordered]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{task}.jsonl").write_text("".join(lines), encoding="utf-8")


def score(row: Row, metrics: Sequence[str]) -> float:
    """Mean of some metrics after training; it chooses the rate."""
    last = row["curve"][-1]
    return sum(last[name] for name in metrics) / len(metrics)


def best_rate(rows: Sequence[Row | None], choose_by: Sequence[str]) -> str | None:
    """The rate of the row with the highest score, the first of equal ones.

    Args:
        rows: of one arm and seed, one a rate; None where the run is missing.
        choose_by: metrics whose mean is the score.

    Returns:
        None if a row is missing, because the best of some rates is not the best of all.
    """
    # the best of some rates is not the best of all
    best: Row | None = None
    for row in rows:
        if row is None:
            return None
        if best is None or score(row, choose_by) > score(best, choose_by):
            best = row
    return None if best is None else str(best["rate"])
