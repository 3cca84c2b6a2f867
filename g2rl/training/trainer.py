"""The training loop: sample, grade, score, shape, advantage, update; evaluate, write, checkpoint.

Every part is injected, so this file knows no configuration, no particular task, signal or engine.
What a step does is a function of (seed, step, weights): a run that continues from a checkpoint repeats
exactly what the uninterrupted one would have done.

Several ranks run the same loop. They divide what costs time (sampling, grading, scoring, the update's
forward and backward) and exchange what comes out, which is small: from there on every rank holds the whole
batch and computes the same rewards and advantages, whatever their number. The first rank writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from g2rl.engines.rollouts import Rollouts, grouped
from g2rl.exploration.signal import all_needs
from g2rl.policy.batching import Sequences
from g2rl.policy.policy import Policy
from g2rl.policy.prompts import encode_prompt
from g2rl.policy.scoring import Scores, known, score
from g2rl.runs.interrupt import Interrupted
from g2rl.runs.tables import geometry_table, rollout_table
from g2rl.training.alarms import Watch
from g2rl.training.bad_numbers import (
    BadNumbersError,
    NonFiniteError,
    bad_groups,
    bad_rows,
    save_failure,
    tensors_of,
)
from g2rl.training.micro_batch_update import UpdateBatch
from g2rl.training.parts import Parts
from g2rl.training.settings import TrainerSettings
from g2rl.training.step_metrics import Clock, slowest, train_metrics, verdict_shares
from g2rl.training.validation import examine
from g2rl.types import GroupBatch, Shaped, Verdict

TRAIN_STREAM = 0x7A1B


class Trainer:
    """Runs the loop over injected parts."""

    def __init__(self, parts: Parts, settings: TrainerSettings) -> None:
        self.parts, self.settings = parts, settings
        self.needs = all_needs([parts.signal, *parts.observers], parts.encoder is not None)

    def run(self, state: Mapping[str, Any] | None = None) -> None:
        """Train from the start, or onwards from a checkpoint's state, to the last step.

        Raises:
            Interrupted: asked to stop; the last complete step is saved.
        """
        first = 0
        if state is not None:
            first = int(state["step"])
            self.parts.updater.load_state_dict(state["updater"])
            self.parts.signal.load_state_dict(state["signal"])
            for observer, kept in zip(self.parts.observers, state["observers"], strict=True):
                observer.load_state_dict(kept)
        watch = Watch(self.parts.health, self.parts.tracker.rows(None if state is None else first))
        self.parts.engine.push_weights()
        self.parts.reporter.begin(first, self.settings.steps)
        if state is None:
            self.finish(0, self.evaluate(0), watch)
        for step in range(first + 1, self.settings.steps + 1):
            metrics = self.step(step)
            if step == self.settings.steps or (
                self.settings.eval_every and step % self.settings.eval_every == 0
            ):
                metrics |= self.evaluate(step)
            self.finish(step, metrics, watch)
        self.parts.reporter.end()

    def finish(self, step: int, metrics: dict[str, float], watch: Watch) -> None:
        """Write the row of a step, and its checkpoint where one is due or the run is asked to stop."""
        self.parts.tracker.log(step, metrics)
        if step > 0:
            self.parts.reporter.step(step, metrics)
        watch({"step": step, **metrics})
        signal = self.parts.stop()
        due = step == self.settings.steps or (
            step > 0 and step % self.settings.checkpoint_every == 0
        )
        if due or signal is not None:
            self.save(step, metrics)
        if signal is not None:
            raise Interrupted(step, signal)

    def save(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the checkpoint of a step, with the held-out pass@1 (mean over benchmarks) as its score."""
        state: dict[str, Any] = {
            "updater": self.parts.updater.state_dict(),
            "signal": self.parts.signal.state_dict(),
            "observers": [observer.state_dict() for observer in self.parts.observers],
        }
        scores = [
            metrics.get(f"eval/{benchmark.name}/pass@1") for benchmark, _ in self.parts.benchmarks
        ]
        found = [value for value in scores if value is not None]
        mean = sum(found) / len(found) if found else None
        self.parts.checkpoints.save(step, self.parts.policy.model, state, mean)

    def step(self, step: int) -> dict[str, float]:
        """One training step; returns its metrics, named stage/quantity."""
        clock = Clock()
        rollouts = self.sample(step)
        clock.lap("sample")
        # graded while the policy scores
        pending = self.parts.grader.submit(self.parts.world.deal(rollouts.items))
        sequences = rollouts.sequences
        # the policy last: it may keep forwards for the update, and with them their memory
        reference = (
            None if self.parts.reference is None else self._score(self.parts.reference, sequences)
        )
        scores = self._score(
            self.parts.policy, sequences, "features" in self.needs, **self.to_score(step, rollouts)
        )
        clock.lap("score")
        verdicts = self.parts.world.collect(pending.result())
        clock.lap("grade_wait")
        batch = self.group_batch(step, rollouts, verdicts, scores)
        try:
            shaped, advantages_PG, metrics = self.learn(
                step, rollouts, batch, scores, reference, clock
            )
        except BadNumbersError as error:  # on all ranks, which have seen the same
            if not self.parts.world.first:
                raise
            facts = {**rollout_table(rollouts, verdicts), "fields": bad_groups(batch)}
            place = save_failure(self.parts.tracker.run_dir, step, error, tensors_of(batch), facts)
            raise type(error)(f"{error}. The tensors of the step are in {place}") from error
        if batch.entropy_PG is None and all(entropy is not None for entropy in scores.entropies):
            batch.entropy_PG = grouped(
                scores.mean_entropy_N, rollouts.shape
            )  # the update filled the rest
        self.write_tables(step, rollouts, verdicts, batch, shaped, advantages_PG)
        clock.lap("write")
        return {
            **train_metrics(rollouts, batch, shaped),
            **metrics,
            **verdict_shares(self.parts.world, self.parts.grader.metrics()),
            **slowest(self.parts.world, clock.metrics()),
        }

    def learn(
        self,
        step: int,
        rollouts: Rollouts,
        batch: GroupBatch,
        scores: Scores,
        reference: Scores | None,
        clock: Clock,
    ) -> tuple[Shaped, Tensor, dict[str, float]]:
        """Shape, take advantages, update; a batch with non-finite numbers is counted and not learnt from.

        Raises:
            BadNumbersError: too many bad updates in a row, or a signal made them out of good ones.
        """
        bad = bad_groups(batch)
        groups = sorted({group for found in bad.values() for group in found})
        shaped, metrics = (
            self.explore(batch) if not bad else (Shaped(rewards_PG=batch.rewards_PG), {})
        )
        metrics["explore/nonfinite_groups"] = len(groups) / batch.rewards_PG.shape[0]
        advantages_PG, advantage_metrics = self.parts.advantage(shaped.rewards_PG, batch.rewards_PG)
        clock.lap("explore")
        sampler_logps = rollouts.sampler_logps
        self.parts.updater.loss.refuse_truncated(self.settings.sampling, sampler_logps)
        if bad:
            scores.forwards.clear()
            optimized = self.parts.updater.skip(step, f"non-finite {', '.join(bad)}", groups)
        else:
            update = UpdateBatch(
                sequences=rollouts.sequences,
                group_N=rollouts.group_N,
                advantages_N=advantages_PG.flatten(),
                behaviour=scores,
                ref_logps=known(reference.logps) if reference else None,
                sampler_logps=sampler_logps,
                token_bonus=shaped.token_bonus,
                entropy_coef=shaped.entropy_coef,
            )
            optimized = self.parts.updater.step(update, step)
        self.parts.engine.push_weights()
        clock.lap("update")
        metrics |= {f"advantage/{name}": value for name, value in advantage_metrics.items()}
        metrics |= {f"update/{name}": value for name, value in optimized.items()}
        return shaped, advantages_PG, metrics

    def sample(self, step: int) -> Rollouts:
        """Draw this step's problems and G responses to each."""
        size = self.settings.prompts_per_step
        with self.parts.reporter.phase("sampling"):
            problems = self.parts.task.batch(self.settings.seed, (step - 1) * size, size)
            prompts = [
                encode_prompt(
                    self.parts.tokenizer, p.prompt, self.parts.chat, self.settings.max_prompt_tokens
                )
                for p in problems
            ]
            keys = [(self.settings.seed, TRAIN_STREAM, step, i) for i in range(size)]
            deal = self.parts.world.deal
            own = self.parts.engine.generate(
                deal(prompts), deal(keys), self.settings.group_size, self.settings.sampling
            )
        return Rollouts(problems, prompts, self.parts.world.collect(own))

    def to_score(self, step: int, rollouts: Rollouts) -> dict[str, list[list[int]]]:
        """Responses to score before the update: what it needs, and the rest where a signal looks at them.

        Forwards are kept for the update where that costs no memory of its own, so not beside an encoder.
        """
        updater, count = self.parts.updater, len(rollouts.flat)
        later = updater.rows_to_score(rollouts.group_N, step)
        if not self.needs & {"features", "entropy"}:
            return {"parts": [later]}
        keep = []
        if "embeddings" not in self.needs:
            keep = updater.forwards_to_keep(rollouts.sequences, rollouts.group_N, step)
        known = {*later, *(n for rows in keep for n in rows)}
        return {"parts": [later, [n for n in range(count) if n not in known]], "keep": keep}

    def _score(
        self, policy: Policy, sequences: Sequences, features: bool = False, **which: list[list[int]]
    ) -> Scores:
        with self.parts.reporter.phase("scoring"):
            return score(
                policy,
                sequences,
                temperature=self.settings.sampling.temperature,
                token_budget=self.settings.score_tokens,
                features=features,
                feature_temperature=self.settings.feature_temperature,
                world=self.parts.world,
                **which,
            )

    def group_batch(
        self, step: int, rollouts: Rollouts, verdicts: list[Verdict], scores: Scores
    ) -> GroupBatch:
        """Assemble what signals see."""
        shape = rollouts.shape
        correct_PG = grouped(torch.tensor([v.correct for v in verdicts]), shape)
        embeddings = None
        if "embeddings" in self.needs and self.parts.encoder is not None:
            own = self.parts.encoder.encode(self.parts.world.deal([c.text for c in rollouts.flat]))
            embeddings = grouped(torch.stack(self.parts.world.collect(list(own))), shape)
        return GroupBatch(
            rewards_PG=torch.where(correct_PG, 1.0, -1.0),
            correct_PG=correct_PG,
            lengths_PG=grouped(rollouts.sequences.lengths_N, shape),
            entropy_PG=grouped(scores.mean_entropy_N, shape) if "entropy" in self.needs else None,
            step=step,
            features_PGD=None if scores.features_ND is None else grouped(scores.features_ND, shape),
            embeddings_PGE=embeddings,
            answers=[
                [v.answer for v in verdicts[p * shape[1] : (p + 1) * shape[1]]]
                for p in range(shape[0])
            ],
        )

    def explore(self, batch: GroupBatch) -> tuple[Shaped, dict[str, float]]:
        """Let the signal shape the rewards, and every observer measure without effect."""
        shaped = self.parts.signal(batch)
        metrics = {f"explore/{name}": value for name, value in shaped.metrics.items()}
        if wrong := bad_rows(shaped.rewards_PG):
            raise NonFiniteError(
                f"step {batch.step}: exploration={self.parts.signal.name} gave a reward that is not finite "
                f"in groups {wrong}",
                wrong,
                {"shaped_rewards_PG": shaped.rewards_PG},
            )
        for observer in self.parts.observers:
            seen = observer(batch)
            metrics |= {
                f"observe/{observer.name}/{name}": value for name, value in seen.metrics.items()
            }
            shaped.diagnostics |= {
                f"observe_{observer.name}_{name}": v for name, v in seen.diagnostics.items()
            }
        return shaped, metrics

    def write_tables(
        self,
        step: int,
        rollouts: Rollouts,
        verdicts: list[Verdict],
        batch: GroupBatch,
        shaped: Shaped,
        advantages_PG: Tensor,
    ) -> None:
        """Rollouts and geometry of this step as parquet."""
        if self.settings.tables_every and step % self.settings.tables_every == 0:
            self.parts.tracker.table("rollouts", step, rollout_table(rollouts, verdicts))
            ids = [problem.id for problem in rollouts.problems]
            self.parts.tracker.table(
                "geometry", step, geometry_table(step, ids, batch, shaped, advantages_PG)
            )

    def evaluate(self, step: int) -> dict[str, float]:
        """Held-out accuracy; at the first and last step with all samples and the geometry probe."""
        return examine(self.parts, self.settings, step)
