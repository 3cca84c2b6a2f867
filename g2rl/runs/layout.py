"""The folder of a training run: the name of everything in it. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

OUTPUTS = (
    "checkpoints",
    "rollouts",
    "geometry",
    "probe",
    "failure",
    "model",
    "wandb",
    "metrics.jsonl",
    "summary.json",
    "error.txt",
    "learning_curves.png",
    "cosine_distribution.png",
)
"""Files and folders that a run makes besides its configuration; resume=never deletes them."""


@dataclass(slots=True, frozen=True)
class RunFolder:
    """Paths inside a run's folder, e.g. ``RunFolder(Path("runs/a")).metrics``."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        """One row of metrics a step, as JSON lines."""
        return self.path / "metrics.jsonl"

    @property
    def summary(self) -> Path:
        """Metrics before and after training. It is written last: where it is, all else is there."""
        return self.path / "summary.json"

    @property
    def error(self) -> Path:
        """The traceback of a command that ended with an error."""
        return self.path / "error.txt"

    @property
    def lock(self) -> Path:
        """Held by the process that writes here."""
        return self.path / ".lock"

    @property
    def model(self) -> Path:
        """The trained policy in Hugging Face format."""
        return self.path / "model"

    @property
    def checkpoints(self) -> Path:
        """What the run continues from."""
        return self.path / "checkpoints"

    def checkpoint(self, step: int) -> Path:
        """The checkpoint of one step."""
        return self.checkpoints / step_name(step)

    def tables(self, kind: str) -> Path:
        """Folder of the parquet files of one kind: rollouts, geometry or probe."""
        return self.path / kind

    def table(self, kind: str, step: int) -> Path:
        """The parquet file of one kind and step."""
        return self.tables(kind) / f"{step_name(step)}.parquet"

    @property
    def failure(self) -> Path:
        """Tensors and responses of a step over which the run stopped."""
        return self.path / "failure"

    @property
    def wandb(self) -> Path:
        """W&B's offline files."""
        return self.path / "wandb"

    @property
    def learning_curves(self) -> Path:
        """Figure: accuracy, length, entropy and more over the steps."""
        return self.path / "learning_curves.png"

    @property
    def cosine_distribution(self) -> Path:
        """Figure: pairwise gradient cosines before and after training."""
        return self.path / "cosine_distribution.png"


def step_name(step: int) -> str:
    """Name of what belongs to one step, e.g. ``step_000012``; names sort like steps."""
    return f"step_{step:06d}"
