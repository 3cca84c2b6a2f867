"""Find runs, tell the arms apart by their settings, and join all their numbers in one long table.

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

from g2rl.analysis.palette import SIGNAL_COLOURS
from g2rl.runs.files import read_yaml
from g2rl.runs.identity import as_of_today, free_keys, is_under
from g2rl.runs.layout import RunFolder
from g2rl.runs.tracking import read_metrics

SIGNAL = "exploration.name"
"""Stands for exploration._target_ and says the signal by its short name."""
COLUMNS = ("arm", "seed", "run", "step", "metric", "value")
"""Of the long table: one row a run, step and metric."""
GEOMETRY_PREFIX = "geometry/"
"""Begins the names of metrics that are read from geometry files; they end as in
`g2rl.formulas.pairs.cosine_metrics`."""


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
        return RunFolder(self.folder).summary.is_file()

    def compared(self) -> dict[str, Any]:
        """The settings that make an arm."""
        free = free_keys("train", "arm")
        settings: dict[str, Any] = {}
        for key, value in self.settings.items():
            if not is_under(key, free) and not key.endswith(".data_dir"):
                settings[key] = value
        return settings


# finding runs


def flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A configuration as dotted keys; numbers become floats (lam=1 is lam=1.0), lists text.

    The signal's class becomes `exploration.name`.
    """
    settings: dict[str, Any] = {}
    for name, value in node.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict):
            settings |= flat(value, f"{key}.")
        elif key == "exploration._target_":
            # g2rl.exploration.evol.Evol -> evol
            settings[SIGNAL] = str(value).rsplit(".", 2)[-2]
        elif isinstance(value, list):
            settings[key] = str(value)
        elif type(value) is int:
            settings[key] = float(value)
        else:
            settings[key] = value
    return settings


def read_run(folder: Path) -> Run | None:
    """The run in a folder; None when it holds none (an evaluation has a config.yaml too)."""
    config = RunFolder(folder).config
    if not config.is_file():
        return None

    # other commands write a config.yaml too, without a trainer
    try:
        node = read_yaml(config)
    except ValueError:
        return None  # what is damaged is no run
    is_training = isinstance(node, dict) and {"trainer", "exploration", "seed"} <= set(node)
    if not is_training or not isinstance(node["seed"], int):
        return None

    # a run of an earlier version is of the same arm: its classes go by their present names
    return Run(folder, flat(as_of_today(node)))


def find_runs(folders: Sequence[Path]) -> list[Run]:
    """Every run in the folders, at any depth, sorted within each; a run named twice counts once.

    Raises:
        RunsError: a folder is not there or holds no run.
    """
    runs: dict[Path, Run] = {}
    for folder in folders:
        if not folder.is_dir():
            raise RunsError(f"{folder}: no such folder")

        # a folder without a run is most likely a typing error
        inside = list(_runs_below(folder))
        if not inside:
            raise RunsError(
                f"{folder} holds no run of g2rl-train (no config.yaml of one, at any depth)"
            )
        for run in inside:
            runs.setdefault(run.folder.resolve(), run)
    return list(runs.values())


def _runs_below(folder: Path) -> Iterator[Run]:
    """The run in the folder, or else those in its subfolders; hidden ones are passed over."""
    run = read_run(folder)
    if run is not None:
        yield run  # and nothing inside a run is another
        return
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir() and not entry.name.startswith("."):
            yield from _runs_below(Path(entry.path))


# telling arms apart


def differing(runs: Sequence[Run]) -> list[str]:
    """Keys on which the compared settings of the runs do not agree, the signal first."""
    settings_of_runs = [run.compared() for run in runs]
    keys = dict.fromkeys(key for settings in settings_of_runs for key in settings)

    # by repr: 1.0 and True are equal in Python, but they are different settings
    differing_keys = []
    for key in keys:
        values = {repr(settings.get(key)) for settings in settings_of_runs}
        if len(values) > 1:
            differing_keys.append(key)
    return sorted(differing_keys, key=lambda key: key != SIGNAL)


def group_runs(runs: Sequence[Run], by: Sequence[str] = ()) -> dict[str, list[Run]]:
    """Label of each arm to its runs, in order of seed.

    Args:
        by: keys that tell the arms apart (`exploration.name` is the signal); () takes what differs,
            a key only where it splits runs that the keys before it left together.

    Raises:
        RunsError: an arm holds a seed twice, or no run has a key of `by`.
    """
    # a misspelt key would make one arm of everything
    for key in by:
        if not any(key in run.settings for run in runs):
            raise RunsError(
                f"no run has the setting {key!r}; the runs differ in {_listed(differing(runs))}"
            )

    # split by one key after the other
    keys = list(by or differing(runs))
    groups: dict[tuple[str, ...], list[Run]] = {(): list(runs)}
    for key in keys:
        groups = _split(groups, key, keys, always=bool(by))

    # name and sort the arms
    ordered = sorted(groups.items(), key=lambda group: [_rank(word) for word in group[0]])
    arms: dict[str, list[Run]] = {}
    for words, members in ordered:
        # a single arm that nothing sets apart is named by its signal
        label = " ".join(words) or str(members[0].settings[SIGNAL])
        arms[label] = members

    # seeds in order, and each once
    for label, members in arms.items():
        members.sort(key=lambda run: run.seed)
        _refuse_twins(label, members)
    return arms


