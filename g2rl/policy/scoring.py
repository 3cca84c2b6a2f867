"""Score rollouts under a frozen policy: log-probabilities, entropies and what a signal asks for.

One pass in micro-batches of similar length, without gradients but for forwards that the update takes over;
nothing is computed twice. Rows that the update's own forward will serve may be left out; they stay None
until `Scores.fill`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from g2rl.policy.batching import MicroBatch, Sequences, make_micro_batch, plan_micro_batches
from g2rl.policy.lm_head import HeadOutput
from g2rl.policy.policy import Policy
from g2rl.policy.sharding import settle
from g2rl.world import World


@dataclass(slots=True)
class Scores:
    """N responses under one policy; token lists follow the order of the responses, None if not scored yet."""

    logps: list[Tensor | None]
    """N tensors (T_n,), log-probabilities at the sampling temperature."""
    entropies: list[Tensor | None]
    """N tensors (T_n,), token entropies in nats."""
    features_ND: Tensor | None = None
    """Gradient features on the CPU, float32."""
    forwards: dict[tuple[int, ...], HeadOutput] = field(default_factory=dict)
    """Forwards of some micro-batches that can still be differentiated; the update takes them out."""

    @property
    def mean_entropy_N(self) -> Tensor:
        """Mean token entropy of each response; 0 for an empty one.

        Raises:
            ValueError: some responses are not scored yet.
        """
        return torch.stack(
            [e.mean() if e.numel() else e.new_zeros(()) for e in known(self.entropies)]
        )

    def fill(
        self, rows: Sequence[int], logps_T: Tensor, entropy_T: Tensor, lengths: Sequence[int]
    ) -> None:
        """Take over what a forward pass yielded for some rows, their tokens one after the other."""
        for n, logp, entropy in zip(
            rows, logps_T.cpu().split(lengths), entropy_T.cpu().split(lengths), strict=True
        ):
            self.logps[n], self.entropies[n] = logp, entropy

    def exchange(self, own: Sequence[int], world: World) -> None:
        """Give all ranks what this one has filled in for its own rows."""
        if world.size == 1:
            return
        for part in world.gather([(n, self.logps[n], self.entropies[n]) for n in own]):
            for n, logp, entropy in part:
                self.logps[n], self.entropies[n] = logp, entropy


def share(sequences: Sequences, rows: list[int], world: World) -> list[int]:
    """This rank's part of some rows, of nearly the same lengths on every rank; all of them for one rank."""
    if world.size == 1:
        return rows
    return world.deal(sorted(rows, key=sequences.total_length, reverse=True))


def in_step(plan: list[list[int]], world: World) -> list[list[int]]:
    """The plan with empty micro-batches at its end: forwards of sharded weights take every rank, or none."""
    return plan + [[]] * (world.largest(len(plan)) - len(plan))


def idle_batch(device: torch.device) -> MicroBatch:
    """The smallest micro-batch, of a rank that has nothing to do while others compute."""
    return make_micro_batch(Sequences([[0]], [[0]]), [0], device)


def known(values: Sequence[Tensor | None]) -> list[Tensor]:
    """The same values.

    Raises:
        ValueError: one of them is None: its response has not been scored.
    """
    found = [value for value in values if value is not None]
    if len(found) < len(values):
        raise ValueError(
            f"{len(values) - len(found)} of {len(values)} responses are not scored yet"
        )
    return found


@torch.no_grad()
def score(
    policy: Policy,
    sequences: Sequences,
    *,
    temperature: float,
    token_budget: int,
    features: bool = False,
    feature_temperature: float | None = None,
    parts: Sequence[Sequence[int]] | None = None,
    keep: Sequence[list[int]] = (),
    world: World | None = None,
) -> Scores:
    """Log-probabilities, entropies and (if asked) gradient features of every response.

    Args:
        policy: behaviour policy (or the reference).
        temperature: sampling temperature of the responses.
        token_budget: padded tokens of one micro-batch.
        features: also compute Phi, at `feature_temperature` (default: `temperature`).
        parts: which responses to score, in lists that are cut into micro-batches apart, so that what one
            yields does not depend on whether another is scored; None means all in one. With features all
            must be there, or in `keep`.
        keep: micro-batches, besides, whose forward goes into `Scores.forwards` with what its backward needs.
            One rank alone may keep.
        world: the ranks that divide them; every rank gets all scores.
    """
    count = len(sequences)
    parts = [list(range(count))] if parts is None else parts
    if features and sum(map(len, [*parts, *keep])) < count:
        raise ValueError("features are those of whole groups: score all rows")
    world = world or World()
    if keep and world.size > 1:
        raise ValueError("a rank does not know which forwards the others keep; score without keep")
    empty = [None if response else torch.empty(0) for response in sequences.responses]
    scores = Scores(empty, list(empty))
    rows_of_features: list[Tensor | None] = [None] * count

    def forward(chosen: list[int]) -> HeadOutput:
        batch = (
            make_micro_batch(sequences, chosen, policy.device)
            if chosen
            else idle_batch(policy.device)
        )
        output = policy(batch, temperature, features, feature_temperature)
        sizes = [len(sequences.responses[n]) for n in chosen]
        if chosen:
            scores.fill(chosen, output.logps_T.detach(), output.entropy_T.detach(), sizes)
        if chosen and output.features_ND is not None:
            for n, feature_D in zip(chosen, output.features_ND.float().cpu(), strict=True):
                rows_of_features[n] = feature_D
        return output

    was_training = policy.training
    policy.eval()
    owned = [share(sequences, list(part), world) for part in parts]
    plan = [chosen for own in owned for chosen in plan_micro_batches(sequences, own, token_budget)]
    for chosen in in_step(plan, world):
        forward(chosen)
    settle(policy)
    policy.train(
        was_training or bool(keep)
    )  # as the update runs it, with activation checkpointing or not
    with torch.enable_grad():
        scores.forwards = {tuple(chosen): forward(chosen) for chosen in keep}
    policy.train(was_training)
    mine = [n for own in owned for n in own]
    scores.exchange(mine, world)
    if features:
        _exchange_features(rows_of_features, mine, world)
        scores.features_ND = torch.stack(known(rows_of_features))
    return scores


def _exchange_features(
    rows_of_features: list[Tensor | None], own: Sequence[int], world: World
) -> None:
    """Fill in what other ranks have computed."""
    if world.size == 1:
        return
    for part in world.gather([(n, rows_of_features[n]) for n in own]):
        for n, row in part:
            rows_of_features[n] = row
