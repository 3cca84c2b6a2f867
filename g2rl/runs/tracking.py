"""Where a run writes: metrics.jsonl and parquet always, mirrors such as W&B beside it.

Local files are the truth. `metrics.jsonl` has one row a step, `{"step": 3, "train/accuracy": 0.5,
...}`, step 0 being the evaluation before training. Tables are one parquet file a step, so that a
resumed run overwrites what it repeats and nothing is ever duplicated.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from g2rl.runs.columns import typed_schema
from g2rl.runs.files import atomic_path, read_lines, remove, room_in
from g2rl.runs.layout import TABLE_KINDS, RunFolder
from g2rl.tasks.places import at_line
from g2rl.types import fits_a_float

log = logging.getLogger(__name__)

Row = Mapping[str, Any]
"""One row of metrics.jsonl."""
Columns = Mapping[str, Sequence[Any]]
"""A table as columns of equal length, by name."""

# --- mirrors


class Mirror(Protocol):
    """A second place for scalars and tables, such as W&B; see `g2rl.runs.wandb_mirror`."""

    def start(self, run_dir: Path, config: Mapping[str, Any], rows: Sequence[Row]) -> None:
        """Open the mirror.

        Args:
            run_dir: the run's folder.
            config: resolved.
            rows: what metrics.jsonl holds already, if the run continues.
        """
        ...

    def table(self, kind: str, step: int, columns: Columns) -> None:
        """Take a table of a step. It comes before the step's `log`."""
        ...

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take the scalars of a step."""
        ...

    def finish(self) -> None:
        """Close the mirror."""
        ...


class NoMirror:
    """Local files only."""

    def start(self, run_dir: Path, config: Mapping[str, Any], rows: Sequence[Row]) -> None:
        """Do nothing."""

    def table(self, kind: str, step: int, columns: Columns) -> None:
        """Do nothing."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Do nothing."""

    def finish(self) -> None:
        """Do nothing."""


class Guarded:
    """A mirror whose failures do not end a run: the first is logged, and the mirror is left alone.

    Only a mirror that does not even start stops the run, before anything is sampled.
    """

    def __init__(self, mirror: Mirror) -> None:
        self.mirror = mirror

    def start(self, run_dir: Path, config: Mapping[str, Any], rows: Sequence[Row]) -> None:
        """Open the mirror; its errors are not caught here."""
        self.mirror.start(run_dir, config, rows)

    def table(self, kind: str, step: int, columns: Columns) -> None:
        """Pass a table on."""
        self._attempt(
            f"table {kind} of step {step}", lambda: self.mirror.table(kind, step, columns)
        )

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Pass the scalars of a step on."""
        self._attempt(f"the row of step {step}", lambda: self.mirror.log(step, metrics))

    def finish(self) -> None:
        """Close the mirror."""
        self._attempt("the end of the run", self.mirror.finish)

    def _attempt(self, occasion: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            # whatever it is, the local files are not in doubt
            log.error(
                "the mirror %s failed at %s and is told nothing more: %s: %s. "
                "Local files are complete",
                type(self.mirror).__name__,
                occasion,
                type(error).__name__,
                error,
            )
            self.mirror = NoMirror()


class Several:
    """Mirrors side by side; where one fails, the others go on.

    Args:
        mirrors: by the name under which conf/ has each.
    """

    def __init__(self, **mirrors: Mirror) -> None:
        self.mirrors = {name: Guarded(mirror) for name, mirror in mirrors.items()}

    def start(self, run_dir: Path, config: Mapping[str, Any], rows: Sequence[Row]) -> None:
        """Open every mirror; their errors are not caught here."""
        for mirror in self.mirrors.values():
            mirror.start(run_dir, config, rows)

    def table(self, kind: str, step: int, columns: Columns) -> None:
        """Pass a table on to each."""
        for mirror in self.mirrors.values():
            mirror.table(kind, step, columns)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Pass the scalars of a step on to each."""
        for mirror in self.mirrors.values():
            mirror.log(step, metrics)

    def finish(self) -> None:
        """Close each."""
        for mirror in self.mirrors.values():
            mirror.finish()


# --- local files


