"""What a sweep adds to its runs: arms known beforehand, one stop for all of them, tables at the
end."""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict

from g2rl.cli.config.launch import register_resolvers
from g2rl.cli.sweep.finished import finished_score
from g2rl.cli.sweep.worker import Home, begin_arm, end_arm, take_turn
from g2rl.runs.interrupt import EXIT_INTERRUPTED, StopRequest, asked
from g2rl.runs.layout import RunFolder

# A worker process unpickles `Sweep`, and so imports this file, before it resolves or composes
# anything.
register_resolvers()
# conf/hydra/launcher/ has files of the plugins' names; that their keys are checked is just what we
# want.
warnings.filterwarnings(
    "ignore", message=r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema"
)
BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
PLUGINS = {"joblib": "sweep", "submitit_local": "sweep", "submitit_slurm": "sweep", "ray": "ray"}
"""Launchers that are not Hydra's own, and the extra of this package that brings each."""


@dataclass(slots=True, frozen=True)
class PlannedArm:
    """An arm before it runs; `label` and `settings` as in g2rl.analysis.comparison.sweep.Arm."""

    label: str
    settings: dict[str, str]
    folder: Path
    config: DictConfig


def launcher_of(hydra_node: Any) -> str:
    """The chosen launcher: basic, joblib, submitit_local, submitit_slurm, ray."""
    return str(hydra_node.runtime.choices.get("hydra/launcher", "basic"))


class SweepStop(StopRequest):
    """Asked to stop, the process of a sweep tells its workers by a file and waits until they have
    saved."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file
        self.file.unlink(missing_ok=True)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        super()._remember(number, frame)
        self.file.write_text(str(number), encoding="utf-8")


class Sweep(Callback):
    """Hydra callback of `g2rl-train`; does nothing in a single run.

    Launchers pickle it into their worker processes, so it holds only what those need.

    Args:
        local_arms: how many arms work at a time under submitit_local.
    """

    def __init__(self, local_arms: int = 2) -> None:
        self.local_arms = local_arms
        self.home: Home | None = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        folder, launcher = Path(os.path.abspath(config.hydra.sweep.dir)), launcher_of(config.hydra)
        self.home = Home(os.getpid(), socket.gethostname(), launcher, folder)
        refuse_missing_plugin(launcher, str(config.hydra.launcher._target_))
        begin_sweep(config, self.home)

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        if self.home is None or self.home.is_here():
            return
        begin_arm(self.home)
        if self.home.launcher == "submitit_local":
            take_turn(self.home.folder, self.local_arms)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        end_arm()

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        end_sweep()


def refuse_missing_plugin(launcher: str, target: str) -> None:
    """Exit with code 1 and one line when the launcher's package is not installed."""
    # hydra_plugins.NAME, as the launcher's class says
    package = ".".join(target.split(".")[:2])
    try:
        there = importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # not even hydra_plugins
        there = False

    # name the extra that brings it
    if not there:
        extra = PLUGINS.get(launcher, launcher)
        pins = "" if extra == "ray" else "-c constraints.txt "  # see pyproject.toml
        print(
            f"error: hydra/launcher={launcher} needs a package that is not installed ({package}): "
            f"pip install {pins}'g2rl[{extra}]' (from a source checkout: -e '.[{extra}]')",
            file=sys.stderr,
        )
        raise SystemExit(1)


# --- the arms


def plan(config: DictConfig) -> list[PlannedArm]:
    """Every arm of a sweep of Hydra's own sweeper, in its order.

    Raises:
        ValueError: two arms would write in one folder.
        HydraException: an arm cannot be composed.
    """
    # the words of every arm, as Hydra's own sweeper splits them
    loader = GlobalHydra.instance().config_loader()
    words = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    words += OmegaConf.to_container(config.hydra.overrides.task)  # type: ignore[arg-type]
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(words)
    [jobs] = BasicSweeper.split_arguments(parsed, None)
    varied = varied_settings(jobs)

    # compose every arm to know its folder
    arms: dict[Path, PlannedArm] = {}
    for number, (job, settings) in enumerate(zip(jobs, varied, strict=True)):
        composed = loader.load_sweep_config(config, list(job))
        with open_dict(composed):
            composed.hydra.job.id = composed.hydra.job.num = number
        folder = Path(os.path.abspath(composed.hydra.sweep.dir)) / str(composed.hydra.sweep.subdir)
        if folder in arms:
            raise ValueError(
                f"two runs of this sweep would write in {folder}: name what tells them apart in "
                "hydra.sweep.subdir=..."
            )
        with open_dict(composed):
            del composed["hydra"]
        label = ",".join(f"{key}={value}" for key, value in settings.items()) or "all"
        arms[folder] = PlannedArm(label, settings, folder, composed)
    return list(arms.values())


