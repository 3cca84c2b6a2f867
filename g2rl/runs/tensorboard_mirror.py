"""TensorBoard beside the local files: scalars, histograms of gradient cosines, samples as text.

The names and the step are those of metrics.jsonl. TensorBoard appends to what is there, and shows a
step twice that was logged twice. So when a run continues, its mirror removes the event files and
logs all earlier steps again from the local files, and one file holds the whole run.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml  # type: ignore[import-untyped]

from g2rl.hub import missing_package
from g2rl.runs.layout import RunFolder
from g2rl.runs.tracking import Columns, Row, read_table
from g2rl.runs.wandb_mirror import (
    BINS,
    SAMPLE_COLUMNS,
    SAMPLES,
    cosine_histograms,
    sample_rows,
)


class TensorboardMirror:
    """TensorBoard event files in RUN/tensorboard, written by torch's own SummaryWriter.

    Args:
        samples_every: steps between samples as text; 0 logs none. A step whose responses are not in
            rollouts/ has none either.
        samples: how many responses are shown, the first of the step.
        histograms: log histograms of cosines for steps whose geometry/ holds cosines.

    Raises:
        ValueError: numbers out of range.
    """

    def __init__(self, samples_every: int = 10, samples: int = 16, histograms: bool = True) -> None:
        if samples_every < 0 or samples < 1:
            raise ValueError(
                f"tracking: need samples_every >= 0 and samples >= 1, "
                f"got {samples_every} and {samples}"
            )
        self.samples_every = samples_every
        self.samples = samples
        self.histograms = histograms

        # state of an open run
        self._writer: Any = None
        self._tables: dict[str, Columns] = {}  # of the present step, by kind

    def start(self, run_dir: Path, config: Mapping[str, Any], rows: Sequence[Row]) -> None:
        """Begin the event file anew, and log the steps in `rows` again.

        Raises:
            ImportError: the package tensorboard is not installed.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            said = missing_package("tracking=tensorboard", "tensorboard", "tensorboard")
            raise ImportError(said) from error

        # one file for the whole run
        folder = RunFolder(run_dir).tensorboard
        shutil.rmtree(folder, ignore_errors=True)
        self._writer = SummaryWriter(str(folder))
        settings = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
        self._writer.add_text("config", as_code(settings), 0)

        # the tables of a step come before its row, as in training
        for row in rows:
            step = int(row["step"])
            for kind in ("rollouts", "geometry"):
                columns = read_table(run_dir, kind, step)
                if columns is not None:
                    self.table(kind, step, columns)
            self.log(step, {name: value for name, value in row.items() if name != "step"})

    def table(self, kind: str, step: int, columns: Columns) -> None:
        """Keep a table until the step's `log`."""
        self._tables[kind] = columns

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log the scalars of a step together with the samples and histograms of its tables."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

        # its cosines by pair class
        rollouts = self._tables.pop("rollouts", None)
        geometry = self._tables.pop("geometry", {})
        if self.histograms and "cosine" in geometry:
            for name, counts in cosine_histograms(geometry).items():
                self._add_histogram(name, counts, step)

        # its first responses
        wanted = self.samples_every > 0 and step % self.samples_every == 0
        if wanted and rollouts is not None:
            shown = sample_rows(step, rollouts, geometry, self.samples)
            self._writer.add_text(SAMPLES, samples_text(shown), step)
        self._writer.flush()

    def _add_histogram(self, name: str, counts_B: np.ndarray, step: int) -> None:
        """Log counts (BINS,) over equal bins of [-1, 1]."""
        edges = np.linspace(-1, 1, BINS + 1)
        middles_B = (edges[:-1] + edges[1:]) / 2

        # the sums are those of values in the middle of their bins
        self._writer.add_histogram_raw(
            name,
            min=-1.0,
            max=1.0,
            num=int(counts_B.sum()),
            sum=float((counts_B * middles_B).sum()),
            sum_squares=float((counts_B * middles_B**2).sum()),
            bucket_limits=edges[1:].tolist(),
            bucket_counts=counts_B.tolist(),
            global_step=step,
        )

    def finish(self) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()


def samples_text(rows: Sequence[Sequence[Any]]) -> str:
    """Responses as Markdown: what is known of each as a line, and its text as code.

    Args:
        rows: of `sample_rows`.
    """
    parts: list[str] = []
    for row in rows:
        cells = dict(zip(SAMPLE_COLUMNS, row, strict=True))
        texts = [cells.pop("prompt"), cells.pop("completion")]
        known = [f"{name} {value}" for name, value in cells.items() if value is not None]

        # everything as code, so that nothing in it is read as Markdown
        parts.append(as_code("\n".join([", ".join(known), *map(str, texts)])))
    return "\n\n---\n\n".join(parts)


def as_code(text: str) -> str:
    """A text that Markdown shows as it is: every line four spaces in."""
    return "\n".join(f"    {line}" for line in text.splitlines())
