"""Score responses under a policy whose weights do not change meanwhile.

One pass in micro-batches of similar length yields the log-probability and the entropy of every
response token and, on request, the gradient feature of every response. No gradients are recorded,
except in the micro-batches whose forward the coming update takes over
(`ScorePlan.kept_micro_batches`).

Responses that the update's own forward will score may be left out. Their entries in `Scores` stay
None until `Scores.fill` supplies them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from g2rl.policy.batching import MicroBatch, Sequences, make_micro_batch
from g2rl.policy.lm_head import HeadOutput
from g2rl.policy.packing import form_micro_batch, plan_batches, rows_of_this_rank
from g2rl.policy.policy import Scorable
from g2rl.policy.sharding import reshard
from g2rl.world import World


@dataclass(slots=True, frozen=True)
class ScorePlan:
    """Which responses are scored, and in which company."""

    passes: Sequence[Sequence[int]]
    """Lists of responses. Each list is cut into micro-batches on its own, so that the scores of one
    list do not depend on whether another list is scored as well."""
    kept_micro_batches: Sequence[list[int]] = ()
    """Micro-batches that are scored besides, and whose forward is kept with all that its backward
    needs."""

    @property
    def response_count(self) -> int:
        """Number of responses that the plan scores."""
        return sum(len(rows) for rows in [*self.passes, *self.kept_micro_batches])


@dataclass(slots=True, frozen=True)
class ScoreRequest:
    """What is computed of each response, e.g. ``ScoreRequest(temperature=1.0,
    token_budget=16_384)``."""

    temperature: float
    """Sampling temperature of the responses."""
    token_budget: int
    """Tokens of one micro-batch, padding included; see `g2rl.policy.packing.computed_tokens`."""
    features: bool = False
    """Compute the gradient features as well; then the plan has to score every response."""
    feature_temperature: float | None = None
    """Temperature of p_t in the features; None takes `temperature`."""
    plan: ScorePlan | None = None
    """Which responses to score; None scores all of them in one pass."""
    hidden: bool = False
    """Compute the mean last hidden states as well; then the plan has to score every response."""


@dataclass(slots=True)
class Scores:
    """What one policy says of N responses, in the order of the responses."""

    logps: list[Tensor | None]
    """N tensors (T_n,): log-probabilities at the sampling temperature; None where not scored
    yet."""
    entropies: list[Tensor | None]
    """N tensors (T_n,): token entropies in nats; None where not scored yet."""
    features_ND: Tensor | None = None
    """Gradient features, float32 on the CPU; None unless the request asked for them."""
    hidden_ND: Tensor | None = None
    """Mean last hidden states, float32 on the CPU; None unless the request asked for them."""
    forwards: dict[tuple[int, ...], HeadOutput] = field(default_factory=dict)
    """The kept forwards, by the rows of their micro-batch. They hold activations: whoever takes
    them over takes them out, see `take_forwards`."""

    @property
    def mean_entropy_N(self) -> Tensor:
        """Mean token entropy of each response, (N,), in nats; 0 for an empty response.

        Raises:
            ValueError: some responses are not scored yet.
        """
        means: list[Tensor] = []
        for entropy_T in require_scored(self.entropies):
            means.append(entropy_T.mean() if entropy_T.numel() else entropy_T.new_zeros(()))
        return torch.stack(means)

    @property
    def complete(self) -> bool:
        """Whether every response has been scored."""
        return all(entropy_T is not None for entropy_T in self.entropies)

    def copy(self) -> Scores:
        """The same scores in lists of their own, without the kept forwards."""
        return Scores(list(self.logps), list(self.entropies), self.features_ND, self.hidden_ND)

    def take_forwards(self) -> dict[tuple[int, ...], HeadOutput]:
        """Hand over the kept forwards, so that their memory is freed as soon as the taker is
        done."""
        forwards = self.forwards
        self.forwards = {}
        return forwards

    def fill(
        self, rows: Sequence[int], logps_T: Tensor, entropy_T: Tensor, lengths: Sequence[int]
    ) -> None:
        """Store what a forward yielded for some rows, whose tokens follow one another in both
        tensors.

        Args:
            rows: the responses, in the order of their tokens.
            logps_T, entropy_T: (sum of lengths,) each, without gradients.
            lengths: number of response tokens of each row.
        """
        logps_of_row = logps_T.cpu().split(list(lengths))
        entropies_of_row = entropy_T.cpu().split(list(lengths))
        for n, logps, entropies in zip(rows, logps_of_row, entropies_of_row, strict=True):
            self.logps[n] = logps
            self.entropies[n] = entropies

    def exchange(self, own_rows: Sequence[int], world: World) -> None:
        """Give every rank the scores that this rank has computed for its own rows."""
        if world.size == 1:
            return

        # small lists, gathered from every rank
        own_scores = [(n, self.logps[n], self.entropies[n]) for n in own_rows]
        for scores_of_rank in world.gather(own_scores):
            for n, logps, entropies in scores_of_rank:
                self.logps[n] = logps
                self.entropies[n] = entropies


def require_scored(values: Sequence[Tensor | None]) -> list[Tensor]:
    """Check that every response has been scored, and return the list without None.

    Raises:
        ValueError: a response has not been scored.
    """
    scored = [value for value in values if value is not None]
    if len(scored) < len(values):
        missing_count = len(values) - len(scored)
        raise ValueError(f"{missing_count} of {len(values)} responses are not scored yet")
    return scored


def pad_plan_to_longest_rank(plan: list[list[int]], world: World) -> list[list[int]]:
    """Append empty micro-batches until every rank's plan is equally long.

    A forward of sharded weights takes part in gathers of all ranks, so all ranks must forward
    equally often.
    """
    missing_count = world.largest(len(plan)) - len(plan)
    return plan + [[]] * missing_count


def idle_batch(device: torch.device) -> MicroBatch:
    """The smallest micro-batch, for a rank that has nothing to compute while others forward
    theirs."""
    return make_micro_batch(Sequences([[0]], [[0]]), [0], device)


@torch.no_grad()
def score(
    policy: Scorable, sequences: Sequences, request: ScoreRequest, world: World | None = None
) -> Scores:
    """Compute log-probabilities, entropies and, if asked for, gradient features of responses.

    Args:
        policy: behaviour policy or reference. It is put into evaluation mode meanwhile, except for
            the kept forwards, which run as the update would run them.
        sequences: N prompt-response pairs.
        request: what to compute, and of which responses.
        world: the ranks that divide the work; every rank gets all scores.

    Raises:
        ValueError: features or hidden states are asked for, but not every response is to be scored;
            or forwards are to be kept by one of several ranks, which the others could not know of.
    """
    world = world or World()
    plan = request.plan or ScorePlan([range(len(sequences))])
    _check_plan(plan, request, len(sequences), world)

    # divide the rows among the ranks, then cut this rank's share into micro-batches
    own_rows: list[int] = []
    micro_batches: list[list[int]] = []
    sharing = policy.shares_prefixes
    for rows in plan.passes:
        share = rows_of_this_rank(sequences, list(rows), world, sharing)
        own_rows += share
        micro_batches += plan_batches(sequences, share, request.token_budget, sharing)

    scorer = _Scorer(policy, sequences, request)
    was_training = policy.training

    # most micro-batches are forwarded without gradients
    policy.eval()
    for rows in pad_plan_to_longest_rank(micro_batches, world):
        scorer.forward(rows)
    reshard(policy)

    # some are forwarded as the update runs them, with activation checkpointing or not
    policy.train(was_training or bool(plan.kept_micro_batches))
    with torch.enable_grad():
        for rows in plan.kept_micro_batches:
            scorer.scores.forwards[tuple(rows)] = scorer.forward(rows)
    policy.train(was_training)

    return scorer.exchanged(own_rows, world)


def _check_plan(plan: ScorePlan, request: ScoreRequest, count: int, world: World) -> None:
    """Refuse a plan that cannot give what is asked for; see `score`."""
    if (request.features or request.hidden) and plan.response_count < count:
        raise ValueError("features and hidden states are those of whole groups: score all rows")
    if plan.kept_micro_batches and world.size > 1:
        raise ValueError(
            "a rank does not know which forwards the others keep; with several ranks, plan no "
            "kept_micro_batches"
        )


class _Scorer:
    """Forwards micro-batches of one `score` call and collects what they yield, row by row."""

    def __init__(self, policy: Scorable, sequences: Sequences, request: ScoreRequest) -> None:
        self.policy = policy
        self.sequences = sequences
        self.request = request
        self.feature_rows: list[Tensor | None] = [None] * len(sequences)
        self.hidden_rows: list[Tensor | None] = [None] * len(sequences)

        # an empty response has nothing to score
        nothing: list[Tensor | None] = []
        for response in sequences.responses:
            nothing.append(None if response else torch.empty(0))
        self.scores = Scores(nothing, list(nothing))

    def forward(self, rows: list[int]) -> HeadOutput:
        """Forward one micro-batch and store its scores; no rows stand for an idle forward."""
        request, device = self.request, self.policy.device
        if rows:
            sharing = self.policy.shares_prefixes
            batch = form_micro_batch(self.sequences, rows, device, sharing, request.hidden)
        else:
            batch = idle_batch(device)
        output = self.policy(
            batch,
            request.temperature,
            features=request.features,
            feature_temperature=request.feature_temperature,
            hidden=request.hidden,
        )
        if not rows:
            return output

        lengths = [len(self.sequences.responses[n]) for n in rows]
        self.scores.fill(rows, output.logps_T.detach(), output.entropy_T.detach(), lengths)
        vectors = ((output.features_ND, self.feature_rows), (output.hidden_ND, self.hidden_rows))
        for vectors_ND, known_rows in vectors:
            if vectors_ND is not None:
                for n, vector_D in zip(rows, vectors_ND.float().cpu(), strict=True):
                    known_rows[n] = vector_D
        return output

    def exchanged(self, own_rows: Sequence[int], world: World) -> Scores:
        """The scores of all responses, of which every rank has computed those of its own rows."""
        self.scores.exchange(own_rows, world)
        if self.request.features:
            self.scores.features_ND = all_rows(self.feature_rows, own_rows, world)
        if self.request.hidden:
            self.scores.hidden_ND = all_rows(self.hidden_rows, own_rows, world)
        return self.scores


def all_rows(known_rows: list[Tensor | None], own_rows: Sequence[int], world: World) -> Tensor:
    """Vectors of all responses, (N, D), of which every rank has computed those of its own rows.

    Args:
        known_rows: N entries, those of other ranks None; filled in place.
        own_rows: the rows that this rank has computed.
        world: the ranks; all of them have to call this together.
    """
    if world.size > 1:
        # gathered row by row
        own_vectors = [(n, known_rows[n]) for n in own_rows]
        for vectors_of_rank in world.gather(own_vectors):
            for n, vector_D in vectors_of_rank:
                known_rows[n] = vector_D
    return torch.stack(require_scored(known_rows))
