"""The plan of a bake-off: what is compared, and the runs that this makes, in their order.

A plan is a YAML file that is written before anything runs (`experiments/bakeoff/plan.yaml`). Each
arm is trained at every rate with one seed that is not reported; the best rate is then trained with
the reported seeds. Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from g2rl.analysis.bakeoff.rows import Row, Rows, identity_of, is_of
from g2rl.analysis.bakeoff.study import Claims, Study
from g2rl.cli.bakeoff.plan_file import is_name, read_plan_file
from g2rl.cli.config.choices import config_dir
from g2rl.cli.config.launch import expand_combinations
from g2rl.cli.config.settings_file import read_settings
from g2rl.tasks.places import why_no

STAGES = ("middle", "rates", "seeds")
"""The first rate over all arms; all rates; the reported seeds."""
OF_AN_ARM = ("exploration", "algorithm", "partition", "encoder")
"""Groups of settings that tell an arm from others. All else is the protocol, which arms share."""


@dataclass(slots=True, frozen=True)
class PlannedTask:
    """A task of the bake-off.

    Args:
        name: a choice of conf/task.
        experiment: the file of conf/experiment that holds the protocol of its runs.
        rates: learning rates, the one that is tried first in front.
        primary: metric on which arms are compared first, such as "pass@32".
        verb: what an arm does that is better on it: keeps, discovers, finds.
        choose_by: metrics whose mean after training chooses the rate.
        coverage: the pass@k that is measured at every evaluation.
        protocol: fingerprint of the experiment's file; rows of another protocol are no rows of this
            one.
    """

    name: str
    experiment: str
    rates: tuple[str, ...]
    primary: str
    verb: str
    choose_by: tuple[str, ...]
    coverage: str
    protocol: str


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
        # exploration=[passk,clip_cov] is written out, as g2rl-train does
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
        return identity_of(self.task, self.arm, self.rate, self.seed, self.overrides, self.protocol)


@dataclass(slots=True, frozen=True)
class Plan:
    """A whole bake-off; see the head of the file."""

    rates_seed: int
    seeds: tuple[int, ...]
    baseline: str
    tasks: dict[str, PlannedTask]
    arms: dict[str, tuple[str, ...]]
    """Name of an arm to its overrides."""
    claims: Mapping[str, Any] = field(default_factory=dict)
    """A family of contrasts about one arm on one task: task, arm, against, metrics."""

    def runs_of(self, task: PlannedTask, stage: str, rows: Rows) -> list[PlannedRun]:
        """The runs of one of `STAGES`, in their order; at one rate there is nothing to choose."""
        if stage == "seeds":
            return self.seed_runs(task, rows)
        if len(task.rates) == 1:
            return []
        return self.rate_runs(task, task.rates if stage == "rates" else task.rates[:1])

    def rate_runs(self, task: PlannedTask, rates: Sequence[str]) -> list[PlannedRun]:
        """The runs that choose the rates: one rate after another, each over all arms."""
        # every method has its first run before any has its second
        runs: list[PlannedRun] = []
        for rate in rates:
            runs += [self.run(task, arm, rate, self.rates_seed) for arm in self.arms]
        return runs

    def seed_runs(self, task: PlannedTask, rows: Rows) -> list[PlannedRun]:
        """The reported runs: one seed after another, each over all arms whose rate is chosen."""
        # an arm waits until it was tried at every rate
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
        return self.study(task).chosen(rows, arm)

    def only(self, names: Sequence[str]) -> Plan:
        """The same plan with some of its arms.

        Raises:
            ValueError: the plan has no arm of that name.
        """
        for name in names:
            if name not in self.arms:
                raise ValueError(f"the plan has no arm {name!r}; it has {', '.join(self.arms)}")
        return replace(self, arms={name: self.arms[name] for name in names})

    def with_own_arm(self, name: str, overrides: Sequence[str]) -> Plan:
        """The plan with somebody's own arm at its end, under the same protocol and seeds.

        Raises:
            ValueError: the plan has an arm of this name, or an override belongs to the protocol.
        """
        if name in self.arms:
            raise ValueError(f"the plan has an arm {name!r} already: choose another name")
        if not is_name(name):
            raise ValueError(f"{name!r} is no name for files and commands: use letters and digits")
        for word in overrides:
            # GROUP@PLACE=CHOICE puts a choice into another group
            key = word.partition("=")[0].lstrip("+~")
            groups = {part.partition(".")[0] for part in key.split("@")}
            if groups - set(OF_AN_ARM):
                raise ValueError(
                    f"{word} would change the protocol, and the arm could not be compared with "
                    f"the stored rows: an arm differs in {', '.join(OF_AN_ARM)} alone"
                )
        return replace(self, arms={**self.arms, name: tuple(overrides)})

    def study(self, task: PlannedTask) -> Study:
        """What the tables and figures of a task compare."""
        # claims are about one task
        claims = None
        if self.claims.get("task") == task.name:
            against, metrics = self.claims["against"], self.claims["metrics"]
            claims = Claims(self.claims["arm"], tuple(against), tuple(metrics))
        return Study(
            task=task.name,
            protocol=task.protocol,
            arms=self.arms,
            baseline=self.baseline,
            rates=task.rates,
            rates_seed=self.rates_seed,
            seeds=self.seeds,
            primary=task.primary,
            verb=task.verb,
            choose_by=task.choose_by,
            coverage=task.coverage,
            claims=claims,
        )

    def has_made(self, row: Row) -> bool:
        """Whether a row was made by an experiment and the overrides of an arm of this plan, at
        whatever rate and seed."""
        task, arm = self.tasks.get(row["task"]), row["arm"]
        if task is None or arm not in self.arms:
            return False
        return is_of(row, self.run(task, arm, row["rate"], row["seed"]).identity)

    def run(self, task: PlannedTask, arm: str, rate: str, seed: int) -> PlannedRun:
        """One run of this plan."""
        overrides = self.arms[arm]
        return PlannedRun(task.name, task.experiment, task.protocol, arm, overrides, rate, seed)


def read_plan(path: Path, config_dirs: Sequence[Path] = ()) -> Plan:
    """Read a plan.

    Args:
        path: of its file.
        config_dirs: folders with experiments of the user's own.

    Raises:
        ValueError: there is no such file, or it lacks a section, names an experiment that there is
            not, or contradicts itself.
    """
    absent = why_no("file", path)
    if absent:
        raise ValueError(
            f"no plan of the bake-off: {absent}; start the command in a checkout of g2rl, or name "
            "the file with --plan"
        )

    text = read_plan_file(path)

    # tasks and arms
    tasks: dict[str, PlannedTask] = {}
    for name, entry in text["tasks"].items():
        tasks[name] = _task(name, entry, [*config_dirs, config_dir()])
    arms = {name: tuple(str(entry).split()) for name, entry in text["arms"].items()}
    if text["baseline"] not in arms:
        raise ValueError(f"{path}: the baseline {text['baseline']!r} is none of the arms")
    if text["rates_seed"] in text["seeds"]:
        raise ValueError(
            f"{path}: rates are chosen on seed {text['rates_seed']}, which must not be reported"
        )
    claims = text.get("claims") or {}
    return Plan(text["rates_seed"], tuple(text["seeds"]), text["baseline"], tasks, arms, claims)


def _task(name: str, entry: Mapping[str, Any], folders: Sequence[Path]) -> PlannedTask:
    """One task of a plan; rates stay as they are written, because names of folders hold them."""
    experiment = str(entry["experiment"])
    return PlannedTask(
        name,
        experiment,
        tuple(str(rate) for rate in entry["rates"]),
        str(entry["primary"]),
        str(entry.get("verb", "keeps")),
        tuple(entry["choose_by"]),
        str(entry.get("coverage", "pass@32")),
        _fingerprint(experiment, folders),
    )


def _fingerprint(experiment: str, folders: Sequence[Path]) -> str:
    """Fingerprint of an experiment's file, which the first folder that has one provides.

    Raises:
        ValueError: none has it.
    """
    for folder in folders:
        path = folder / "experiment" / f"{experiment}.yaml"
        if path.is_file():
            # of what the file says, so that a comment changes nothing
            plain = json.dumps(OmegaConf.to_container(read_settings(path)), sort_keys=True)
            return hashlib.sha256(plain.encode()).hexdigest()[:16]
    raise ValueError(
        f"there is no experiment {experiment!r}: no experiment/{experiment}.yaml in "
        f"{', '.join(str(folder) for folder in folders)}"
    )


def shown_plan(home: Path) -> Path:
    """The plan of a study's page: HOME/published.yaml, or HOME/plan.yaml where there is none."""
    published = home / "published.yaml"
    return published if published.is_file() else home / "plan.yaml"
