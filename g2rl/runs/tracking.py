"""Where a run writes: metrics.jsonl and parquet always, Weights & Biases beside it.

Local files are the truth. `metrics.jsonl` has one row a step, `{"step": 3, "train/accuracy": 0.5,
...}`, step 0 being the evaluation before training. Tables are one parquet file a step, so that a
resumed run overwrites what it repeats and nothing is ever duplicated.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from g2rl.runs.files import atomic_path, room_in
from g2rl.runs.layout import RunFolder

log = logging.getLogger(__name__)
KINDS = ("rollouts", "geometry", "probe")


class Mirror(Protocol):
    """A second place for scalars and tables, such as W&B; see `g2rl.runs.wandb_mirror`."""

    def start(
        self, run_dir: Path, config: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
    ) -> None:
        """Open. `rows` are those already on disk, of a run that continues."""
        ...

    def table(self, kind: str, step: int, columns: Mapping[str, Sequence[Any]]) -> None:
        """A table of a step, before the step's `log`."""
        ...

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def finish(self) -> None: ...


class NoMirror:
    """Local files only."""

    def start(
        self, run_dir: Path, config: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
    ) -> None:
        pass

    def table(self, kind: str, step: int, columns: Mapping[str, Sequence[Any]]) -> None:
        pass

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        pass

    def finish(self) -> None:
        pass


class Guarded:
    """A mirror that cannot end a run: after its first failure it is left alone, which is said once.

    Only a mirror that does not even start stops the run, before anything is sampled.
    """

    def __init__(self, mirror: Mirror) -> None:
        self.mirror = mirror

    def start(
        self, run_dir: Path, config: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
    ) -> None:
        self.mirror.start(run_dir, config, rows)

    def table(self, kind: str, step: int, columns: Mapping[str, Sequence[Any]]) -> None:
        self._call(f"table {kind} of step {step}", lambda: self.mirror.table(kind, step, columns))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._call(f"the row of step {step}", lambda: self.mirror.log(step, metrics))

    def finish(self) -> None:
        self._call("the end of the run", self.mirror.finish)

    def _call(self, what: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # whatever it is: local files are the truth and are not in doubt
            log.error(
                "the mirror %s failed at %s and is told nothing more: %s: %s. Local files are complete",
                type(self.mirror).__name__,
                what,
                type(error).__name__,
                error,
            )
            self.mirror = NoMirror()


class Tracker:
    """Writes one run.

    Args:
        run_dir: the run's folder.
        mirror: second place for scalars and tables; its failures do not end the run.
    """

    def __init__(self, run_dir: Path, mirror: Mirror | None = None) -> None:
        self.run_dir = run_dir
        self.mirror: Mirror = Guarded(mirror or NoMirror())
        self.path = RunFolder(run_dir).metrics

    def start(self, completed_steps: int | None, config: Mapping[str, Any]) -> None:
        """Open the run. `completed_steps` keeps the rows up to that step; None starts from
        nothing."""
        # rows after the checkpoint are dropped
        self.run_dir.mkdir(parents=True, exist_ok=True)
        rows = self.rows(completed_steps)
        if self.path.exists():
            with atomic_path(self.path) as aside:
                aside.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

        # and so are the tables
        for kind in KINDS:
            folder = RunFolder(self.run_dir).tables(kind)
            if completed_steps is None:
                shutil.rmtree(folder, ignore_errors=True)
                continue
            for path in folder.glob("step_*.parquet"):
                if int(path.stem.removeprefix("step_")) > completed_steps:
                    path.unlink()

        # the mirror is told what is there
        self.mirror.start(self.run_dir, config, rows)

    def rows(self, completed_steps: int | None) -> list[dict[str, Any]]:
        """The rows on disk up to a step; none for None."""
        if completed_steps is None:
            return []
        return [row for row in read_metrics(self.path) if row["step"] <= completed_steps]

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append the row of one step; durable when this returns.

        Raises:
            ValueError: for a value that is not finite; stages drop and count those themselves.
        """
        bad = [name for name, value in metrics.items() if not math.isfinite(value)]
        if bad:
            raise ValueError(f"step {step}: metrics are not finite: {bad}")

        # durable before anything else happens
        line = json.dumps({"step": step, **metrics}) + "\n"
        with room_in(self.run_dir), self.path.open("a", encoding="utf-8") as out:
            out.write(line)
            out.flush()
            os.fsync(out.fileno())
        self.mirror.log(step, metrics)

    def table(self, kind: str, step: int, columns: Mapping[str, Sequence[Any]]) -> Path:
        """Write `kind/step_000003.parquet`, columns of equal length."""
        import pyarrow
        from pyarrow import parquet

        # whole or not at all
        target = RunFolder(self.run_dir).table(kind, step)
        with atomic_path(target) as aside:
            parquet.write_table(pyarrow.table(dict(columns)), aside)
        self.mirror.table(kind, step, columns)
        return target

    def finish(self) -> None:
        self.mirror.finish()


class SilentTracker(Tracker):
    """Writes nothing: of every rank but the first."""

    def start(self, completed_steps: int | None, config: Mapping[str, Any]) -> None:
        pass

    def rows(self, completed_steps: int | None) -> list[dict[str, Any]]:
        return []

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        pass

    def table(self, kind: str, step: int, columns: Mapping[str, Sequence[Any]]) -> Path:
        return RunFolder(self.run_dir).table(kind, step)


def read_table(run_dir: Path, kind: str, step: int) -> dict[str, list[Any]] | None:
    """The columns of the table of a step; None where there is none."""
    from pyarrow import parquet

    path = RunFolder(run_dir).table(kind, step)
    return parquet.read_table(path).to_pydict() if path.is_file() else None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Rows of a metrics file; a last line cut off by a crash is ignored, [] when there is no
    file."""
    if not path.is_file():
        return []

    # only the last line may be cut off
    rows = []
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise ValueError(f"{path}, line {number}: not JSON ({error.msg})") from error
    return rows
