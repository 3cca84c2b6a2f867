"""The plan of a bake-off: what is compared, and the runs that this makes, in their order.

A plan is a YAML file that is written before anything runs (`experiments/bakeoff/plan.yaml`). Each
arm is trained at every rate with one seed that is not reported; the best rate is then trained with
the reported seeds. Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from g2rl.analysis.bakeoff.rows import Rows, best_rate
from g2rl.cli.config.choices import config_dir
from g2rl.cli.config.launch import expand_combinations

SECTIONS = ("rates_seed", "seeds", "baseline", "tasks", "arms")
"""What every plan must say."""


@dataclass(slots=True, frozen=True)
class PlannedTask:
    """A task of the bake-off.

    Args:
        name: a choice of conf/task.
        experiment: the file of conf/experiment that holds the protocol of its runs.
        rates: learning rates, the one that is tried first in front.
        primary: metric on which arms are compared first, such as "pass@32".
        choose_by: metrics whose mean after training chooses the rate.
    """

    name: str
    experiment: str
    rates: tuple[str, ...]
    primary: str
    choose_by: tuple[str, ...]

    @property
    def protocol(self) -> str:
        """Fingerprint of the experiment's file; rows of another protocol are no rows of this
        one."""
        content = OmegaConf.load(config_dir() / "experiment" / f"{self.experiment}.yaml")
        plain = json.dumps(OmegaConf.to_container(content), sort_keys=True)
        return hashlib.sha256(plain.encode()).hexdigest()[:16]


@dataclass(slots=True, frozen=True)
class PlannedRun:
    """One run: an arm at a rate with a seed on a task.

    Args:
        overrides: what tells the arm from others, ``["exploration=maxrl"]``.
        protocol: of the task.
    """

    task: str
    experiment: str
    protocol: str
    arm: str
    overrides: tuple[str, ...]
    rate: str
    seed: int

    @property
    def words(self) -> list[str]:
        """Everything that is typed after g2rl-train."""
        own = expand_combinations(self.overrides)
        return [
            f"experiment={self.experiment}",
            *own,
            f"optimizer.lr={self.rate}",
            f"seed={self.seed}",
        ]

    @property
    def command(self) -> str:
        """What makes this run again, alone."""
        return " ".join(["g2rl-train", *self.words])

    @property
    def folder(self) -> Path:
        """Where it works, below the folder of the bake-off."""
        return Path(self.task) / f"{self.arm}-lr{self.rate}-seed{self.seed}"

    @property
    def identity(self) -> dict[str, Any]:
        """What a stored row must have to be the row of this run."""
        return {
            "task": self.task,
            "arm": self.arm,
            "rate": self.rate,
            "seed": self.seed,
            "overrides": list(self.overrides),
            "protocol": self.protocol,
        }


@dataclass(slots=True, frozen=True)
class Plan:
    """A whole bake-off; see the head of the file."""

    rates_seed: int
    seeds: tuple[int, ...]
    baseline: str
    tasks: dict[str, PlannedTask]
    arms: dict[str, tuple[str, ...]]
    """Name of an arm to its overrides."""

    def rate_runs(self, task: PlannedTask) -> list[PlannedRun]:
        """The runs that choose the rates: one rate after another, each over all arms."""
        runs: list[PlannedRun] = []
        for rate in task.rates:
            runs += [self.run(task, arm, rate, self.rates_seed) for arm in self.arms]
        return runs

    def seed_runs(self, task: PlannedTask, rows: Rows) -> list[PlannedRun]:
        """The reported runs: one seed after another, each over all arms whose rate is chosen."""
        rate_of: dict[str, str] = {}
        for arm in self.arms:
            rate = self.chosen_rate(task, arm, rows)
            if rate is not None:
                rate_of[arm] = rate

        # breadth first: a bake-off that is stopped has as many arms as possible
        runs: list[PlannedRun] = []
        for seed in self.seeds:
            runs += [self.run(task, arm, rate, seed) for arm, rate in rate_of.items()]
        return runs

    def chosen_rate(self, task: PlannedTask, arm: str, rows: Rows) -> str | None:
        """The best rate of an arm; None until it was tried at every rate."""
        tried = [self.run(task, arm, rate, self.rates_seed).identity for rate in task.rates]
        found = [rows.find(identity) for identity in tried]
        return best_rate(found, task.choose_by)

    def run(self, task: PlannedTask, arm: str, rate: str, seed: int) -> PlannedRun:
        """One run of this plan."""
        overrides = self.arms[arm]
        return PlannedRun(task.name, task.experiment, task.protocol, arm, overrides, rate, seed)


def read_plan(path: Path) -> Plan:
    """Read a plan.

    Raises:
        ValueError: there is no such file, or it lacks a section or contradicts itself.
    """
    if not path.is_file():
        raise ValueError(
            f"there is no plan at {path}: start the command in a checkout of g2rl, or name the "
            "file with --plan"
        )
    text: Any = OmegaConf.to_container(OmegaConf.load(path))
    lacking = [section for section in SECTIONS if section not in text]
    if lacking:
        raise ValueError(f"{path} says nothing of {', '.join(lacking)}")

    # tasks and arms
    tasks = {name: _task(name, entry) for name, entry in text["tasks"].items()}
    arms = {name: tuple(str(entry).split()) for name, entry in text["arms"].items()}
    if text["baseline"] not in arms:
        raise ValueError(f"{path}: the baseline {text['baseline']!r} is none of the arms")
    if text["rates_seed"] in text["seeds"]:
        raise ValueError(
            f"{path}: rates are chosen on seed {text['rates_seed']}, which must not be reported"
        )
    return Plan(text["rates_seed"], tuple(text["seeds"]), text["baseline"], tasks, arms)


def _task(name: str, entry: Mapping[str, Any]) -> PlannedTask:
    """One task of a plan; rates stay as they are written, because names of folders hold them."""
    return PlannedTask(
        name,
        str(entry["experiment"]),
        tuple(str(rate) for rate in entry["rates"]),
        str(entry["primary"]),
        tuple(entry["choose_by"]),
    )
