"""What one run left on disk, read once for a page about it. Imports neither torch nor pandas."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from g2rl.runs.files import read_yaml
from g2rl.runs.layout import RunFolder
from g2rl.runs.tracking import read_metrics

MEASURED_BY = ("explore/", "observe/g2rl/", "explore/g2rl/")
"""Where the metrics of gradient features stand: under the training signal, an observer, or a part
of several signals."""


class ReportError(ValueError):
    """A page cannot be written about these folders; the message names the folder and the mend."""


@dataclass(slots=True, frozen=True)
class RunFacts:
    """One run.

    Args:
        folder: of the run.
        config: the resolved configuration.
        rows: of metrics.jsonl, in the order of steps.
        overrides: what was typed after the command; None if the folder does not tell.
        finished: whether the run has come to its end.
    """

    folder: Path
    config: Mapping[str, Any]
    rows: Sequence[Mapping[str, float]]
    overrides: Sequence[str] | None
    finished: bool

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.folder.resolve().name

    @property
    def before(self) -> Mapping[str, float]:
        """The first row: the evaluation before training."""
        return self.rows[0]

    @property
    def after(self) -> Mapping[str, float]:
        """The last row."""
        return self.rows[-1]

    @property
    def steps(self) -> int:
        """Training steps that are done."""
        return int(self.after["step"])

    @property
    def benchmarks(self) -> list[str]:
        """Names of the held-out problem sets, in the order of the run."""
        # a dict keeps the order in which names come
        names: dict[str, None] = {}
        for row in self.rows:
            for metric in row:
                match = re.fullmatch(r"eval/(.+)/pass@1", metric)
                if match:
                    names[match[1]] = None
        return list(names)

    @property
    def command(self) -> str | None:
        """The command that makes the run again, as typed into a shell; None if it is not known."""
        if self.overrides is None:
            return None
        return shlex.join(["g2rl-train", *self.overrides])

    def metrics(self) -> list[str]:
        """Every metric that the run has logged, in the order of their first appearance."""
        names: dict[str, None] = {}
        for row in self.rows:
            names.update(dict.fromkeys(row))
        names.pop("step", None)
        return list(names)

    def curve(self, metric: str) -> tuple[list[float], list[float]]:
        """Steps that report a metric, and its values there."""
        # evaluations and probes are of some steps only
        steps, values = [], []
        for row in self.rows:
            if metric in row:
                steps.append(float(row["step"]))
                values.append(float(row[metric]))
        return steps, values

    def of_features(self, quantity: str) -> str | None:
        """The metric of a quantity that gradient features give, such as "nu_mean"; None without
        it."""
        # a run measures them in one of these places, or in none
        names = set(self.metrics())
        for place in MEASURED_BY:
            if f"{place}{quantity}" in names:
                return f"{place}{quantity}"
        return None


def read_facts(folder: Path, ended: bool = False) -> RunFacts:
    """Read a run's configuration, metrics and command.

    Args:
        folder: of the run.
        ended: it has come to its end, though summary.json, the last file, is not there yet.

    Raises:
        ReportError: the folder holds no training run, or none that has logged anything.
    """
    place = RunFolder(folder)
    if not place.config.is_file():
        raise ReportError(
            f"{folder} holds no run: there is no config.yaml; give a folder that g2rl-train wrote"
        )

    # evaluations and analyses write a config.yaml too
    try:
        config = read_yaml(place.config)
    except ValueError as error:
        raise ReportError(str(error)) from error
    if not (isinstance(config, dict) and {"trainer", "exploration", "seed"} <= set(config)):
        raise ReportError(
            f"{folder} holds no training run: its config.yaml has no trainer; give a folder that "
            "g2rl-train wrote"
        )
    rows = read_metrics(place.metrics)
    if not rows:
        raise ReportError(
            f"{folder} has no row in metrics.jsonl yet: wait for its first evaluation"
        )
    finished = ended or place.summary.is_file()
    return RunFacts(folder, config, rows, _typed(folder), finished)


def _typed(folder: Path) -> list[str] | None:
    """What was typed after the command, from Hydra's own record; None if there is none."""
    # the settings that were typed; those of Hydra itself, such as the folder, are not among them
    path = folder / ".hydra" / "overrides.yaml"
    if not path.is_file():
        return None
    try:
        typed = read_yaml(path)
    except ValueError:
        return None
    return [str(word) for word in typed] if isinstance(typed, list) else None


def flat_settings(node: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A configuration as dotted keys to values, as one would type them."""
    settings: dict[str, str] = {}
    for name, value in node.items():
        key = f"{prefix}{name}"

        # an empty node is a value of its own
        if isinstance(value, Mapping) and value:
            settings |= flat_settings(value, f"{key}.")
        else:
            settings[key] = _typed_value(value)
    return settings


def _typed_value(value: Any) -> str:
    """A value as it stands in a YAML file, on one line."""
    # yaml ends a bare value with a line of three dots
    text: str = yaml.safe_dump(value, default_flow_style=True, width=float("inf"))
    return text.removesuffix("\n").removesuffix("\n...")
