"""Join runs: find them, tell the arms apart by their settings, one long table, one line an arm.

An *arm* is what differs between runs beside the seed; its runs are seeds of the same thing. Nothing
here draws, see `g2rl.analysis.figures.curves`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml  # type: ignore[import-untyped]

from g2rl.analysis.palette import SIGNAL_COLOURS
from g2rl.runs.identity import free_keys, is_under
from g2rl.runs.tracking import read_metrics

SIGNAL = "exploration.name"
"""Stands for exploration._target_ and says the signal by its short name."""
COLUMNS = ("arm", "seed", "run", "step", "metric", "value")


class RunsError(ValueError):
    """Runs cannot be joined as asked; the message names the folders and the mend."""


@dataclass(slots=True, frozen=True)
class Run:
    """One run's folder and its settings by dotted key, e.g. ``run.settings["exploration.lam"]``."""

    folder: Path
    settings: Mapping[str, Any]

    @property
    def seed(self) -> int:
        return int(self.settings["seed"])

    @property
    def finished(self) -> bool:
        return (self.folder / "summary.json").is_file()

    def compared(self) -> dict[str, Any]:
        """The settings that make an arm."""
        return {
            key: value
            for key, value in self.settings.items()
            if not is_under(key, free_keys("train", "arm")) and not key.endswith(".data_dir")
        }


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """A configuration as dotted keys; numbers become floats (lam=1 is lam=1.0), lists text.

    The signal's class becomes `exploration.name`.
    """
    found: dict[str, Any] = {}
    for name, value in node.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict):
            found |= flat(value, f"{key}.")
        elif key == "exploration._target_":
            found[SIGNAL] = str(value).rsplit(".", 2)[-2]
        elif isinstance(value, list):
            found[key] = str(value)
        else:
            found[key] = float(value) if type(value) is int else value
    return found


def read_run(folder: Path) -> Run | None:
    """The run in a folder; None when it holds none (an evaluation has a config.yaml too)."""
    place = folder / "config.yaml"
    if not place.is_file():
        return None
    node = yaml.safe_load(place.read_text(encoding="utf-8"))
    ours = isinstance(node, dict) and {"trainer", "exploration", "seed"} <= set(node)
    return Run(folder, flat(node)) if ours else None


def find_runs(folders: Sequence[Path]) -> list[Run]:
    """Every run in the folders, at any depth, sorted within each; a run named twice counts once.

    Raises:
        RunsError: a folder is not there or holds no run.
    """
    found: dict[Path, Run] = {}
    for folder in folders:
        if not folder.is_dir():
            raise RunsError(f"{folder}: no such folder")
        here = list(_below(folder))
        if not here:
            raise RunsError(
                f"{folder} holds no run of g2rl-train (no config.yaml of one, at any depth)"
            )
        for run in here:
            found.setdefault(run.folder.resolve(), run)
    return list(found.values())


def _below(folder: Path) -> Iterator[Run]:
    run = read_run(folder)
    if run is not None:
        yield run  # and nothing inside a run is another
        return
    for entry in sorted(os.scandir(folder), key=lambda e: e.name):
        if entry.is_dir() and not entry.name.startswith("."):
            yield from _below(Path(entry.path))


def differing(runs: Sequence[Run]) -> list[str]:
    """Keys on which the compared settings of the runs do not agree, the signal first."""
    settings = [run.compared() for run in runs]
    keys = dict.fromkeys(key for one in settings for key in one)
    found = [key for key in keys if len({repr(one.get(key)) for one in settings}) > 1]
    return sorted(found, key=lambda key: key != SIGNAL)