class Tracker:
    """Writes the metrics and tables of one run.

    Args:
        run_dir: the run's folder.
        mirror: second place for scalars and tables; its failures do not end the run.
    """

    def __init__(self, run_dir: Path, mirror: Mirror | None = None) -> None:
        self.run_dir = run_dir
        self.mirror: Mirror = Guarded(mirror or NoMirror())
        self.path = RunFolder(run_dir).metrics

    def start(self, completed_steps: int | None, config: Mapping[str, Any]) -> None:
        """Open the run, and drop what a continued run will write again.

        Args:
            completed_steps: the step that the run continues after; None: it begins afresh.
            config: resolved, for the mirror.
        """
        self.run_dir.mkdir(parents=True, exist_ok=True)

        # rows of steps after the checkpoint
        rows = self.rows(completed_steps)
        if self.path.exists():
            with atomic_path(self.path) as aside:
                aside.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

        # tables of steps after the checkpoint
        folder = RunFolder(self.run_dir)
        for kind in TABLE_KINDS:
            if completed_steps is None:
                remove(folder.tables(kind))
                continue
            for step, path in folder.table_files(kind).items():
                if step > completed_steps:
                    path.unlink()

        # a mirror may have to be told again what is kept
        self.mirror.start(self.run_dir, config, rows)

    def rows(self, completed_steps: int | None) -> list[dict[str, Any]]:
        """The rows on disk up to a step; an empty list for None."""
        if completed_steps is None:
            return []
        return [row for row in read_metrics(self.path) if row["step"] <= completed_steps]

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append the row of one step; it is on the disk when this returns.

        Raises:
            ValueError: a value is not finite. Stages must drop and count such values themselves.
        """
        # JSON has no such numbers
        bad_names = [name for name, value in metrics.items() if not fits_a_float(value)]
        if bad_names:
            raise ValueError(f"step {step}: metrics are not finite: {bad_names}")

        # the file first: a mirror may fail
        line = json.dumps({"step": step, **metrics}) + "\n"
        with room_in(self.run_dir), self.path.open("a", encoding="utf-8") as out:
            out.write(line)
            out.flush()
            os.fsync(out.fileno())
        self.mirror.log(step, metrics)

    def table(self, kind: str, step: int, columns: Columns) -> Path:
        """Write a table as `kind/step_000003.parquet` and return that path."""
        import pyarrow
        from pyarrow import parquet

        # a mirror is told of a table only once the file is whole
        target = RunFolder(self.run_dir).table(kind, step)
        with atomic_path(target) as aside:
            schema = typed_schema(kind, columns)
            parquet.write_table(pyarrow.table(dict(columns), schema=schema), aside)
        self.mirror.table(kind, step, columns)
        return target

    def finish(self) -> None:
        """Close the mirror; the files need no closing."""
        self.mirror.finish()


class SilentTracker(Tracker):
    """Writes nothing; every rank but the first has one."""

    def start(self, completed_steps: int | None, config: Mapping[str, Any]) -> None:
        """Do nothing."""

    def rows(self, completed_steps: int | None) -> list[dict[str, Any]]:
        """No rows."""
        return []

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Do nothing."""

    def table(self, kind: str, step: int, columns: Columns) -> Path:
        """Return the path under which the first rank writes."""
        return RunFolder(self.run_dir).table(kind, step)


# --- reading


def read_table(run_dir: Path, kind: str, step: int) -> dict[str, list[Any]] | None:
    """The columns of the table of one kind and step; None if there is no such file.

    Raises:
        ValueError: the file is no table.
    """
    from pyarrow import parquet

    path = RunFolder(run_dir).table(kind, step)
    if not path.is_file():
        return None
    with parquet_named(path):
        return parquet.read_table(path).to_pydict()


@contextmanager
def parquet_named(path: Path) -> Iterator[None]:
    """Let an error of reading a table name its file.

    Raises:
        ValueError: in the place of whatever reading raised.
    """
    from pyarrow import ArrowException

    try:
        yield
    except (ArrowException, OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as parquet ({error})") from error


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Rows of a metrics file; an empty list if there is no file.

    Raises:
        ValueError: a line is no row, or one that is not the last is not JSON. A last line that is
            cut off is left out.
    """
    if not path.is_file():
        return []

    rows = []
    lines = read_lines(path)
    if not lines[-1]:
        lines.pop()
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            # a crash cuts off the last line, never one before it
            is_last = number == len(lines)
            if is_last:
                break
            raise ValueError(f"{at_line(path, number)}: not JSON ({error})") from error

        # every row says of which step it is
        if not isinstance(row, dict) or type(row.get("step")) is not int:
            raise ValueError(f"{at_line(path, number)}: no row of metrics ({line[:60]})")
        rows.append(row)
    return rows
