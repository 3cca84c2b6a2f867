"""Weights & Biases beside the local files: scalars, sample tables, histograms of gradient cosines.

docs/tracking.md lists the names. The only x-axis is `step`, the training step, so that runs that
were interrupted lie over those that were not. W&B cannot continue an offline run, so the mirror of
one that continues tells everything again from the local files: its newest folder holds the whole
run.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from g2rl.formulas.pairs import PAIR_CLASSES, metric_suffix, pairs_by_class
from g2rl.runs.layout import RunFolder
from g2rl.runs.metric_names import summary_of
from g2rl.runs.tracking import read_table

MODES = ("offline", "online", "disabled")
SAMPLES = "samples"
SAMPLE_COLUMNS = (
    "step",
    "problem",
    "prompt",
    "completion",
    "gold",
    "answer",
    "correct",
    "reward",
    "shaped_reward",
    "nu",
)
HISTOGRAMS = tuple(f"histogram/cosine{metric_suffix(name)}" for name in PAIR_CLASSES)
BINS = 64
"""Of [-1, 1], the same in every step, so that steps can be compared."""
DATA_DIR = "WANDB_DATA_DIR"
Columns = Mapping[str, Sequence[Any]]


class WandbMirror:
    """Weights & Biases; offline by default, which needs no account and no network.

    Args:
        mode: offline, online or disabled.
        project, entity, group, job_type, tags: as in wandb.init.
        name: of the run; null: its folder's.
        arm: what sets the run apart from others of its group, seeds aside; `arm` in the run's W&B
            config.
        samples_every: steps between sample tables, where rollouts/ has a file of the step; 0: none.
        samples: rows of a sample table, the first of the step; a multiple of the group size: whole
            groups.
        histograms: log histograms of cosines for steps whose geometry/ holds them.
    """

    def __init__(
        self,
        mode: str = "offline",
        project: str = "g2rl",
        entity: str | None = None,
        group: str | None = None,
        job_type: str = "train",
        arm: str | None = None,
        name: str | None = None,
        tags: Sequence[str] = (),
        samples_every: int = 10,
        samples: int = 16,
        histograms: bool = True,
    ) -> None:
        # refuse what W&B would take and misread
        if mode not in MODES:
            raise ValueError(f"tracking.mode must be one of {MODES}, got {mode!r}")
        if samples_every < 0 or samples < 1:
            raise ValueError(
                f"tracking: need samples_every >= 0 and samples >= 1, got {samples_every} and {samples}"
            )

        # as wandb.init takes them
        self.mode, self.project, self.entity = mode, project, entity
        self.group, self.job_type = group, job_type
        self.arm, self.name, self.tags = arm, name, list(tags)
        self.samples_every, self.samples, self.histograms = samples_every, samples, histograms

        # of an open run
        self._run: Any = None
        self._defined: set[str] = set()
        self._tables: dict[str, Columns] = {}
        self._staging: str | None = None

    def start(
        self, run_dir: Path, config: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
    ) -> None:
        """Open the W&B run.

        Raises:
            RuntimeError: W&B does not start, say online without an account.
        """
        import wandb

        # tables are staged there; W&B's default is in the user's home
        if DATA_DIR not in os.environ:
            self._staging = os.environ[DATA_DIR] = str(RunFolder(run_dir.resolve()).wandb / "data")

        # names of folders repeat, whole paths do not
        run_id = hashlib.sha256(str(run_dir.resolve()).encode()).hexdigest()[:16]

        # no output, no system statistics
        settings = wandb.Settings(
            silent=True, console="off", disable_git=True, x_disable_stats=True
        )
        try:
            self._run = wandb.init(
                mode=self.mode,  # type: ignore[arg-type]
                project=self.project,
                entity=self.entity,
                group=self.group,
                job_type=self.job_type,
                tags=self.tags,
                dir=str(run_dir),
                name=self.name or run_dir.name,
                id=run_id,
                resume="allow" if self.mode == "online" else None,
                config={**config, "arm": self.arm or run_dir.name},
                settings=settings,
            )
        except wandb.Error as error:
            raise RuntimeError(
                f"tracking.mode={self.mode}: W&B does not start ({error}); log in with `wandb login`, or "
                "choose tracking.mode=offline or tracking=local"
            ) from error

        # one x-axis for everything
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")
        if self.mode == "offline":
            self._tell_again(run_dir, rows)

    def _tell_again(self, run_dir: Path, rows: Sequence[Mapping[str, Any]]) -> None:
        """Log the steps that are on disk already."""
        for row in rows:
            step = int(row["step"])
            for kind in ("rollouts", "geometry"):
                columns = read_table(run_dir, kind, step) if self._wants(kind, step) else None
                if columns is not None:
                    self.table(kind, step, columns)
            self.log(step, {name: value for name, value in row.items() if name != "step"})

    def _wants(self, kind: str, step: int) -> bool:
        shows_samples = bool(self.samples_every) and step % self.samples_every == 0
        if kind == "rollouts":
            return shows_samples
        return kind == "geometry" and (shows_samples or self.histograms)

    def table(self, kind: str, step: int, columns: Columns) -> None:
        """Keep what the step's `log` needs."""
        if self._wants(kind, step):
            self._tables[kind] = columns

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log scalars, and what the tables of the step give, in one call."""
        import wandb

        # metrics are declared when they first appear
        for name in metrics.keys() - self._defined:
            if summary := summary_of(name):
                self._run.define_metric(name, step_metric="step", summary=summary)
            self._defined.add(name)
        values: dict[str, Any] = {"step": step, **metrics}

        # what the tables of the step give
        rollouts = self._tables.pop("rollouts", None)
        geometry = self._tables.pop("geometry", {})
        if rollouts is not None:
            rows = sample_rows(step, rollouts, geometry, self.samples)
            values[SAMPLES] = wandb.Table(columns=list(SAMPLE_COLUMNS), data=rows)
        if self.histograms and "cosine" in geometry:
            for name, counts in cosine_histograms(geometry).items():
                values[name] = wandb.Histogram(np_histogram=(counts, np.linspace(-1, 1, BINS + 1)))

        # all at once
        self._run.log(values)

    def finish(self) -> None:
        """Close the W&B run; online, this waits for the upload."""
        if self._run is not None:
            self._run.finish()
        if self._staging is not None:
            os.environ.pop(DATA_DIR, None)


def sample_rows(step: int, rollouts: Columns, geometry: Columns, count: int) -> list[list[Any]]:
    """The first `count` responses of a step with `SAMPLE_COLUMNS`; None where a step does not know."""
    nu = geometry.get("nu", geometry.get("observe_g2rl_nu"))
    columns = {**geometry, **rollouts, "nu": nu, "step": [step] * count}

    rows: list[list[Any]] = []
    for n in range(min(count, len(rollouts["prompt"]))):
        row: list[Any] = []
        for name in SAMPLE_COLUMNS:
            values = columns.get(name)
            row.append(None if values is None else values[n])
        rows.append(row)
    return rows


def cosine_histograms(geometry: Columns) -> dict[str, np.ndarray]:
    """Counts of the cosines of pairs i < j of every group over `BINS` bins of [-1, 1], by pair class.

    A class without a pair in the step is left out.
    """
    cosine_NG = np.asarray(geometry["cosine"], dtype=float)
    group_size = cosine_NG.shape[1]
    cosine_PGG = cosine_NG.reshape(-1, group_size, group_size).clip(-1, 1)  # rounding goes beyond 1
    correct_PG = np.asarray(geometry["correct"], dtype=bool).reshape(-1, group_size)

    cosines_of_class = pairs_by_class(cosine_PGG, correct_PG)
    histograms: dict[str, np.ndarray] = {}
    for name in PAIR_CLASSES:
        if name in cosines_of_class:
            counts, _ = np.histogram(cosines_of_class[name], bins=BINS, range=(-1, 1))
            histograms[f"histogram/cosine{metric_suffix(name)}"] = counts
    return histograms
