"""A training run: evaluate, then steps, evaluations, checkpoints and one row of metrics a step.

Everything is injected, so this file knows no configuration and no particular task, signal or
engine. What a step does is a function of (seed, step, weights): a run that continues from a
checkpoint repeats exactly what the uninterrupted run would have done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from g2rl.runs.checkpoints import Checkpoints
from g2rl.runs.interrupt import Interrupted
from g2rl.runs.metric_names import final_score
from g2rl.runs.tracking import Tracker
from g2rl.training.alarms import HealthLimits, Watch
from g2rl.training.console import Reporter
from g2rl.training.profiling import REST, NoProfile, Profiler
from g2rl.training.settings import TrainerSettings
from g2rl.training.step import TrainingStep
from g2rl.training.validation import Validation


def never_asked() -> int | None:
    """The stop request of a run that nobody can interrupt."""
    return None


class Trainer:
    """Runs training steps from the start, or onwards from a checkpoint, to the last.

    Args:
        step: one training step.
        validation: what is measured between steps, on held-out problems.
        tracker: writes rows and tables.
        checkpoints: what the run continues from.
        reporter: tells the user.
        settings: the loop's settings.
        health: limits of the alarms.
        profiler: is told of every step; see `g2rl.training.profiling`.
        asked_to_stop: the number of the operating-system signal that asks the run to stop, or None;
            see `g2rl.runs.interrupt`.
    """

    def __init__(
        self,
        step: TrainingStep,
        validation: Validation,
        *,
        tracker: Tracker,
        checkpoints: Checkpoints,
        reporter: Reporter,
        settings: TrainerSettings,
        health: HealthLimits | None = None,
        profiler: Profiler | None = None,
        asked_to_stop: Callable[[], int | None] = never_asked,
    ) -> None:
        self.step, self.validation = step, validation
        self.tracker, self.checkpoints, self.reporter = tracker, checkpoints, reporter
        self.settings, self.health = settings, health or HealthLimits()
        self.profiler: Profiler = profiler or NoProfile()
        self.asked_to_stop = asked_to_stop

    def run(self, state: Mapping[str, Any] | None = None) -> None:
        """Train to the last step.

        Args:
            state: of the checkpoint to continue from; None starts from the beginning.

        Raises:
            Interrupted: the run was asked to stop; its last complete step is saved.
        """
        # where it begins
        last_done = 0
        if state is not None:
            last_done = int(state["step"])
            self.step.load_state_dict(state)
        written_rows = self.tracker.rows(None if state is None else last_done)
        watch = Watch(self.health, written_rows)
        self.step.engine.push_weights()
        self.reporter.begin(last_done, self.settings.steps)

        # before training
        if state is None:
            self._finish(0, self.validation(0), watch)

        # training
        for step in range(last_done + 1, self.settings.steps + 1):
            with self.profiler.step():
                metrics = self.step(step)
            if self._evaluates_after(step):
                metrics |= self.validation(step)
            self._finish(step, metrics, watch)
        self.profiler.lap(REST)
        self.reporter.end()

    def _evaluates_after(self, step: int) -> bool:
        """Whether a held-out evaluation is due: after the last step, and every `eval_every`
        steps."""
        if step == self.settings.steps:
            return True
        return self.settings.eval_every > 0 and step % self.settings.eval_every == 0

    def _finish(self, step: int, metrics: dict[str, float], watch: Watch) -> None:
        """Write the row of a step, and its checkpoint where one is due or the run is asked to
        stop."""
        # the row is on the disk before anything is said of it
        self.tracker.log(step, metrics)
        if step > 0:
            self.reporter.step(step, metrics)
        watch({"step": step, **metrics})

        # a checkpoint when one is due, at the end, and before the run gives way
        stop_signal = self.asked_to_stop()
        is_last = step == self.settings.steps
        is_due = step > 0 and step % self.settings.checkpoint_every == 0
        if is_last or is_due or stop_signal is not None:
            self._save(step, metrics)
        if stop_signal is not None:
            raise Interrupted(step, stop_signal)

    def _save(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the checkpoint of a step, with its held-out pass@1 (mean over benchmarks) as its
        score."""
        # the weights are written beside the state
        model = self.step.scorer.policy.model
        self.checkpoints.save(step, model, self.step.state_dict(), final_score(metrics))
