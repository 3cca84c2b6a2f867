"""Where a run writes: metrics.jsonl and parquet always, Weights & Biases beside it.

Local files are the truth. `metrics.jsonl` has one row a step, `{"step": 3, "train/accuracy": 0.5, ...}`,
step 0 being the evaluation before training. Tables are one parquet file a step, so that a resumed run
overwrites what it repeats and nothing is ever duplicated.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from g2rl.files import atomic_path, room_in


class Mirror(Protocol):
    """A second place for scalars, such as W&B."""

    def start(self, run_dir: Path, config: Mapping[str, Any]) -> None: ...

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def finish(self) -> None: ...


class NoMirror:
    """Local files only."""

    def start(self, run_dir: Path, config: Mapping[str, Any]) -> None:
        pass

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        pass

    def finish(self) -> None:
        pass


class WandbMirror:
    """Weights & Biases; offline by default, which needs no account and no network.

    Args:
        mode: offline, online or disabled.
        project, entity, group, tags: as in wandb.init.
    """

    def __init__(
        self,
        mode: str = "offline",
        project: str = "g2rl",
        entity: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
    ) -> None:
        if mode not in ("offline", "online", "disabled"):
            raise ValueError(f"tracking.mode must be offline, online or disabled, got {mode!r}")
        self.mode, self.project, self.entity, self.group, self.tags = mode, project, entity, group, list(tags)
        self._run: Any = None

    def start(self, run_dir: Path, config: Mapping[str, Any]) -> None:
        import wandb

        name = hashlib.sha256(str(run_dir.resolve()).encode()).hexdigest()[:16]  # folder names repeat
        settings = wandb.Settings(silent=True, console="off", disable_git=True, x_disable_stats=True)
        self._run = wandb.init(
            mode=self.mode,  # type: ignore[arg-type]
            project=self.project, entity=self.entity, group=self.group, tags=self.tags,
            dir=str(run_dir), name=run_dir.name, id=name, resume="allow",
            config=dict(config), settings=settings,
        )  # fmt: skip
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log({"step": step, **metrics})

    def finish(self) -> None:
        if self._run is not None:
            self._run.finish()


class Tracker:
    """Writes one run.

    Args:
        run_dir: the run's folder.
        mirror: second place for scalars.
    """

    def __init__(self, run_dir: Path, mirror: Mirror | None = None) -> None:
        self.run_dir = run_dir
        self.mirror = mirror or NoMirror()
        self.path = run_dir / "metrics.jsonl"

    def start(self, completed_steps: int | None, config: Mapping[str, Any]) -> None:
        """Open the run. `completed_steps` keeps the rows up to that step; None starts from nothing."""
        self.run_dir.mkdir(parents=True, exist_ok=True)
        rows = self.rows(completed_steps)
        if self.path.exists():
            with atomic_path(self.path) as aside:
                aside.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        for kind in ("rollouts", "geometry", "probe"):
            folder = self.run_dir / kind
            if completed_steps is None:
                shutil.rmtree(folder, ignore_errors=True)
                continue
            for path in folder.glob("step_*.parquet"):
                if int(path.stem.removeprefix("step_")) > completed_steps:
                    path.unlink()
        self.mirror.start(self.run_dir, config)

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

        target = self.run_dir / kind / f"step_{step:06d}.parquet"
        with atomic_path(target) as aside:
            parquet.write_table(pyarrow.table(dict(columns)), aside)
        return target

    def finish(self) -> None:
        self.mirror.finish()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Rows of a metrics file; a last line cut off by a crash is ignored, [] when there is no file."""
    if not path.is_file():
        return []
    rows = []
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise ValueError(f"{path}, line {number}: not JSON ({error.msg})") from error
    return rows
