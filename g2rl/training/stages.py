"""The stages of a training step that are more than one call: sampling, scoring, exploration.

Each stage holds just what it needs. `g2rl.training.step` calls them in order.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from g2rl.engines.engine import Engine
from g2rl.engines.graded_text import with_markers
from g2rl.engines.rollouts import Rollouts, grouped, in_groups
from g2rl.exploration.asking import ask, named_errors, partition_of
from g2rl.exploration.encoders.encoder import Encoder
from g2rl.exploration.partitions import Partitioner
from g2rl.exploration.signal import Signal, all_needs
from g2rl.exploration.token_plan import TokenPlan, TokenPlanner, TokenView
from g2rl.formulas.advantages import GroupAdvantage
from g2rl.policy.policy import Policy, Scorable
from g2rl.policy.prompts import encode_prompt
from g2rl.policy.scoring import ScorePlan, ScoreRequest, Scores, require_scored, score
from g2rl.tasks.task import Task, drawn
from g2rl.training.bad_numbers import NonFiniteError, bad_rows
from g2rl.training.console import Reporter
from g2rl.training.observers import NeverFails, Observations, OncePerBatch, observe
from g2rl.training.settings import TrainerSettings
from g2rl.training.updater import Updater
from g2rl.types import GroupBatch, Shaped, Tokenizer, Verdict
from g2rl.world import World

TRAIN_STREAM = 0x7A1B

NEED_EVERY_RESPONSE = frozenset({"features", "entropy", "logps", "token_entropy", "hidden"})
"""Needs for which the policy has to score all responses before the update."""
FROM_EVERY_SCORE = frozenset({"entropy", "logps", "token_entropy"})
"""Those of them that any scoring of all responses yields."""


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
        count = self.settings.prompts_per_step
        return self.draw(step, start=(step - 1) * count, first_place=0, count=count)

    def draw(self, step: int, start: int, first_place: int, count: int) -> Rollouts:
        """Sample responses to some problems of the task's stream.

        Args:
            step: the training step.
            start: number of the first problem in the stream.
            first_place: number of that problem among those of the step; with the step it decides
                the random numbers.
            count: number of problems.

        Raises:
            TaskError: the task gave another number of problems.
        """
        settings = self.settings

        # the problems, as token ids
        with self.reporter.phase("sampling"):
            problems = drawn(self.task, settings.seed, start, count)
            prompts: list[list[int]] = []
            for problem in problems:
                prompts.append(
                    encode_prompt(
                        self.tokenizer, problem.prompt, self.chat, settings.max_prompt_tokens
                    )
                )

            # every prompt has random numbers of its own, so that any division among ranks draws the
            # same
            places = range(first_place, first_place + count)
            keys = [(settings.seed, TRAIN_STREAM, step, place) for place in places]
            own_completions = self.engine.generate(
                self.world.deal(prompts),
                self.world.deal(keys),
                settings.group_size,
                settings.sampling,
            )
        completions = with_markers(self.tokenizer, prompts, self.world.collect(own_completions))
        return Rollouts(problems, prompts, completions)

    @property
    def lag(self) -> int:
        """How many steps ago the weights were current that draw; see `g2rl.training.policy_lag`."""
        return 0

    def state_dict(self) -> dict[str, Any]:
        """State that a checkpoint keeps; {} for a sampler that remembers nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any], done: int) -> None:
        """Continue from a checkpoint's state, with the number of its completed steps."""


@dataclass(slots=True, frozen=True)
class ReferenceScores:
    """What the reference policy says of N responses; None where it is not asked or not there."""

    logps: list[Tensor] | None = None
    """Log-probabilities for the KL term, N tensors (T_n,)."""
    hidden_ND: Tensor | None = None
    """Mean last hidden states, for signals."""


