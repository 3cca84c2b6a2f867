"""Weights & Biases beside the local files: scalars, sample tables, histograms of gradient cosines.

docs/tracking.md lists the names. The only x-axis is `step`, the training step, so that the curves
of runs that were interrupted lie over those of runs that were not. W&B cannot continue an offline
run. So when a run continues, its mirror first logs all earlier steps again from the local files,
and the newest W&B folder holds the whole run.
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
from g2rl.runs.tracking import Columns, Row, read_table

MODES = ("offline", "online", "disabled")

SAMPLES = "samples"
"""Name of the table of responses in W&B."""
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
"""Names of the histograms in W&B, one a pair class."""
BINS = 64
"""Bins of a histogram over [-1, 1], the same in every step, so that steps can be compared."""

DATA_DIR = "WANDB_DATA_DIR"
"""Environment variable of the folder in which W&B keeps tables until they are uploaded."""


class WandbMirror:
    """Weights & Biases; offline by default, which needs no account and no network.

    Args:
        mode: offline, online or disabled.
        project, entity, group, job_type, tags: as in wandb.init.
        arm: what sets the run apart from others of its group, the seed aside. It stands in the
            run's W&B config.
        name: of the run; None takes the name of its folder.
        samples_every: steps between sample tables; 0 logs none. A step whose responses are not in
            rollouts/ has none either.
        samples: rows of a sample table, the first of the step. A multiple of the group size shows
            whole groups.
        histograms: log histograms of cosines for steps whose geometry/ holds cosines.

    Raises:
        ValueError: an unknown mode, or numbers out of range.
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
        # W&B would accept these and misread them
        if mode not in MODES:
            raise ValueError(f"tracking.mode must be one of {MODES}, got {mode!r}")
        if samples_every < 0 or samples < 1:
            raise ValueError(
                f"tracking: need samples_every >= 0 and samples >= 1, "
                f"got {samples_every} and {samples}"
            )

        # under which names the run stands in W&B
        self.mode = mode
        self.arm = arm
        self.name = name
        self._labels: dict[str, Any] = {
            "project": project,
            "entity": entity,
            "group": group,
            "job_type": job_type,
            "tags": list(tags),
        }

        # what is logged beside scalars
        self.samples_every = samples_every
        self.samples = samples
        self.histograms = histograms

        # state of an open run
        self._run: Any = None
        self._declared: set[str] = set()  # names of metrics
        self._tables: dict[str, Columns] = {}  # of the present step, by kind
        self._sets_data_dir = False

    def start(self, run_dir: Path, config: Mapping[str, Any], rows: Sequence[Row]) -> None:
        """Open the W&B run; an offline one is first told again the steps in `rows`.

        Raises:
            RuntimeError: W&B does not start, for example online without an account.
        """
        import wandb

        # tables wait for their upload in the run's folder, not in the user's home
        if DATA_DIR not in os.environ:
            os.environ[DATA_DIR] = str(RunFolder(run_dir.resolve()).wandb / "data")
            self._sets_data_dir = True

        # names of folders repeat, whole paths do not
        run_id = hashlib.sha256(str(run_dir.resolve()).encode()).hexdigest()[:16]

        # no output, no system statistics
        settings = wandb.Settings(
            silent=True, console="off", disable_git=True, x_disable_stats=True
        )
        try:
            self._run = wandb.init(
                **self._labels,
                mode=self.mode,  # type: ignore[arg-type]
                dir=str(run_dir),
                name=self.name or run_dir.name,
                id=run_id,
                resume="allow" if self.mode == "online" else None,
                config={**config, "arm": self.arm or run_dir.name},
                settings=settings,
            )
        except BaseException as error:
            self.finish()  # another run of this process has a folder of its own
            if not isinstance(error, wandb.Error):
                raise
            raise RuntimeError(
                f"tracking.mode={self.mode}: W&B does not start ({error}); log in with "
                "`wandb login`, or choose tracking.mode=offline or tracking=local"
            ) from error

        # one x-axis for everything
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")
        if self.mode == "offline":
            self._log_again(run_dir, rows)

    def _log_again(self, run_dir: Path, rows: Sequence[Row]) -> None:
        """Log the steps that are on disk already."""
        for row in rows:
            step = int(row["step"])

            # the tables of the step come before its row, as in training
            for kind in ("rollouts", "geometry"):
                if self._needs(kind, step):
                    columns = read_table(run_dir, kind, step)
                    if columns is not None:
                        self.table(kind, step, columns)

            self.log(step, {name: value for name, value in row.items() if name != "step"})

    def _needs(self, kind: str, step: int) -> bool:
        """Whether anything that is logged at a step comes from its table of this kind."""
        shows_samples = self.samples_every > 0 and step % self.samples_every == 0
        if kind == "rollouts":
            return shows_samples
        if kind == "geometry":
            return shows_samples or self.histograms
        return False

    def table(self, kind: str, step: int, columns: Columns) -> None:
        """Keep a table until the step's `log`, if that needs it."""
        if self._needs(kind, step):
            self._tables[kind] = columns

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log the scalars of a step together with the samples and histograms of its tables."""
        import wandb

        # a metric whose summary is not just its last value is declared when it first appears
        for name in metrics.keys() - self._declared:
            summary = summary_of(name)
            if summary is not None:
                self._run.define_metric(name, step_metric="step", summary=summary)
            self._declared.add(name)
        values: dict[str, Any] = {"step": step, **metrics}

        # the first responses of the step
        rollouts = self._tables.pop("rollouts", None)
        geometry = self._tables.pop("geometry", {})
        if rollouts is not None:
            rows = sample_rows(step, rollouts, geometry, self.samples)
            values[SAMPLES] = wandb.Table(columns=list(SAMPLE_COLUMNS), data=rows)

        # its cosines by pair class
        if self.histograms and "cosine" in geometry:
            edges = np.linspace(-1, 1, BINS + 1)
            for name, counts in cosine_histograms(geometry).items():
                values[name] = wandb.Histogram(np_histogram=(counts, edges))

        # one call a step, since W&B joins values of a call in one row
        self._run.log(values)

    def finish(self) -> None:
        """Close the W&B run; online, this waits for the upload."""
        if self._run is not None:
            self._run.finish()
        if self._sets_data_dir:
            os.environ.pop(DATA_DIR, None)
            self._sets_data_dir = False


def sample_rows(step: int, rollouts: Columns, geometry: Columns, count: int) -> list[list[Any]]:
    """The first `count` responses of a step with `SAMPLE_COLUMNS`.

    A cell is None where the step does not know the value: `nu` without the signal g2rl as signal or
    observer, for example.

    Args:
        step: the training step.
        rollouts: columns of its rollouts table.
        geometry: columns of its geometry table, or {}.
        count: how many responses.
    """
    columns: dict[str, Sequence[Any] | None] = {**geometry, **rollouts, "step": [step] * count}

    # nu is measured by the signal itself, else by an observer
    if "nu" not in geometry:
        columns["nu"] = geometry.get("observe_g2rl_nu")

    # one row a response
    rows: list[list[Any]] = []
    for n in range(min(count, len(rollouts["prompt"]))):
        row: list[Any] = []
        for name in SAMPLE_COLUMNS:
            values = columns.get(name)
            row.append(None if values is None else values[n])
        rows.append(row)
    return rows


def cosine_histograms(geometry: Columns) -> dict[str, np.ndarray]:
    """Counts of the cosines of pairs i < j of every group, by the names of `HISTOGRAMS`.

    Args:
        geometry: columns of a geometry table. `cosine` holds one row of the group's matrix (G, G)
            for each response, `correct` the verdicts.

    Returns:
        Counts (BINS,) over equal bins of [-1, 1]. A class without a pair in the step is absent.
    """
    # rows back to one matrix a group; rounding may have gone beyond 1
    cosine_NG = np.asarray(geometry["cosine"], dtype=float)
    group_size = cosine_NG.shape[1]
    cosine_PGG = cosine_NG.reshape(-1, group_size, group_size).clip(-1, 1)
    correct_PG = np.asarray(geometry["correct"], dtype=bool).reshape(-1, group_size)

    # one histogram a class
    cosines_of_class = pairs_by_class(cosine_PGG, correct_PG)
    histograms: dict[str, np.ndarray] = {}
    for name in PAIR_CLASSES:
        if name in cosines_of_class:
            counts, _ = np.histogram(cosines_of_class[name], bins=BINS, range=(-1, 1))
            histograms[f"histogram/cosine{metric_suffix(name)}"] = counts
    return histograms
