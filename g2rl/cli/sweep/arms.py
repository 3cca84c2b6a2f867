"""The arms of a sweep: what they are before the first one runs, and what became of them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from g2rl.cli.sweep.finished import finished_score
from g2rl.runs.layout import RunFolder


@dataclass(slots=True, frozen=True)
class PlannedArm:
    """An arm before it runs; `label` and `settings` as in g2rl.analysis.comparison.sweep.Arm."""

    label: str
    settings: dict[str, str]
    folder: Path
    config: DictConfig


def plan_arms(config: DictConfig) -> list[PlannedArm]:
    """Every arm of a sweep of Hydra's own sweeper, in its order.

    Raises:
        ValueError: two arms would write in one folder.
        HydraException: an arm cannot be composed.
    """
    jobs = jobs_of(config)

    # every arm is composed, because its folder depends on its settings
    arms: dict[Path, PlannedArm] = {}
    for number, (job, settings) in enumerate(zip(jobs, varied_settings(jobs), strict=True)):
        composed = compose_arm(config, job, number)
        folder = Path(os.path.abspath(composed.hydra.sweep.dir)) / str(composed.hydra.sweep.subdir)
        if folder in arms:
            raise ValueError(
                f"two runs of this sweep would write in {folder}: name what tells them apart in "
                "hydra.sweep.subdir=..."
            )

        # from here on only the settings of the run itself matter
        with open_dict(composed):
            del composed["hydra"]
        label = ",".join(f"{key}={value}" for key, value in settings.items()) or "all"
        arms[folder] = PlannedArm(label, settings, folder, composed)
    return list(arms.values())


def pin_folder(config: DictConfig) -> None:
    """Give all arms the folder of their sweep.

    The name of the folder is made of what was typed, and Hydra composes each arm of its own values
    alone, which would name another folder.
    """
    # as if the folder had been typed, which reaches every arm in every launcher
    folder = str(config.hydra.sweep.dir)
    quoted = folder.replace("\\", "\\\\").replace("'", "\\'")
    with read_write(config), open_dict(config):
        config.hydra.sweep.dir = folder
        typed = [str(word) for word in config.hydra.overrides.hydra]
        others = [word for word in typed if not word.startswith("hydra.sweep.dir=")]
        config.hydra.overrides.hydra = [*others, f"hydra.sweep.dir='{quoted}'"]


def jobs_of(config: DictConfig) -> list[list[str]]:
    """The overrides of every arm, split as Hydra's own sweeper will split them."""
    words = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    words += OmegaConf.to_container(config.hydra.overrides.task)  # type: ignore[arg-type]
    loader = GlobalHydra.instance().config_loader()
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(words)
    [jobs] = BasicSweeper.split_arguments(parsed, None)
    return [list(job) for job in jobs]


def compose_arm(config: DictConfig, job: Sequence[str], number: int) -> DictConfig:
    """The configuration of one arm, with Hydra's own node; `number` counts arms from 0."""
    composed = GlobalHydra.instance().config_loader().load_sweep_config(config, list(job))
    with open_dict(composed):
        composed.hydra.job.id = composed.hydra.job.num = number
    return composed


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
    folder = RunFolder(arm.folder)
    if folder.error.exists():
        return "failed"
    if finished_score(arm.config, arm.folder) is not None:
        return "finished"
    return "interrupted" if folder.config.exists() else "missing"


def written(arm: PlannedArm) -> int:
    """When the summary of a finished arm was written, in nanoseconds."""
    return RunFolder(arm.folder).summary.stat().st_mtime_ns


def status_now(arm: PlannedArm, stale: Mapping[Path, int]) -> str:
    """Like `status`, but a result that lay there before the sweep counts as missing.

    Args:
        arm: one arm of a sweep that starts over (resume=never).
        stale: by folder, when results from before the sweep were written.
    """
    word = status(arm)
    is_stale = word == "finished" and stale.get(arm.folder) == written(arm)
    return "missing" if is_stale else word