class Scorer:
    """Scores rollouts under the policy that sampled them and under the reference policy.

    Args:
        policy: the behaviour policy, with the weights that sampled.
        reference: the frozen policy of the KL term and of signals; None without one.
        updater: says which responses the update needs scored.
        needs: what the signal looks at.
        observer_needs: what the observers look at; it changes nothing of what the update is given.
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
        observer_needs: frozenset[str] = frozenset(),
        settings: TrainerSettings,
        reporter: Reporter,
        world: World,
    ) -> None:
        self.policy, self.reference, self.updater = policy, reference, updater
        self.needs, self.observer_needs = needs, observer_needs
        self.settings = settings
        self.reporter, self.world = reporter, world

    def reference_scores(self, rollouts: Rollouts) -> ReferenceScores:
        """What the KL term and the signals need of the reference policy."""
        if self.reference is None:
            return ReferenceScores()
        needs = (self.needs | self.observer_needs) & {"reference_hidden"}
        scores = self._score(self.reference, rollouts, hidden=bool(needs), plan=None)

        # a reference that only signals look at must not enter the loss
        logps: list[Tensor] | None = None
        if self.updater.loss.kl_coef > 0:
            logps = require_scored(scores.logps)
        return ReferenceScores(logps, scores.hidden_ND)

    def observed(self, rollouts: Rollouts) -> Scores | None:
        """Scores of all responses for the observers, from forwards of their own.

        The update's forwards must be those of a run without observers, to the last bit.

        Returns:
            None where the observers need no more than what `behaviour` scores for the signal.
        """
        # once every response is scored for the signal, some numbers are there for the observers too
        known_anyway = self.needs
        if self.needs & NEED_EVERY_RESPONSE:
            known_anyway = self.needs | FROM_EVERY_SCORE
        still_needed = self.observer_needs - known_anyway
        if not still_needed & NEED_EVERY_RESPONSE:
            return None

        return self._score(
            self.policy,
            rollouts,
            features="features" in self.observer_needs,
            hidden="hidden" in self.observer_needs,
            plan=None,
        )

    def behaviour(self, step: int, rollouts: Rollouts) -> Scores:
        """Scores under the policy that sampled, as far as the signal and the update need them.

        Forwards may be kept for the update, except beside an external encoder, which needs the
        memory.
        """
        plan = self.updater.score_plan(
            rollouts.sequences,
            rollouts.group_N,
            step,
            every_response=bool(self.needs & NEED_EVERY_RESPONSE),
            may_keep_forwards="embeddings" not in self.needs,
        )
        return self._score(
            self.policy,
            rollouts,
            features="features" in self.needs,
            hidden="hidden" in self.needs,
            plan=plan,
        )

    def _score(
        self,
        policy: Scorable,
        rollouts: Rollouts,
        *,
        features: bool = False,
        hidden: bool = False,
        plan: ScorePlan | None,
    ) -> Scores:
        # one request serves policy and reference
        request = ScoreRequest(
            temperature=self.settings.sampling.temperature,
            token_budget=self.settings.score_tokens,
            features=features,
            feature_temperature=self.settings.feature_temperature,
            plan=plan,
            hidden=hidden,
        )
        with self.reporter.phase("scoring"):
            return score(policy, rollouts.sequences, request, self.world)


class Explorer:
    """Shows the signal what it may look at, and takes in what it says.

    The observers look afterwards, see `g2rl.training.observers`.

    Args:
        signal: shapes the rewards.
        observers: signals that measure without effect on the training.
        encoder: embeds responses; None without one.
        world: the ranks that divide the responses to embed.
        advantage: what the algorithm makes of rewards.
        partitioner: says which responses count as the same; None without one.
        answer_key: normal form of an answer, by the task's verifier; None: the answer itself.

    Raises:
        ValueError: a signal needs what does not exist, embeddings where there is no encoder, or a
            partition where there is no partitioner.
    """

    def __init__(
        self,
        signal: Signal,
        observers: Sequence[Signal],
        encoder: Encoder | None,
        world: World,
        *,
        advantage: GroupAdvantage | None = None,
        partitioner: Partitioner | None = None,
        answer_key: Callable[[str], str] | None = None,
    ) -> None:
        self.signal, self.observers = signal, list(observers)
        self.world = world

        # observers share the embeddings of the signal, and a failure costs only them
        self.encoder: Encoder | None = None
        self.observers_encoder: Encoder | None = None
        if encoder is not None:
            shared = OncePerBatch(encoder)
            self.encoder, self.observers_encoder = shared, NeverFails(shared)

        # what is computed for a batch depends on what they need
        self.advantage = advantage or GroupAdvantage()
        self.partitioner, self.answer_key = partitioner, answer_key
        self.needs = self._needs_of([signal])
        self.observer_needs = self._needs_of(self.observers)

    def _needs_of(self, signals: Sequence[Signal]) -> frozenset[str]:
        """What some signals need, with what the partitioner needs for them."""
        partition_needs = None if self.partitioner is None else self.partitioner.needs
        return all_needs(signals, self.encoder is not None, partition_needs)

    def group_batch(
        self,
        step: int,
        rollouts: Rollouts,
        verdicts: Sequence[Verdict],
        scores: Scores,
        reference_hidden_ND: Tensor | None = None,
    ) -> GroupBatch:
        """Assemble what the signal may look at, as far as it needs it."""
        # what every signal may look at
        shape = rollouts.shape
        batch = GroupBatch(
            rewards_PG=grouped(torch.tensor([verdict.reward for verdict in verdicts]), shape),
            correct_PG=grouped(torch.tensor([verdict.correct for verdict in verdicts]), shape),
            lengths_PG=grouped(rollouts.sequences.lengths_N, shape),
            step=step,
            embeddings_PGE=self._embeddings(rollouts),
            answers=in_groups([verdict.answer for verdict in verdicts], shape[1]),
            first_alike_PG=rollouts.first_alike_PG,
        )

        # what only some signals need
        self._add_scores(batch, scores, reference_hidden_ND, shape)
        self._add_words(batch, rollouts)

        # what follows from the other fields
        if "advantages" in self.needs:
            batch.advantages_PG, _ = self.advantage(batch.rewards_PG, batch.rewards_PG)
        if "partition" in self.needs and self.partitioner is not None:
            batch.partition_PG = partition_of(self.partitioner, batch)
        return batch

    def _add_scores(
        self,
        batch: GroupBatch,
        scores: Scores,
        reference_hidden_ND: Tensor | None,
        shape: tuple[int, int],
    ) -> None:
        """Add what the policy and its reference say of the responses."""
        # entropies and log-probabilities
        if "entropy" in self.needs:
            batch.entropy_PG = grouped(scores.mean_entropy_N, shape)
        if "token_entropy" in self.needs:
            batch.token_entropies = require_scored(scores.entropies)
        if "logps" in self.needs:
            sums = [logps_T.sum() for logps_T in require_scored(scores.logps)]
            batch.logp_sum_PG = grouped(torch.stack(sums), shape)

        # vectors, one a response
        if "features" in self.needs and scores.features_ND is not None:
            batch.features_PGD = grouped(scores.features_ND, shape)
        if "hidden" in self.needs and scores.hidden_ND is not None:
            batch.hidden_PGD = grouped(scores.hidden_ND, shape)
        if "reference_hidden" in self.needs and reference_hidden_ND is not None:
            batch.reference_hidden_PGD = grouped(reference_hidden_ND, shape)

    def _add_words(self, batch: GroupBatch, rollouts: Rollouts) -> None:
        """Add texts, ids and the normal forms of answers."""
        # what was asked and answered
        if "texts" in self.needs:
            texts = [completion.text for completion in rollouts.flat]
            batch.texts = in_groups(texts, rollouts.shape[1])
        if "problem_ids" in self.needs:
            batch.problem_ids = [problem.id for problem in rollouts.problems]

        # the verifier's normal forms; no answer has none
        if "answers" in self.needs and self.answer_key is not None:
            keys: list[list[str | None]] = []
            for answers in batch.answers or []:
                keys.append([None if a is None else self.answer_key(a) for a in answers])
            batch.answer_keys = keys

    @property
    def token_planner(self) -> TokenPlanner | None:
        """How the signal plans the tokens of a mini-batch; None for a signal that does not."""
        # most signals plan no tokens and have no such method
        tokens: TokenPlanner | None = getattr(self.signal, "tokens", None)
        if tokens is None:
            return None

        def checked(view: TokenView) -> TokenPlan:
            """The signal's plan, once it is sure that it can be carried out."""
            with named_errors(self.signal):
                plan = tokens(view)
                plan.check(self.signal.name, view.token_count)
            return plan

        return checked

    def shape(self, batch: GroupBatch) -> tuple[Shaped, dict[str, float]]:
        """Let the signal shape the rewards.

        Returns:
            What the signal says, and its metrics.

        Raises:
            NonFiniteError: the signal gave a reward or an advantage that is not finite.
            ValueError: what the signal gave has not the shape of the batch.
            SignalError: a signal of the user's own failed, see `g2rl.exploration.asking`.
        """
        # the signal that trains
        shaped = ask(self.signal, batch)
        metrics = {f"explore/{name}": value for name, value in shaped.metrics.items()}
        self._check(shaped, batch)
        return shaped, metrics

    def _check(self, shaped: Shaped, batch: GroupBatch) -> None:
        """Refuse rewards, advantages and masks that cannot be used; see `shape`."""
        who = f"step {batch.step}: exploration={self.signal.name}"
        for kind, values_PG in (("reward", shaped.rewards_PG), ("advantage", shaped.advantages_PG)):
            # a signal may leave the advantages to the trainer
            if values_PG is None:
                continue

            # a wrong shape would broadcast to nonsense
            if values_PG.shape != batch.rewards_PG.shape:
                raise ValueError(
                    f"{who} gave {kind}s of shape {tuple(values_PG.shape)} for groups of shape "
                    f"{tuple(batch.rewards_PG.shape)}"
                )

            # and a number that is not finite would hide in the weights
            bad_groups = bad_rows(values_PG)
            if bad_groups:
                raise NonFiniteError(
                    f"{who} gave {kind}s that are not finite in groups {bad_groups}",
                    bad_groups,
                    {f"shaped_{kind}s_PG": values_PG},
                )

        # masks of whole groups and of responses
        masks = (
            (shaped.keep_P, batch.rewards_PG.shape[:1]),
            (shaped.keep_PG, batch.rewards_PG.shape),
        )
        for mask, shape in masks:
            if mask is not None and (mask.dtype != torch.bool or mask.shape != shape):
                raise ValueError(
                    f"{who}: a mask must be boolean {tuple(shape)}, got {mask.dtype} "
                    f"{tuple(mask.shape)}"
                )

    def embed_for_observers(self, rollouts: Rollouts) -> None:
        """Embed what the observers alone need before any forward is kept, which needs the memory.

        The embeddings are kept until `observe`.
        """
        needed = self.observer_needs - self.needs
        if "embeddings" in needed and self.observers_encoder is not None:
            texts = [completion.text for completion in rollouts.flat]
            self.observers_encoder.encode(self.world.deal(texts))

    def observe(
        self,
        step: int,
        rollouts: Rollouts,
        verdicts: Sequence[Verdict],
        scores: Scores,
        reference_hidden_ND: Tensor | None = None,
    ) -> Observations:
        """Let the observers measure, each on a batch of its own.

        Args:
            step: the training step.
            rollouts: the responses.
            verdicts: one a response.
            scores: of all responses, with what the observers need.
            reference_hidden_ND: mean last hidden states of the reference policy, if one of them
                needs these.
        """

        # the same stage, with an observer in the place of the signal
        def batch_for(observer: Signal) -> GroupBatch:
            view = copy.copy(self)
            view.needs = self._needs_of([observer])
            view.encoder = self.observers_encoder
            return view.group_batch(step, rollouts, verdicts, scores, reference_hidden_ND)

        return observe(self.observers, batch_for, step)

    def _embeddings(self, rollouts: Rollouts) -> Tensor | None:
        """Embeddings of all responses, (P, G, E), where a signal needs them."""
        if "embeddings" not in self.needs or self.encoder is None:
            return None

        # divided among the ranks
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
