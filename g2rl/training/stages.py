"""The stages of a training step that are more than one call: sampling, scoring, exploration.

Each stage holds just what it needs. `g2rl.training.step` calls them in order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from g2rl.engines.engine import Engine
from g2rl.engines.rollouts import Rollouts, grouped
from g2rl.exploration.encoders.encoder import Encoder
from g2rl.exploration.signal import Signal, all_needs
from g2rl.policy.policy import Policy, Scorable
from g2rl.policy.prompts import encode_prompt
from g2rl.policy.scoring import ScorePlan, ScoreRequest, Scores, require_scored, score
from g2rl.tasks.task import Task
from g2rl.training.bad_numbers import NonFiniteError, bad_rows
from g2rl.training.console import Reporter
from g2rl.training.settings import TrainerSettings
from g2rl.training.updater import Updater
from g2rl.types import GroupBatch, Shaped, Tokenizer, Verdict
from g2rl.world import World

TRAIN_STREAM = 0x7A1B


class Sampler:
    """Draws the problems of a step and G responses to each.

    Args:
        task: where problems come from.
        engine: draws the responses.
        tokenizer: of the policy.
        chat: prompts go through the tokenizer's chat template.
        settings: how many, and how they are drawn.
        reporter: is told what is going on.
        world: the ranks that divide the prompts.
    """

    def __init__(
        self,
        task: Task,
        engine: Engine,
        tokenizer: Tokenizer,
        *,
        chat: bool,
        settings: TrainerSettings,
        reporter: Reporter,
        world: World,
    ) -> None:
        self.task, self.engine, self.tokenizer, self.chat = task, engine, tokenizer, chat
        self.settings, self.reporter, self.world = settings, reporter, world

    def __call__(self, step: int) -> Rollouts:
        """Sample the rollouts of a step; what is drawn is a function of (seed, step, weights)."""
        settings = self.settings

        # the problems of this step, as token ids
        count = settings.prompts_per_step
        with self.reporter.phase("sampling"):
            problems = self.task.batch(settings.seed, (step - 1) * count, count)
            prompts: list[list[int]] = []
            for problem in problems:
                prompts.append(
                    encode_prompt(
                        self.tokenizer, problem.prompt, self.chat, settings.max_prompt_tokens
                    )
                )

            # every prompt has random numbers of its own, so that any division among ranks draws the
            # same
            keys = [(settings.seed, TRAIN_STREAM, step, place) for place in range(count)]
            own_completions = self.engine.generate(
                self.world.deal(prompts),
                self.world.deal(keys),
                settings.group_size,
                settings.sampling,
            )
        return Rollouts(problems, prompts, self.world.collect(own_completions))


class Scorer:
    """Scores rollouts under the policy that sampled them and under the reference policy.

    Args:
        policy: the behaviour policy, with the weights that sampled.
        reference: the frozen policy of the KL term; None without one.
        updater: says which responses the update needs scored.
        needs: what the signal and the observers look at.
        settings: temperatures and the size of micro-batches.
        reporter: is told what is going on.
        world: the ranks that divide the responses.
    """

    def __init__(
        self,
        policy: Policy,
        reference: Scorable | None,
        updater: Updater,
        needs: frozenset[str],
        *,
        settings: TrainerSettings,
        reporter: Reporter,
        world: World,
    ) -> None:
        self.policy, self.reference, self.updater = policy, reference, updater
        self.needs, self.settings = needs, settings
        self.reporter, self.world = reporter, world

    def reference_logps(self, rollouts: Rollouts) -> list[Tensor] | None:
        """Log-probabilities under the reference policy, N tensors (T_n,); None without one."""
        if self.reference is None:
            return None
        scores = self._score(self.reference, rollouts, features=False, plan=None)
        return require_scored(scores.logps)

    def behaviour(self, step: int, rollouts: Rollouts) -> Scores:
        """Scores under the policy that sampled, as far as signal, observers and update need them.

        Forwards may be kept for the update, except beside an external encoder, which needs the
        memory.
        """
        plan = self.updater.score_plan(
            rollouts.sequences,
            rollouts.group_N,
            step,
            every_response=bool(self.needs & {"features", "entropy"}),
            may_keep_forwards="embeddings" not in self.needs,
        )
        return self._score(self.policy, rollouts, features="features" in self.needs, plan=plan)

    def _score(
        self, policy: Scorable, rollouts: Rollouts, *, features: bool, plan: ScorePlan | None
    ) -> Scores:
        # one request serves policy and reference
        request = ScoreRequest(
            temperature=self.settings.sampling.temperature,
            token_budget=self.settings.score_tokens,
            features=features,
            feature_temperature=self.settings.feature_temperature,
            plan=plan,
        )
        with self.reporter.phase("scoring"):
            return score(policy, rollouts.sequences, request, self.world)


class Explorer:
    """Shows the signal and the observers what they may look at, and takes in what they say.

    Args:
        signal: shapes the rewards.
        observers: signals that measure without effect on the training.
        encoder: embeds responses; None without one.
        world: the ranks that divide the responses to embed.

    Raises:
        ValueError: a signal needs what does not exist, or embeddings where there is no encoder.
    """

    def __init__(
        self,
        signal: Signal,
        observers: Sequence[Signal],
        encoder: Encoder | None,
        world: World,
    ) -> None:
        self.signal, self.observers = signal, list(observers)
        self.encoder, self.world = encoder, world
        self.needs = all_needs([signal, *observers], encoder is not None)

    def group_batch(
        self, step: int, rollouts: Rollouts, verdicts: Sequence[Verdict], scores: Scores
    ) -> GroupBatch:
        """Assemble what signals may look at, as far as one of them needs it."""
        shape = rollouts.shape
        prompt_count, group_size = shape

        # the verifier's word
        rewards_PG = grouped(torch.tensor([verdict.reward for verdict in verdicts]), shape)
        correct_PG = grouped(torch.tensor([verdict.correct for verdict in verdicts]), shape)
        answers: list[list[str | None]] = []
        for prompt in range(prompt_count):
            verdicts_of_group = verdicts[prompt * group_size : (prompt + 1) * group_size]
            answers.append([verdict.answer for verdict in verdicts_of_group])

        # what the policy and the encoder add
        entropy_PG = None
        if "entropy" in self.needs:
            entropy_PG = grouped(scores.mean_entropy_N, shape)
        features_PGD = None
        if scores.features_ND is not None:
            features_PGD = grouped(scores.features_ND, shape)
        return GroupBatch(
            rewards_PG=rewards_PG,
            correct_PG=correct_PG,
            lengths_PG=grouped(rollouts.sequences.lengths_N, shape),
            entropy_PG=entropy_PG,
            step=step,
            features_PGD=features_PGD,
            embeddings_PGE=self._embeddings(rollouts),
            answers=answers,
        )

    def shape(self, batch: GroupBatch) -> tuple[Shaped, dict[str, float]]:
        """Let the signal shape the rewards, and every observer measure.

        Returns:
            What the signal says, with the observers' diagnostics added, and the metrics of all of
            them.

        Raises:
            NonFiniteError: the signal gave a reward that is not finite.
        """
        shaped = self.signal(batch)
        metrics = {f"explore/{name}": value for name, value in shaped.metrics.items()}
        bad_groups = bad_rows(shaped.rewards_PG)
        if bad_groups:
            raise NonFiniteError(
                f"step {batch.step}: exploration={self.signal.name} gave a reward that is not "
                f"finite in groups {bad_groups}",
                bad_groups,
                {"shaped_rewards_PG": shaped.rewards_PG},
            )

        for observer in self.observers:
            # under the observer's name
            observed = observer(batch)
            for name, value in observed.metrics.items():
                metrics[f"observe/{observer.name}/{name}"] = value
            for name, values_PG in observed.diagnostics.items():
                shaped.diagnostics[f"observe_{observer.name}_{name}"] = values_PG
        return shaped, metrics

    def _embeddings(self, rollouts: Rollouts) -> Tensor | None:
        """Embeddings of all responses, (P, G, E), where a signal needs them."""
        if "embeddings" not in self.needs or self.encoder is None:
            return None
        texts = [completion.text for completion in rollouts.flat]
        own_embeddings = self.encoder.encode(self.world.deal(texts))
        return grouped(torch.stack(self.world.collect(list(own_embeddings))), rollouts.shape)

    def state_dict(self) -> dict[str, Any]:
        """State that a checkpoint keeps, of the signal and of the observers."""
        return {
            "signal": self.signal.state_dict(),
            "observers": [observer.state_dict() for observer in self.observers],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint's state."""
        self.signal.load_state_dict(state["signal"])
        for observer, observer_state in zip(self.observers, state["observers"], strict=True):
            observer.load_state_dict(observer_state)