def _split(
    groups: Mapping[tuple[str, ...], Sequence[Run]], key: str, keys: Sequence[str], always: bool
) -> dict[tuple[str, ...], list[Run]]:
    """Divide each group by the value of a key, which adds a word to the labels.

    A group whose runs agree on the key gets no word, unless `always`.
    """
    divided: dict[tuple[str, ...], list[Run]] = {}
    for words, members in groups.items():
        # compared by repr, as in `differing`
        values = [run.settings.get(key) for run in members]
        agree = len({repr(value) for value in values}) == 1
        for run, value in zip(members, values, strict=True):
            if agree and not always:
                label = words
            else:
                label = (*words, _label_word(key, value, keys))
            divided.setdefault(label, []).append(run)
    return divided


def _label_word(key: str, value: Any, keys: Sequence[str]) -> str:
    """How a setting shows in a label: ``g2rl`` for a thing's name, else ``lam=3``.

    The whole key stands there where another of `keys` ends in the same word.
    """
    # a signal or a model is named without "name="
    if key.endswith(".name"):
        return str(value)

    # lr is enough for optimizer.lr, if no other key ends in lr
    leaves = [other.rsplit(".", 1)[-1] for other in keys]
    leaf = key.rsplit(".", 1)[-1]
    name = leaf if leaves.count(leaf) == 1 else key

    # numbers without trailing zeros, 3 instead of 3.0
    text = f"{value:.12g}" if isinstance(value, float) else str(value)
    return f"{name}={text}"


def _rank(word: str) -> tuple[int, float, str]:
    """Sorts the words of labels: signals in their own order, numbers by size, the rest by name."""
    signals = list(SIGNAL_COLOURS)
    if word in signals:
        return signals.index(word), 0.0, word

    # lam=3 before lam=10
    name, _, value = word.rpartition("=")
    try:
        return len(signals), float(value), name
    except ValueError:
        return len(signals), 0.0, word


def _refuse_twins(label: str, members: Sequence[Run]) -> None:
    """Refuse an arm with two runs of one seed, and say what tells them apart."""
    run_of_seed: dict[int, Run] = {}
    for run in members:
        twin = run_of_seed.setdefault(run.seed, run)
        if twin is run:
            continue

        # say how the two can be told apart
        keys = differing([twin, run])
        hint = f"they differ in {_listed(keys)}: name it in --by" if keys else "leave one out"
        raise RunsError(
            f"arm {label!r} holds seed {run.seed} twice, {twin.folder} and {run.folder}; {hint}"
        )


def _listed(keys: Sequence[str]) -> str:
    return ", ".join(keys) or "nothing"


def arms(folders: Sequence[Path], by: Sequence[str] = ()) -> dict[str, list[Path]]:
    """Label of each arm to the folders of its runs, in order of seed.

    Raises:
        RunsError: see `find_runs` and `group_runs`.
    """
    folders_of_arms: dict[str, list[Path]] = {}
    for label, members in group_runs(find_runs(folders), by).items():
        folders_of_arms[label] = [run.folder for run in members]
    return folders_of_arms


# joining their numbers


def collect(folders: Sequence[Path], by: Sequence[str] = (), partial: bool = False) -> pd.DataFrame:
    """Every number in the metrics of every run, as a long table with the columns COLUMNS.

    Args:
        folders: of runs, or folders that hold runs.
        by: keys that tell the arms apart, see `group_runs`.
        partial: also take what unfinished runs have so far.

    Raises:
        RunsError: see `read_arms` and `long_table`.
    """
    return long_table(read_arms(folders, by, partial))


def read_arms(
    folders: Sequence[Path], by: Sequence[str] = (), partial: bool = False
) -> dict[str, list[Run]]:
    """Label of each arm to its runs, in order of seed.

    Args:
        folders, by, partial: as in `collect`.

    Raises:
        RunsError: unfinished runs without `partial`, and what `find_runs` and `group_runs` refuse.
    """
    # an unfinished run would be compared at another step
    runs = find_runs(folders)
    unfinished = [str(run.folder) for run in runs if not run.finished]
    if unfinished and not partial:
        raise RunsError(
            f"{len(unfinished)} of {len(runs)} runs have not finished (no summary.json): "
            f"{', '.join(unfinished)}; finish them by their own command, or take what is there "
            "with --partial"
        )
    return group_runs(runs, by)


def finished_arms(
    folders: Sequence[Path], by: Sequence[str] = ()
) -> tuple[dict[str, list[Run]], list[Run]]:
    """Label of each arm to its finished runs, and the unfinished runs that were left out.

    Args:
        folders, by: as in `collect`.

    Raises:
        RunsError: no run has finished, and what `find_runs` and `group_runs` refuse.
    """
    # an unfinished run would be compared by weights that are not its last
    runs = find_runs(folders)
    finished = [run for run in runs if run.finished]
    if not finished:
        names = ", ".join(str(run.folder) for run in runs)
        raise RunsError(
            f"none of the {len(runs)} runs has finished (no summary.json): {names}; finish them by "
            "their own command, or take what is there with --partial"
        )
    return group_runs(finished, by), [run for run in runs if not run.finished]


def long_table(runs_of_arms: Mapping[str, Sequence[Run]]) -> pd.DataFrame:
    """Every number in the metrics of every run of `read_arms`, with the columns COLUMNS.

    Raises:
        RunsError: a run has no row yet.
    """
    # in long form: one row for each number
    rows: list[tuple[Any, ...]] = []
    for label, members in runs_of_arms.items():
        for run in members:
            steps = read_metrics(RunFolder(run.folder).metrics)
            if not steps:
                raise RunsError(f"{run.folder} has no row in metrics.jsonl yet; leave it out")
            place = (label, run.seed, str(run.folder))
            for metrics in steps:
                for name, value in metrics.items():
                    if name != "step":
                        rows.append((*place, metrics["step"], name, float(value)))
    return pd.DataFrame(rows, columns=list(COLUMNS))