def group_runs(runs: Sequence[Run], by: Sequence[str] = ()) -> dict[str, list[Run]]:
    """Label of each arm to its runs, in order of seed.

    Args:
        by: keys that tell the arms apart (`exploration.name` is the signal); () takes what differs,
            a key only where it splits runs that the keys before it left together.

    Raises:
        RunsError: an arm holds a seed twice, or no run has a key of `by`.
    """
    for key in by:
        if not any(key in run.settings for run in runs):
            raise RunsError(
                f"no run has the setting {key!r}; the runs differ in {_list(differing(runs))}"
            )
    groups: dict[tuple[str, ...], list[Run]] = {(): list(runs)}
    keys = list(by or differing(runs))
    for key in keys:
        split: dict[tuple[str, ...], list[Run]] = {}
        for parts, members in groups.items():
            values = [run.settings.get(key) for run in members]
            same = len({repr(value) for value in values}) == 1
            for run, value in zip(members, values, strict=True):
                part = () if same and not by else (_part(key, value, keys),)
                split.setdefault(parts + part, []).append(run)
        groups = split
    ordered = sorted(groups.items(), key=lambda item: [_rank(part) for part in item[0]])
    named = {" ".join(parts) or _alone(members): members for parts, members in ordered}
    for label, members in named.items():
        members.sort(key=lambda run: run.seed)
        _refuse_twins(label, members)
    return named


def _part(key: str, value: Any, keys: Sequence[str]) -> str:
    """How a setting shows in a label: a thing's name, else leaf=value; the whole key where leaves
    agree."""
    if key.endswith(".name"):
        return str(value)
    leaf = key.rsplit(".", 1)[-1]
    alone = sum(other.rsplit(".", 1)[-1] == leaf for other in keys) == 1
    return f"{leaf if alone else key}={f'{value:.12g}' if isinstance(value, float) else value}"


def _rank(part: str) -> tuple[int, float, str]:
    """Signals in their own order, numbers by size, the rest by name."""
    signals = list(SIGNAL_COLOURS)
    name, _, value = part.rpartition("=")
    try:
        return len(signals), float(value), name
    except ValueError:
        return (signals.index(part) if part in signals else len(signals)), 0.0, part


def _alone(members: Sequence[Run]) -> str:
    return str(members[0].settings[SIGNAL])


def _refuse_twins(label: str, members: Sequence[Run]) -> None:
    seen: dict[int, Run] = {}
    for run in members:
        twin = seen.setdefault(run.seed, run)
        if twin is not run:
            keys = differing([twin, run])
            hint = f"they differ in {_list(keys)}: name it in --by" if keys else "leave one out"
            raise RunsError(
                f"arm {label!r} holds seed {run.seed} twice, {twin.folder} and {run.folder}; {hint}"
            )


def _list(keys: Sequence[str]) -> str:
    return ", ".join(keys) or "nothing"


def arms(folders: Sequence[Path], by: Sequence[str] = ()) -> dict[str, list[Path]]:
    """Label of each arm to the folders of its runs, in order of seed; see `find_runs` and
    `group_runs`."""
    return {
        label: [r.folder for r in runs]
        for label, runs in group_runs(find_runs(folders), by).items()
    }


def collect(folders: Sequence[Path], by: Sequence[str] = (), partial: bool = False) -> pd.DataFrame:
    """Every number of metrics.jsonl of every run, long: columns arm, seed, run, step, metric,
    value.

    Args:
        folders: of runs, or folders that hold runs.
        partial: also take what unfinished runs have so far.

    Raises:
        RunsError: unfinished runs without `partial`, a run without a row, and what `arms` refuses.
    """
    runs = find_runs(folders)
    unfinished = [str(run.folder) for run in runs if not run.finished]
    if unfinished and not partial:
        raise RunsError(
            f"{len(unfinished)} of {len(runs)} runs have not finished (no summary.json): "
            f"{', '.join(unfinished)}; finish them by their own command, or take what is there with --partial"
        )
    rows: list[tuple[Any, ...]] = []
    for label, members in group_runs(runs, by).items():
        for run in members:
            metrics = read_metrics(run.folder / "metrics.jsonl")
            if not metrics:
                raise RunsError(f"{run.folder} has no row in metrics.jsonl yet; leave it out")
            rows += [
                (label, run.seed, str(run.folder), row["step"], name, float(value))
                for row in metrics
                for name, value in row.items()
                if name != "step"
            ]
    return pd.DataFrame(rows, columns=list(COLUMNS))
