"""One training step, by the stages of docs/tour.md: draw, sample, grade, score, explore,
advantages, update, write.

Several ranks run the same step. They divide what costs time (sampling, grading, scoring, the
update's forward and backward) and exchange the results, which are small. From there on every rank
holds the whole batch and computes the same rewards and advantages, whatever the number of ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from g2rl.engines.engine import Engine
from g2rl.engines.rollouts import Rollouts, grouped
from g2rl.exploration.signal import ADVANTAGE, ESTIMATOR, level_of
from g2rl.formulas.advantages import GroupAdvantage, advantage_metrics
from g2rl.formulas.overlong import OverlongShaping
from g2rl.policy.scoring import Scores
from g2rl.runs.tables import geometry_table, rollout_table
from g2rl.runs.tracking import Tracker
from g2rl.tasks.grading.grader import Grader
from g2rl.training.bad_numbers import BadNumbersError, bad_groups, save_failure
from g2rl.training.dynamic_sampling import DynamicSampler
from g2rl.training.micro_batch_update import UpdateBatch
from g2rl.training.observers import Observations
from g2rl.training.settings import TrainerSettings
from g2rl.training.stages import Explorer, Sampler, Scorer
from g2rl.training.step_metrics import Clock, slowest, train_metrics, verdict_shares
from g2rl.training.updater import Updater
from g2rl.types import GroupBatch, Shaped, Verdict
from g2rl.world import World


@dataclass(slots=True, frozen=True)
class Lesson:
    """What a step has learnt from its batch."""

    shaped: Shaped
    advantages_PG: Tensor
    behaviour: Scores
    """Scores under the policy that sampled, those that the update has supplied included."""
    metrics: dict[str, float]


class TrainingStep:
    """Runs one step over injected stages; call it with the number of the step, counted from 1.

    Args:
        sampler: draws problems and responses.
        grader: judges responses, in worker processes where its verifier is not bounded.
        scorer: log-probabilities, entropies and features.
        explorer: the signal, its observers and their encoder.
        advantage: from shaped rewards to advantages.
        overlong: what the length of a response costs.
        updater: the optimizer updates.
        engine: takes over the new weights; the same that the sampler draws from.
        tracker: writes tables, and knows the run's folder.
        settings: the loop's settings.
        world: the ranks that divide the step.
        on_lap: is told the name of every stage that ends; see `Clock`.

    Raises:
        ValueError: the sampling settings and the loss, or the signal and what length costs, do not
            go together.
    """

    def __init__(
        self,
        *,
        sampler: Sampler,
        grader: Grader,
        scorer: Scorer,
        explorer: Explorer,
        advantage: GroupAdvantage,
        overlong: OverlongShaping,
        updater: Updater,
        engine: Engine,
        tracker: Tracker,
        settings: TrainerSettings,
        world: World,
        on_lap: Callable[[str], None] | None = None,
    ) -> None:
        updater.loss.refuse_truncated(settings.sampling, engine.reports_logps)
        self.sampler, self.grader, self.scorer, self.explorer = sampler, grader, scorer, explorer
        self.advantage, self.overlong = advantage, overlong
        self.updater, self.engine = updater, engine
        self.tracker, self.settings, self.world = tracker, settings, world
        self.on_lap = on_lap

        # what can be refused before the first response is sampled
        if level_of(explorer.signal) in (ESTIMATOR, ADVANTAGE):
            self._refuse_overlong_shaping()

        # with several rounds of sampling, groups are graded before the next round
        self.refill: DynamicSampler | None = None
        if settings.sampling_rounds > 1:
            self.refill = DynamicSampler(
                sampler, grader, settings.prompts_per_step, settings.sampling_rounds, world
            )

    def __call__(self, step: int) -> dict[str, float]:
        """Train on one rollout batch and return its metrics, named stage/quantity.

        Raises:
            BadNumbersError: numbers are not finite and the run cannot go on; their tensors are
                saved.
        """
        clock = Clock(self.on_lap)

        # 1. draw, 2. sample and 3. grade: the verdicts come when they are called for
        rollouts, pending_verdicts, sample_metrics = self._draw(step, clock)
        drift = self.engine.metrics()

        # 4. score: the policy comes last, because it may keep forwards for the update
        reference = self.scorer.reference_scores(rollouts)
        self.explorer.embed_for_observers(rollouts)
        observed_scores = self.scorer.observed(rollouts)
        scores = self.scorer.behaviour(step, rollouts)
        clock.lap("score")
        verdicts = pending_verdicts()
        clock.lap("grade_wait")

        # 5. explore, 6. advantages and 7. update; the observers look on
        batch = self.explorer.group_batch(step, rollouts, verdicts, scores, reference.hidden_ND)
        observations = self.explorer.observe(
            step, rollouts, verdicts, observed_scores or scores, reference.hidden_ND
        )
        try:
            lesson = self._learn(step, rollouts, batch, scores, reference.logps, clock)
        except BadNumbersError as error:
            self._save_failure(step, error, rollouts, verdicts, batch)
            raise

        # 8. write: entropies that the signal did not need are known by now, from the update's
        # forward
        if batch.entropy_PG is None and lesson.behaviour.complete:
            batch = replace(
                batch, entropy_PG=grouped(lesson.behaviour.mean_entropy_N, rollouts.shape)
            )
        self._write_tables(step, rollouts, verdicts, batch, lesson, observations)
        clock.lap("write")
        sampling_metrics = {f"sample/{name}": value for name, value in drift.items()}
        if self.sampler.lag:  # the first steps have no weights behind them
            sampling_metrics["sample/lag"] = float(min(self.sampler.lag, step - 1))
        return {
            **sampling_metrics,
            **train_metrics(rollouts, batch, lesson.shaped),
            **sample_metrics,
            **lesson.metrics,
            **observations.metrics,
            **verdict_shares(self.world, self.grader.metrics()),
            **slowest(self.world, clock.metrics()),
        }

    def _draw(
        self, step: int, clock: Clock
    ) -> tuple[Rollouts, Callable[[], list[Verdict]], dict[str, float]]:
        """Sample P problems with G responses to each, and grade them or begin to.

        Returns:
            The rollouts, a function that waits for their verdicts, and metrics.
        """
        # rounds of dynamic sampling need the verdicts at once
        if self.refill is not None:
            refilled = self.refill(step)
            clock.lap("sample")
            return refilled.rollouts, lambda: refilled.verdicts, refilled.metrics

        # otherwise worker processes judge the responses while the policy scores them
        rollouts = self.sampler(step)
        clock.lap("sample")
        pending = self.grader.submit(self.world.deal(rollouts.items))
        return rollouts, lambda: self.world.collect(pending.result()), {}

    def _learn(
        self,
        step: int,
        rollouts: Rollouts,
        batch: GroupBatch,
        scores: Scores,
        reference_logps: list[Tensor] | None,
        clock: Clock,
    ) -> Lesson:
        """Shape the rewards, take advantages and update the policy.

        A batch that holds numbers which are not finite is counted and not learnt from.

        Raises:
            BadNumbersError: too many bad updates in a row, or a signal that made them out of good
                numbers.
        """
        # 5. explore: the signal looks at whole groups
        bad_groups_by_field = bad_groups(batch)
        groups_with_bad_numbers = sorted(set().union(*bad_groups_by_field.values()))
        shaped, metrics = self._shape(batch, groups_with_bad_numbers)

        # 6. advantages
        advantages_PG, metrics_of_advantages = self._advantages(shaped, batch)
        clock.lap("explore")

        # 7. update; kept forwards hold activations, so the scores must let go of them either way.
        # They are of whole mini-batches, so they are of no use where responses are left out
        kept_forwards = scores.take_forwards()
        kept_PG = shaped.kept_PG
        if bad_groups_by_field or kept_PG is not None:
            kept_forwards.clear()
        if bad_groups_by_field:
            reason = f"non-finite {', '.join(bad_groups_by_field)}"
            update_metrics = self.updater.skip(step, reason, groups_with_bad_numbers)
        else:
            update_batch = UpdateBatch(
                sequences=rollouts.sequences,
                group_N=rollouts.group_N,
                advantages_N=advantages_PG.flatten(),
                behaviour=scores,
                ref_logps=reference_logps,
                sampler_logps=rollouts.sampler_logps,
                token_bonus=shaped.token_bonus,
                entropy_coef=shaped.entropy_coef,
                keep_N=None if kept_PG is None else kept_PG.flatten(),
                token_planner=self.explorer.token_planner,
                kept_forwards=kept_forwards,
            )
            result = self.updater.step(update_batch, step)
            update_metrics, scores = result.metrics, result.behaviour
        self.engine.push_weights()
        clock.lap("update")

        # metrics by stage
        for name, value in metrics_of_advantages.items():
            metrics[f"advantage/{name}"] = value
        for name, value in update_metrics.items():
            metrics[f"update/{name}"] = value
        return Lesson(shaped, advantages_PG, scores, metrics)

    def _shape(
        self, batch: GroupBatch, groups_with_bad_numbers: list[int]
    ) -> tuple[Shaped, dict[str, float]]:
        """What the signal makes of the batch, with metrics. It is not shown a batch with bad
        numbers."""
        metrics: dict[str, float] = {}

        # with bad numbers the rewards stay the verifier's own
        if groups_with_bad_numbers:
            shaped = Shaped(rewards_PG=batch.rewards_PG)
        else:
            shaped, metrics = self.explorer.shape(batch)

        prompt_count = batch.rewards_PG.shape[0]
        metrics["explore/nonfinite_groups"] = len(groups_with_bad_numbers) / prompt_count
        return shaped, metrics

    def _advantages(self, shaped: Shaped, batch: GroupBatch) -> tuple[Tensor, dict[str, float]]:
        """The advantages that a signal gave, as they are, or else those of its rewards, from which
        overlong responses have lost something.

        Raises:
            ValueError: the signal gives advantages, and the algorithm would take rewards from them.
        """
        # rewards become advantages here, after what overlong responses lose
        if shaped.advantages_PG is None:
            lost_PG = self.overlong(batch.lengths_PG)
            rewards_PG = shaped.rewards_PG - lost_PG
            scale = shaped.advantage_scale
            advantages_PG, metrics = self.advantage(
                rewards_PG, batch.rewards_PG, scale, batch.correct_PG
            )
            if self.overlong.is_on:
                metrics["overlong"] = lost_PG.mean().item()
            return advantages_PG, metrics

        # advantages of the signal's own are taken as they are
        self._refuse_overlong_shaping()

        metrics = advantage_metrics(shaped.advantages_PG, batch.rewards_PG, batch.correct_PG)
        if shaped.kept_PG is not None:
            metrics["kept"] = shaped.kept_PG.float().mean().item()
        return shaped.advantages_PG, metrics

    def _refuse_overlong_shaping(self) -> None:
        """Refuse to take rewards from long responses where a signal replaces the advantages.

        Raises:
            ValueError: `algorithm.overlong_buffer` is on.
        """
        if self.overlong.is_on:
            raise ValueError(
                f"exploration={self.explorer.signal.name} gives advantages that are used as they "
                "are, so what algorithm.overlong_buffer takes from the rewards of long responses "
                "would be lost; set algorithm.overlong_buffer=0"
            )

    def _save_failure(
        self,
        step: int,
        error: BadNumbersError,
        rollouts: Rollouts,
        verdicts: list[Verdict],
        batch: GroupBatch,
    ) -> None:
        """Leave the tensors of a step that cannot be learnt from, and raise the error that names
        them.

        Every rank has seen the same error; the first one writes, and the others return.
        """
        if not self.world.first:
            return
        facts: dict[str, Any] = {**rollout_table(rollouts, verdicts), "fields": bad_groups(batch)}
        place = save_failure(self.tracker.run_dir, step, error, batch.tensors(), facts)
        raise type(error)(f"{error}. The tensors of the step are in {place}") from error

    def _write_tables(
        self,
        step: int,
        rollouts: Rollouts,
        verdicts: list[Verdict],
        batch: GroupBatch,
        lesson: Lesson,
        observations: Observations,
    ) -> None:
        """Write rollouts and geometry of this step as parquet, every `tables_every` steps."""
        if self.settings.tables_every == 0 or step % self.settings.tables_every != 0:
            return

        # one row a response
        self.tracker.table("rollouts", step, rollout_table(rollouts, verdicts))
        problem_ids = [problem.id for problem in rollouts.problems]
        shaped = replace(
            lesson.shaped, diagnostics={**lesson.shaped.diagnostics, **observations.diagnostics}
        )
        if batch.features_PGD is None and observations.batch is not None:
            batch = replace(batch, features_PGD=observations.batch.features_PGD)
        geometry = geometry_table(step, problem_ids, batch, shaped, lesson.advantages_PG)
        self.tracker.table("geometry", step, geometry)

    # --- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """State that a checkpoint keeps: of the optimizer, the signals, dynamic sampling and policy
        lag."""
        state = {"updater": self.updater.state_dict(), **self.explorer.state_dict()}
        if self.refill is not None:
            state["sampling"] = self.refill.state_dict()
        past = self.sampler.state_dict()
        if past:
            state["lag"] = past
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint's state."""
        self.updater.load_state_dict(state["updater"])
        self.explorer.load_state_dict(state)
        if self.refill is not None:
            self.refill.load_state_dict(state.get("sampling", {}))
        self.sampler.load_state_dict(state.get("lag", {}), int(state["step"]))