def varied_settings(jobs: Sequence[Sequence[str]]) -> list[dict[str, str]]:
    """Of each job's overrides those that differ between jobs, without the seed."""
    # the settings of each job, and the values that each setting takes
    settings_of_jobs: list[dict[str, str]] = []
    values_of_key: dict[str, set[str]] = {}
    for job in jobs:
        settings: dict[str, str] = {}
        for word in job:
            key, value = word.lstrip("+").split("=", 1)
            settings[key] = value
            values_of_key.setdefault(key, set()).add(value)
        settings_of_jobs.append(settings)

    # those that take more than one value
    varied = {key for key, values in values_of_key.items() if len(values) > 1 and key != "seed"}
    return [
        {key: value for key, value in settings.items() if key in varied}
        for settings in settings_of_jobs
    ]


def status(arm: PlannedArm) -> str:
    """finished, failed (error.txt), interrupted (begun, not ended) or missing."""
    if RunFolder(arm.folder).error.exists():
        return "failed"
    if finished_score(arm.config, arm.folder) is not None:
        return "finished"
    return "interrupted" if RunFolder(arm.folder).config.exists() else "missing"


# --- beginning and end, in the process that the user started

_open: tuple[Path, list[PlannedArm], dict[Path, int]] | None = None


def begin_sweep(config: DictConfig, home: Home) -> None:
    """Plan the arms, say how many are left, and catch stop signals for all of them."""
    global _open
    if config.hydra.sweeper._target_ != BASIC_SWEEPER:
        print(
            f"sweeper {config.hydra.sweeper._target_} chooses its arms itself: no sweep.parquet, no table.md"
        )
        return

    # every arm, before the first one runs
    try:
        arms = plan(config)
    except (HydraException, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None

    # how much is left
    finished = [arm for arm in arms if status(arm) == "finished"]
    done = len(finished) if config.resume == "auto" else 0
    print(
        f"sweep of {len(arms)} runs in {home.folder}: {done} finished already, {len(arms) - done} to do"
    )
    # resume=never: what lies there from before is no result of this sweep until an arm has made it
    # anew
    stale = {} if config.resume == "auto" else {arm.folder: written(arm) for arm in finished}
    _open = home.folder, arms, stale

    # stop signals reach all arms
    if home.launcher != "submitit_slurm":  # whose jobs outlive this process
        SweepStop(home.stop_file).__enter__()  # until the process ends


def written(arm: PlannedArm) -> int:
    """When the summary of a finished arm was written, in nanoseconds."""
    return RunFolder(arm.folder).summary.stat().st_mtime_ns


def status_now(arm: PlannedArm, stale: Mapping[Path, int]) -> str:
    """`status`, with "missing" for a result that lay there before this sweep and should have been
    redone."""
    word = status(arm)
    is_stale = word == "finished" and stale.get(arm.folder) == written(arm)
    return "missing" if is_stale else word


def end_sweep() -> None:
    """Write and print the tables of the sweep that is open, if any.

    Raises:
        SystemExit: with 75 after a stop signal, else 1, unless every arm has finished.
    """
    global _open
    if _open is None:
        return
    (folder, planned, stale), _open = _open, None

    # what became of each arm
    from g2rl.analysis.comparison.sweep import Arm, write_sweep

    arms: list[Arm] = []
    for arm in planned:
        seed = int(arm.config.seed)
        arms.append(Arm(arm.label, seed, arm.settings, arm.folder, status_now(arm, stale)))
    try:
        print(
            f"\n{write_sweep(arms, folder)}\n\nsweep: {folder / 'sweep.parquet'}, {folder / 'table.md'}"
        )
    except (OSError, ValueError) as error:
        print(f"error: the tables of the sweep could not be written: {error}", file=sys.stderr)
        raise SystemExit(1) from None

    # a sweep that is not whole ends with an exit code of its own
    left = counts([arm.status for arm in arms if arm.status != "finished"])
    if left:
        again = (
            "runs only these"
            if planned[0].config.resume == "auto"
            else "begins again with every run"
        )
        print(f"not finished: {left}; the same command {again}", file=sys.stderr)
        raise SystemExit(EXIT_INTERRUPTED if asked() else 1)


def counts(words: Sequence[str]) -> str:
    """["failed", "missing", "failed"] -> "2 failed, 1 missing"."""
    tally: Mapping[str, int] = {word: words.count(word) for word in dict.fromkeys(words)}
    return ", ".join(f"{number} {word}" for word, number in tally.items())
