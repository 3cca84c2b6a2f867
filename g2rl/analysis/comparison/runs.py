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
from g2rl.tasks.places import why_no

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
        absent = why_no("folder", folder)
        if absent:
            raise RunsError(f"{absent}; name that of a run, or one that holds runs")

        # a folder without a run is most likely a typing error
        inside = list(_runs_below(folder))
        if not inside:
            raise RunsError(_why_no_run(folder))
        for run in inside:
            runs.setdefault(run.folder.resolve(), run)
    return list(runs.values())


def _why_no_run(folder: Path) -> str:
    """What is said of a folder without a run: its configuration may be damaged."""
    config = RunFolder(folder).config
    if not config.is_file():
        return f"{folder} holds no run of g2rl-train (no config.yaml of one, at any depth)"
    try:
        read_yaml(config)
    except ValueError as error:
        return str(error)
    return f"{folder} holds no run of g2rl-train: its config.yaml is of another command, or empty"


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
    """Keys on which the compared settings of the runs do not agree.

    The signal stands first, then names of choices (``task.name``) and the classes of those without
    a name (``partition._target_``), because they bring further settings with them, then the rest.
    """
    settings_of_runs = [run.compared() for run in runs]
    keys = dict.fromkeys(key for settings in settings_of_runs for key in settings)

    # by repr: 1.0 and True are equal in Python, but they are different settings
    differing_keys = []
    for key in keys:
        values = {repr(settings.get(key)) for settings in settings_of_runs}
        if len(values) > 1:
            differing_keys.append(key)

    # a name that a run's choice lacks says less than the choice's class
    nameless: set[str] = set()
    for key in differing_keys:
        target = f"{key.removesuffix('.name')}._target_"
        if key.endswith(".name"):
            lacking = [one for one in settings_of_runs if target in one and one.get(key) is None]
            if lacking:
                nameless.add(key)

    # runs of other signals have settings that the first run lacks, so nodes keep their settings
    nodes = list(dict.fromkeys(key.split(".")[0] for key in keys))

    def place(key: str) -> tuple[int, int]:
        return _key_rank(key) + 2 * (key in nameless), nodes.index(key.split(".")[0])

    return sorted(differing_keys, key=place)


def _key_rank(key: str) -> int:
    """Where a key stands among those that tell arms apart, see `differing`."""
    if key == SIGNAL:
        return 0
    if key.endswith(".name"):
        return 1
    return 2 if key.endswith("._target_") else 3


def group_runs(
    runs: Sequence[Run], by: Sequence[str] = (), among: Sequence[Run] | None = None
) -> dict[str, list[Run]]:
    """Label of each arm to its runs, in order of seed.

    Args:
        by: keys that tell the arms apart (`exploration.name` is the signal); () takes what differs,
            a key only where it splits runs that the keys before it left together.
        among: all runs that are looked at, of which one must have each key of `by`; None: these.

    Raises:
        RunsError: an arm holds a seed twice, or no run has a key of `by`.
    """
    _refuse_unknown_keys(runs if among is None else among, by)

    # split by one key after the other
    groups: dict[tuple[Choice, ...], list[Run]] = {(): list(runs)}
    for key in by or differing(runs):
        groups = _split(groups, key, always=bool(by))

    # name the arms by the keys that split them, and sort them
    keys = list(dict.fromkeys(key for choices in groups for key, _ in choices))
    named: list[tuple[list[str], list[Run]]] = []
    short_labels: list[list[str]] = []
    for choices in groups:
        short_labels.append([_label_word(key, value, keys) for key, value in choices])
    for words, (choices, members) in zip(short_labels, groups.items(), strict=True):
        # two classes may lie in files of one name: then the whole settings stand there
        is_one = short_labels.count(words) == 1
        whole_words = [f"{key}={value}" for key, value in choices]
        named.append((words if is_one else whole_words, members))
    named.sort(key=lambda arm: [_rank(word) for word in arm[0]])

    arms: dict[str, list[Run]] = {}
    for words, members in named:
        # a single arm that nothing sets apart is named by its signal
        label = " ".join(words) or str(members[0].settings[SIGNAL])
        arms[label] = members

    # seeds in order, and each once
    for label, members in arms.items():
        members.sort(key=lambda run: run.seed)
        _refuse_twins(label, members)
    return arms


def _refuse_unknown_keys(runs: Sequence[Run], by: Sequence[str]) -> None:
    """Refuse keys that no run has: a misspelt key would make one arm of everything.

    Raises:
        RunsError: naming the key, and those that the runs differ in.
    """
    for key in by:
        if not any(key in run.settings for run in runs):
            raise RunsError(
                f"no run has the setting {key!r}; the runs differ in {_listed(differing(runs))}"
            )


Choice = tuple[str, str]
"""A key that tells arms apart, and an arm's value of it as text."""


def _split(
    groups: Mapping[tuple[Choice, ...], Sequence[Run]], key: str, always: bool
) -> dict[tuple[Choice, ...], list[Run]]:
    """Divide each group by the value of a key, which becomes one more of its choices.

    A group whose runs agree on the key gets none, unless `always`.
    """
    # compared by repr, as in `differing`
    divided: dict[tuple[Choice, ...], list[Run]] = {}
    for choices, members in groups.items():
        by_value: dict[str, list[Run]] = {}
        for run in members:
            by_value.setdefault(repr(run.settings.get(key)), []).append(run)

        # one part alone is no division
        for part in by_value.values():
            mine = choices
            if always or len(by_value) > 1:
                mine = (*choices, (key, setting_text(part[0].settings.get(key))))
            divided.setdefault(mine, []).extend(part)
    return divided


def _label_word(key: str, value: str, keys: Sequence[str]) -> str:
    """How a setting shows in a label, as it is typed: ``task=math``, ``lam=3``, ``g2rl``.

    Args:
        key: of the setting.
        value: of the arm.
        keys: all that tell arms apart; the whole key stands there where another ends in the same
            word.
    """
    # a signal is its name alone; another choice is its group, and a class the file it lies in
    node, _, leaf = key.rpartition(".")
    if key == SIGNAL:
        return value
    if leaf == "name":
        return f"{node}={value}"
    if leaf == "_target_":
        place, _, name = value.rpartition(".")
        module = place.rpartition(".")[2]
        return f"{node.split('.')[0]}={name if module == 'partitions' else module}"

    # lr is enough for optimizer.lr, if no other key ends in lr
    leaves = [other.rpartition(".")[2] for other in keys]
    name = leaf if leaves.count(leaf) == 1 else key
    return f"{name}={value}"


def setting_text(value: Any) -> str:
    """A setting in a label: numbers without trailing zeros, 3 instead of 3.0."""
    return f"{value:.12g}" if isinstance(value, float) else str(value)


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


def runs_to_compare(folders: Sequence[Path], partial: bool = False) -> tuple[list[Run], list[Run]]:
    """Runs that are compared, and the unfinished runs that are left out.

    Args:
        folders, partial: as in `collect`.

    Raises:
        RunsError: none would be left, and what `find_runs` refuses.
    """
    # an unfinished run would be compared by weights that are not its last
    runs = find_runs(folders)
    if partial:
        return runs, []
    finished = [run for run in runs if run.finished]
    if not finished:
        names = ", ".join(str(run.folder) for run in runs)
        raise RunsError(
            f"none of the {len(runs)} runs has finished (no summary.json): {names}; finish them by "
            "their own command, or take what is there with --partial"
        )
    return finished, [run for run in runs if not run.finished]


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
