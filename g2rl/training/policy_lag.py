"""Policy lag: the responses of a step are drawn by the weights of some steps ago.

Production systems sample and train at the same time, so they learn from stale responses. Here the
two take turns, and how stale the responses are is a setting, `trainer.lag`: those of step t are
drawn by the weights with which step t - k began, and those of the first k steps by the weights of
the start. So what a step draws is a function of (seed, step, weights), as without lag, and
a checkpoint that holds the weights of the last k steps continues a run bit for bit.

The policy that drew, q, then differs from the policy pi_old that the step begins with. Its
log-probabilities are taken while its weights are there, and the loss corrects for the difference
as it does for an engine with weights of its own: the clipped surrogate has its ratio to pi_old, and
every token is weighed by pi_old / q within bounds (`algorithm.sampler_correction`,
`g2rl.formulas.losses`). This is the decoupled objective of Hilton et al. 2021 (arXiv 2110.00641)
with pi_old as the proximal policy. Features, entropies and the reference are those of pi_old.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from g2rl.engines.engine import Engine
from g2rl.engines.rollouts import Rollouts, in_groups
from g2rl.policy.policy import Policy
from g2rl.policy.scoring import ScoreRequest, require_scored, score
from g2rl.policy.weights import weights_to_keep
from g2rl.training.stages import Sampler

Weights = dict[str, Tensor]


class PastWeights:
    """The weights with which the latest steps began, in host memory.

    Args:
        policy: not divided among processes; with adapters these alone are kept, because the base
            never changes.
        engine: takes over whatever weights the policy has.
        lag: k >= 1.
    """

    def __init__(self, policy: Policy, engine: Engine, lag: int) -> None:
        self.policy, self.engine, self.lag = policy, engine, lag
        self._weights_of: dict[int, Weights] = {}

    @contextmanager
    def behind(self, step: int) -> Iterator[None]:
        """Give policy and engine the weights with which step - k began.

        At the end of the block the policy has its own weights again, to the last bit. The engine
        gets them at the next push, which follows every update.
        """
        self._remember(step)
        past_step = max(1, step - self.lag)

        # the weights of the start are there already in the first step
        if past_step == step:
            yield
            return
        try:
            self._fill(past_step)
            self.engine.push_weights()
            yield
        finally:
            self._fill(step)

    def _remember(self, step: int) -> None:
        """Keep the weights with which a step begins, and forget those that no step needs."""
        if step in self._weights_of:
            return  # a step may draw several times

        # copies in host memory, so that no update reaches them
        copies: Weights = {}
        for name, tensor in weights_to_keep(self.policy.model).items():
            copies[name] = tensor.detach().to("cpu", copy=True)
        self._weights_of[step] = copies

        # older ones are needed no more
        for other in list(self._weights_of):
            if other < step - self.lag:
                del self._weights_of[other]

    @torch.no_grad()
    def _fill(self, step: int) -> None:
        """Write the weights with which a step began into the policy's own tensors."""
        stored = self._weights_of[step]
        for name, tensor in weights_to_keep(self.policy.model).items():
            tensor.copy_(stored[name])

    def state_dict(self) -> dict[str, Any]:
        """The weights of the last k steps, which the next steps need."""
        latest = sorted(self._weights_of)[-self.lag :]
        return {"weights_of": {step: self._weights_of[step] for step in latest}}

    def load_state_dict(self, state: Mapping[str, Any], done: int) -> None:
        """Continue from a checkpoint.

        Args:
            state: what `state_dict` gave.
            done: steps that the checkpoint has completed.

        Raises:
            ValueError: the checkpoint does not hold the weights of the last k steps.
        """
        # a run that is shorter than its lag needs fewer
        needed = set(range(max(1, done + 1 - self.lag), done + 1))
        stored = state.get("weights_of", {})
        if set(stored) != needed:
            raise ValueError(
                f"trainer.lag={self.lag}: the checkpoint of step {done} holds weights of the steps "
                f"{sorted(stored)}, not of {sorted(needed)}, so the run cannot continue exactly; "
                "resume=never starts it over"
            )
        self._weights_of = {step: dict(weights) for step, weights in stored.items()}


class LaggedSampler(Sampler):
    """A sampler whose responses are drawn by past weights, and carry these weights' log-probs.

    Args:
        past: the weights.
        arguments: of `Sampler`.
    """

    def __init__(self, past: PastWeights, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.past = past

    @property
    def lag(self) -> int:
        return self.past.lag

    def draw(self, step: int, start: int, first_place: int, count: int) -> Rollouts:
        """See `Sampler.draw`."""
        with self.past.behind(step):
            rollouts = super().draw(step, start, first_place, count)
            # an engine that reports them has the weights that drew
            if self.engine.reports_logps:
                return rollouts
            return self._with_logps(rollouts)

    def _with_logps(self, rollouts: Rollouts) -> Rollouts:
        """The rollouts with the log-probabilities of the weights that drew them."""
        # the same forward as in scoring, under the past weights
        request = ScoreRequest(self.settings.sampling.temperature, self.settings.score_tokens)
        with self.reporter.phase("scoring"):
            scores = score(self.past.policy, rollouts.sequences, request, self.world)

        # float32 becomes Python's float and float32 again without loss
        completions = []
        logps_N = require_scored(scores.logps)
        for completion, logps_T in zip(rollouts.flat, logps_N, strict=True):
            completions.append(replace(completion, logps=logps_T.tolist()))
        groups = in_groups(completions, rollouts.shape[1])
        return Rollouts(rollouts.problems, rollouts.prompts, groups)

    def state_dict(self) -> dict[str, Any]:
        """See `Sampler.state_dict`."""
        return self.past.state_dict()

    def load_state_dict(self, state: Mapping[str, Any], done: int) -> None:
        """See `Sampler.load_state_dict`."""
        self.past.load_state_dict(state, done)
