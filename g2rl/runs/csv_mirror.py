"""metrics.csv beside metrics.jsonl: one row a step, one column a metric, for spreadsheets and R.

The names and the step are those of metrics.jsonl. A cell is empty where a step did not log the
metric.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from g2rl.runs.files import atomic_path
from g2rl.runs.layout import RunFolder
from g2rl.runs.tracking import Columns, Row


class CsvMirror:
    """Appends a line a step; a metric that appears for the first time adds a column, for which the
    file is written again. Columns stand in the order in which metrics appeared."""

    def __init__(self) -> None:
        self._path = Path()
        self._names: dict[str, None] = {"step": None}
        self._rows: list[Row] = []

    def start(self, run_dir: Path, config: Mapping[str, Any], rows: Sequence[Row]) -> None:
        """Begin the file with the steps that are on disk already."""
        self._path = RunFolder(run_dir).metrics_csv
        self._rows = list(rows)
        for row in rows:
            self._names.update(dict.fromkeys(row))
        self._write()

    def table(self, kind: str, step: int, columns: Columns) -> None:
        """Do nothing: tables are parquet files."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add the row of a step."""
        row = {"step": step, **metrics}
        self._rows.append(row)

        # a new column goes through the whole file
        if row.keys() - self._names.keys():
            self._names.update(dict.fromkeys(row))
            self._write()
            return
        with self._path.open("a", encoding="utf-8", newline="") as out:
            csv.DictWriter(out, list(self._names)).writerow(row)

    def _write(self) -> None:
        """Write the whole file."""
        with (
            atomic_path(self._path) as aside,
            aside.open("w", encoding="utf-8", newline="") as out,
        ):
            writer = csv.DictWriter(out, list(self._names))
            writer.writeheader()
            writer.writerows(self._rows)

    def finish(self) -> None:
        """Do nothing: every row is in the file."""
