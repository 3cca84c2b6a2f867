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
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from g2rl.runs.files import atomic_path, read_lines
from g2rl.tasks.places import at_line

Row = dict[str, Any]
"""One run; see the head of the file."""

KEY = ("task", "arm", "rate", "seed")
"""What a run is called by; a later row of the same key replaces an earlier one."""
TEXTS = ("task", "arm", "rate", "protocol", "command")
"""Entries of a row that are texts."""


def identity_of(
    task: str, arm: str, rate: str, seed: int, overrides: Sequence[str], protocol: str
) -> dict[str, Any]:
    """What a stored row must have to be the row of a run."""
    key = dict(zip(KEY, (task, arm, rate, seed), strict=True))
    return {**key, "overrides": list(overrides), "protocol": protocol}


def is_of(row: Row, identity: Mapping[str, Any]) -> bool:
    """Whether a row is of the run with this identity."""
    return all(row.get(name) == value for name, value in identity.items())


@dataclass(slots=True, frozen=True)
class Rows:
    """Rows by their key."""

    by_key: dict[tuple[Any, ...], Row]

    def find(self, identity: Mapping[str, Any]) -> Row | None:
        """The row that has all these values; None if there is none, or one of another protocol."""
        row = self.by_key.get(tuple(identity[name] for name in KEY))
        return row if row is not None and is_of(row, identity) else None

    def of(self, task: str) -> list[Row]:
        """All rows of a task."""
        return [row for row in self.by_key.values() if row["task"] == task]


def read_rows(folders: Sequence[Path]) -> Rows:
    """Every row in the files of some folders; of two rows of one run the last one counts.

    Raises:
        ValueError: a line is no row. The last line of a file may be cut off.
    """
    # folders in their order, so that own rows stand above stored ones
    by_key: dict[tuple[Any, ...], Row] = {}
    for folder in folders:
        for path in sorted(folder.glob("*.jsonl")):
            for row in _lines(path):
                by_key[tuple(row[name] for name in KEY)] = row
    return Rows(by_key)


def _lines(path: Path) -> list[Row]:
    """The rows of one file; a last line that was cut off is no row."""
    rows: list[Row] = []
    lines = read_lines(path)
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            # a crash cuts off the last line, never one before it, and never its end alone
            if number < len(lines):
                raise ValueError(f"{at_line(path, number)}: not JSON ({error})") from error
            continue
        fault = _fault_of(row)
        if fault is not None:
            raise ValueError(f"{at_line(path, number)}: no row of a bake-off, {fault}")
        rows.append(row)
    return rows


def _fault_of(row: Any) -> str | None:
    """What keeps a value from being a row, as the end of a sentence; None for a row."""
    if not isinstance(row, dict):
        return f"because it is {type(row).__name__} and no object"

    # what it was made by
    for name in TEXTS:
        if not isinstance(row.get(name), str):
            return f"because {name!r} must be a text"
    if not isinstance(row.get("seed"), int) or isinstance(row["seed"], bool):
        return "because 'seed' must be a whole number"
    overrides = row.get("overrides")
    if not isinstance(overrides, list) or not all(isinstance(word, str) for word in overrides):
        return "because 'overrides' must be a list of texts"

    # what was measured
    if not _is_finite(row.get("cpu_seconds")):
        return "because 'cpu_seconds' must be a finite number"
    curve = row.get("curve")
    if not isinstance(curve, list) or not curve:
        return "because 'curve' must be a list of evaluations"
    return next((fault for fault in map(_fault_of_point, curve) if fault is not None), None)


def _fault_of_point(point: Any) -> str | None:
    """What keeps a value from being an evaluation, as `_fault_of` says it.

    Numbers of the training step are for looking up, so they need not be finite.
    """
    if not isinstance(point, dict):
        return "because an evaluation of 'curve' is no object"
    for name in ("step", "pass@1", "distinct"):
        if name not in point:
            return f"because an evaluation of 'curve' lacks {name!r}"
    for name, value in point.items():
        if not _is_number(value):
            return f"because {name!r} in 'curve' is no number"
        if not name.startswith("train/") and not _is_finite(value):
            return f"because {name!r} in 'curve' is no finite number"
    return None


def _is_finite(value: Any) -> bool:
    """Whether a value of JSON is a finite number, which a float can hold."""
    return _is_number(value) and abs(value) <= sys.float_info.max


def _is_number(value: Any) -> bool:
    """Whether a value of JSON is a number; true and false are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def add_row(folder: Path, row: Row) -> None:
    """Append a row to the file of its task; it is on the disk when this returns.

    Raises:
        ValueError: it is no row; nothing is written, because a file with such a line is refused.
    """
    fault = _fault_of(row)
    if fault is not None:
        raise ValueError(f"this run has no row, {fault}")

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
    """Write rows sorted by their key, one file a task, so that what is stored shows small diffs.

    A file is replaced as a whole or stays as it was.
    """
    # in an order that does not depend on when a run ended
    for task in sorted({row["task"] for row in rows.by_key.values()}):
        ordered = sorted(rows.of(task), key=lambda row: (row["arm"], row["seed"], row["rate"]))
        lines = [json.dumps(row, sort_keys=True) + "\n" for row in ordered]
        with atomic_path(folder / f"{task}.jsonl") as aside:
            aside.write_text("".join(lines), encoding="utf-8")


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
