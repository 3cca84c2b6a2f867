"""The folder of a training run: the name of everything in it. Imports no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

TABLE_KINDS = ("rollouts", "geometry", "probe")
"""Folders of parquet tables, one file a step."""

CHECKPOINT_MANIFEST = "manifest.json"
"""The file of a checkpoint that lists all others; it is written last."""

_STEP = re.compile(r"step_(\d{6,})")


@dataclass(slots=True, frozen=True)
class RunFolder:
    """Paths inside a run's folder, e.g. ``RunFolder(Path("runs/a")).metrics``."""

    path: Path

    # what was asked for

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def inputs(self) -> Path:
        """Fingerprints of what the configuration names: weights, tokenizer, problems."""
        return self.path / "inputs.json"

    @property
    def lock(self) -> Path:
        """Held by the process that writes here."""
        return self.path / ".lock"

    # what training writes

    @property
    def metrics(self) -> Path:
        """One row of metrics a step, as JSON lines."""
        return self.path / "metrics.jsonl"

    def tables(self, kind: str) -> Path:
        """The folder of the tables of one of `TABLE_KINDS`."""
        return self.path / kind

    def table(self, kind: str, step: int) -> Path:
        """The parquet file of one kind and step, whether it exists or not."""
        return self.tables(kind) / f"{step_name(step)}.parquet"

    def table_files(self, kind: str) -> dict[int, Path]:
        """The parquet files of one kind that exist, by step in ascending order."""
        # names of more than six digits would not sort like numbers
        files: dict[int, Path] = {}
        for path in self.tables(kind).glob("step_*.parquet"):
            step = step_number(path.stem)
            if step is not None:
                files[step] = path
        return dict(sorted(files.items()))

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints that the run continues from."""
        return self.path / "checkpoints"

    def checkpoint(self, step: int) -> Path:
        """The folder of the checkpoint of one step."""
        return self.checkpoints / step_name(step)

    @property
    def wandb(self) -> Path:
        """The offline files of Weights & Biases."""
        return self.path / "wandb"

    @property
    def tensorboard(self) -> Path:
        """The event files of TensorBoard."""
        return self.path / "tensorboard"

    @property
    def metrics_csv(self) -> Path:
        """The metrics as a table of one row a step, if the run mirrors them so."""
        return self.path / "metrics.csv"

    @property
    def evaluations(self) -> Path:
        """The folder of evaluations and analyses, one folder each, which other commands write."""
        return self.path / "eval"

    # what the end of a run writes

    @property
    def model(self) -> Path:
        """The trained policy in Hugging Face format."""
        return self.path / "model"

    @property
    def learning_curves(self) -> Path:
        """Figure: accuracy, length, entropy and more over the steps."""
        return self.path / "learning_curves.png"

    @property
    def cosine_distribution(self) -> Path:
        """Figure: pairwise gradient cosines before and after training."""
        return self.path / "cosine_distribution.png"

    @property
    def report(self) -> Path:
        """One HTML page with everything above; see docs/report.md."""
        return self.path / "report.html"

    @property
    def profile(self) -> Path:
        """The folder of a profile, if one was asked for; see docs/cost.md."""
        return self.path / "profile"

    @property
    def trace(self) -> Path:
        """A Chrome trace of a few steps, gzipped."""
        return self.profile / "trace.json.gz"

    @property
    def stage_numbers(self) -> Path:
        """Seconds, operations, memory and padding of every stage."""
        return self.profile / "stages.json"

    @property
    def stage_table(self) -> Path:
        """The same as a table in Markdown."""
        return self.profile / "stages.md"

    @property
    def summary(self) -> Path:
        """Metrics before and after training. It is written last: where it is, all else is there."""
        return self.path / "summary.json"

    @property
    def error(self) -> Path:
        """The traceback of a command that ended with an error."""
        return self.path / "error.txt"

    @property
    def failure(self) -> Path:
        """Tensors and responses of each step over which the run stopped, one folder a step."""
        return self.path / "failure"


def step_name(step: int) -> str:
    """Name of what belongs to one step, e.g. ``step_000012``; up to 999999, names sort like
    steps."""
    return f"step_{step:06d}"


def step_number(name: str) -> int | None:
    """The step in a name that `step_name` has made; None for any other name."""
    match = _STEP.fullmatch(name)
    return int(match[1]) if match else None


def _outputs() -> tuple[str, ...]:
    """Names of everything that a run makes besides its configuration and its lock."""
    folder = RunFolder(Path())
    paths = [
        folder.checkpoints,
        *(folder.tables(kind) for kind in TABLE_KINDS),
        folder.failure,
        folder.model,
        folder.wandb,
        folder.tensorboard,
        folder.metrics_csv,
        folder.metrics,
        folder.summary,
        folder.error,
        folder.learning_curves,
        folder.cosine_distribution,
        folder.report,
        folder.profile,
        folder.inputs,
    ]
    return tuple(str(path) for path in paths)


OUTPUTS = _outputs()
"""Files and folders that a run makes besides its configuration; resume=never deletes them."""
