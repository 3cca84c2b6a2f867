"""A run, an evaluation or an analysis on disk as data frames: where notebooks and scripts begin.

run = g2rl.load_run("runs/NAME")
run.metrics["train/accuracy"].dropna()
run.samples.query("correct").groupby("step")["nu"].mean()
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from g2rl.analysis.report.facts import RunFacts, read_facts
from g2rl.runs.layout import CHECKPOINT_MANIFEST, RunFolder, step_number

SHARED_COLUMNS = ("step", "problem", "sample", "correct", "tokens")
"""Columns that both tables of a step have."""


class LoadedRun:
    """One training run, read when it is asked for.

    Args:
        folder: of the run, which need not have finished.

    Raises:
        ReportError: the folder holds no training run, or one that has logged nothing yet.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self._facts: RunFacts = read_facts(self.folder)

    def __repr__(self) -> str:
        state = "finished" if self.finished else "unfinished"
        return f"<run {self.folder}: {self._facts.steps} steps, {state}>"

    @property
    def config(self) -> Mapping[str, Any]:
        """The resolved configuration, as nested dicts."""
        return self._facts.config

    @property
    def finished(self) -> bool:
        """Whether the run had come to its end when it was read."""
        return self._facts.finished

    @property
    def command(self) -> str | None:
        """The command that makes the run again; None if the folder does not tell."""
        return self._facts.command

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """One row a step, indexed by `step`, one column a metric; NaN where it was not logged."""
        return pd.DataFrame(self._facts.rows).set_index("step")

    @cached_property
    def summary(self) -> pd.DataFrame:
        """One row a metric, with the values of the first and the last step as `before` and `after`.

        Before training there are the held-out metrics only; the others are NaN there.
        """
        ends = pd.DataFrame({"before": self._facts.before, "after": self._facts.after})
        return ends.drop(index="step").rename_axis("metric")

    @cached_property
    def samples(self) -> pd.DataFrame:
        """Every stored response: the columns of rollouts/ and those of geometry/, and `step`.

        Empty if the run wrote no tables (trainer.tables_every=0).

        Raises:
            ValueError: the two tables of a step are not about the same responses.
        """
        place = RunFolder(self.folder)
        parts: list[pd.DataFrame] = []
        for step, path in place.table_files("rollouts").items():
            rollouts = pd.read_parquet(path)

            # the file's name tells the step, its columns do not
            rollouts.insert(0, "step", step)

            # both tables have one row a response, in the same order
            geometry_file = place.table("geometry", step)
            if geometry_file.is_file():
                geometry = pd.read_parquet(geometry_file)
                if geometry["problem"].tolist() != rollouts["problem"].tolist():
                    raise ValueError(
                        f"{self.folder}: rollouts/ and geometry/ of step {step} are about "
                        "different responses"
                    )
                added = geometry.drop(columns=list(SHARED_COLUMNS), errors="ignore")
                rollouts = pd.concat([rollouts, added], axis="columns")
            parts.append(rollouts)
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()

    @cached_property
    def probes(self) -> pd.DataFrame:
        """Pairs of held-out responses with their cosine and class, before and after training.

        Empty if the run took no probe (trainer.probe_problems=0).
        """
        parts: list[pd.DataFrame] = []
        for step, path in RunFolder(self.folder).table_files("probe").items():
            parts.append(pd.read_parquet(path).assign(step=step))
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()

    @property
    def checkpoints(self) -> dict[int, Path]:
        """The folders of complete checkpoints by step, in ascending order."""
        folders: dict[int, Path] = {}

        # a folder without a manifest was cut off while it was written
        for manifest in RunFolder(self.folder).checkpoints.glob(f"*/{CHECKPOINT_MANIFEST}"):
            step = step_number(manifest.parent.name)
            if step is not None:
                folders[step] = manifest.parent
        return dict(sorted(folders.items()))

    @property
    def model(self) -> Path | None:
        """The trained policy in Hugging Face format; None before the run has ended."""
        folder = RunFolder(self.folder).model
        return folder if folder.is_dir() else None


def load_run(folder: Path | str) -> LoadedRun:
    """Read a run that `g2rl-train` or `g2rl.train` has written.

    Raises:
        ReportError: the folder holds no training run, or one that has logged nothing yet.
    """
    return LoadedRun(folder)


@dataclass(slots=True, frozen=True)
class Tables(Mapping[str, pd.DataFrame]):
    """What an evaluation or an analysis has written: its parquet files by name.

    Where runs of unlike problems were compared, the tables of each benchmark lie in a folder of its
    name: ``countdown/runs``.

    Args:
        folder: that was written.
    """

    folder: Path

    def __getitem__(self, name: str) -> pd.DataFrame:
        path = self.folder / f"{name}.parquet"
        if not path.is_file():
            raise KeyError(f"{self.folder} has no table {name!r}: there are {', '.join(self)}")
        return pd.read_parquet(path)

    def __iter__(self) -> Iterator[str]:
        names: list[str] = []
        for pattern in ("*.parquet", "*/*.parquet"):
            paths = sorted(self.folder.glob(pattern))
            names += [str(path.relative_to(self.folder).with_suffix("")) for path in paths]
        return iter(names)

    def __len__(self) -> int:
        return len(list(iter(self)))
