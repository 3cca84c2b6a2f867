"""What a run is made of: the parts that are put together once and injected into the trainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from g2rl.engines.engine import Engine
from g2rl.evaluation.evaluate import EvalResult
from g2rl.exploration.encoders.encoder import Encoder
from g2rl.exploration.signal import Signal
from g2rl.formulas.advantages import GroupAdvantage
from g2rl.policy.policy import Policy
from g2rl.runs.checkpoints import Checkpoints
from g2rl.runs.tracking import Tracker
from g2rl.tasks.benchmarks.benchmark import Benchmark
from g2rl.tasks.grading.grader import Grader
from g2rl.tasks.task import Task
from g2rl.training.alarms import HealthLimits
from g2rl.training.updater import Updater
from g2rl.world import World


class Reporter(Protocol):
    """Tells the user what happens; see `g2rl.training.console`."""

    def begin(self, first_step: int, steps: int) -> None: ...

    def step(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def phase(self, name: str, total: int | None = None) -> Any: ...

    def evaluated(self, step: int, result: EvalResult) -> None: ...

    def end(self) -> None: ...


@dataclass(slots=True)
class Parts:
    """Everything a run is made of."""

    policy: Policy
    reference: Policy | None
    """Frozen copy of the initial policy; None when the KL coefficient is 0."""
    tokenizer: Any
    chat: bool
    engine: Engine
    task: Task
    grader: Grader
    signal: Signal
    observers: list[Signal]
    encoder: Encoder | None
    advantage: GroupAdvantage
    updater: Updater
    benchmarks: list[tuple[Benchmark, Grader]]
    """Held-out problem sets and their graders; the geometry probe uses the first."""
    tracker: Tracker
    checkpoints: Checkpoints
    reporter: Reporter
    health: HealthLimits = field(default_factory=HealthLimits)
    world: World = field(default_factory=World)
    stop: Callable[[], int | None] = lambda: None
    """The number of the signal that asks the run to stop, if any; see `g2rl.runs.interrupt`."""
