"""Micro-batches of similar length under a token budget, and the flat view of their response
tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from g2rl.policy.prefix_layout import PrefixLayout

CALL_TOKENS = 256  # padded tokens that cost as much as one more call of the model (docs/cost.md)


@dataclass(slots=True)
class Sequences:
    """N prompt-response pairs as token ids; responses include their stop token."""

    prompts: list[list[int]]
    responses: list[list[int]]

    def __post_init__(self) -> None:
        if len(self.prompts) != len(self.responses):
            raise ValueError(f"{len(self.prompts)} prompts for {len(self.responses)} responses")
        if any(not prompt for prompt in self.prompts):
            raise ValueError(
                "a prompt has no token; the first response token would have no prediction"
            )

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def lengths_N(self) -> Tensor:
        """Response lengths, int64."""
        return torch.tensor([len(r) for r in self.responses], dtype=torch.int64)

    def total_length(self, n: int) -> int:
        return len(self.prompts[n]) + len(self.responses[n])


@dataclass(slots=True)
class MicroBatch:
    """A few rows and the flat index of what predicts each response token.

    Rows are padded on the right, which needs no attention mask under causal attention: real tokens
    never see padding. Or they are packed: then L tokens of all rows stand in one, B = 1, and a
    layout says which is which (`g2rl.policy.packing`).
    """

    rows: list[int]
    """Indices n of the responses, in row order."""
    input_ids_BL: Tensor
    positions_T: Tensor
    """Flat index into (B*L) of the hidden state that predicts each response token."""
    targets_T: Tensor
    segments_T: Tensor
    """Row of each response token, non-decreasing."""
    layout: PrefixLayout | None = None
    """Where the tokens of packed rows stand; None for padded rows."""
    position_ids_BL: Tensor | None = None
    """Position of each packed token in its row; None for padded rows, which begin at 0."""
    packed_own_T: Tensor | None = None
    """Flat index of each response token itself, where packed rows hold their last tokens."""
    real_tokens: int = 0
    """Tokens of prompts and responses among the B * L places; the others are padding."""

    @property
    def own_positions_T(self) -> Tensor:
        """Flat index into (B*L) of each response token itself.

        Raises:
            ValueError: rows were packed without their last tokens, which predict nothing.
        """
        # in a padded row a token follows the one that predicts it
        if self.layout is None:
            return self.positions_T + 1
        if self.packed_own_T is None:
            raise ValueError("these rows were packed without last tokens; pack with keep_last")
        return self.packed_own_T


def mini_batches(group_N: Tensor, count: int, key: Sequence[int]) -> list[list[int]]:
    """Rows of each mini-batch: whole groups, in an order that is a function of the key; at most
    `count`."""
    # whole groups, in a random order unless there is only one mini-batch
    labels = torch.unique(group_N).tolist()
    parts = min(count, len(labels))
    order = np.random.default_rng(np.random.SeedSequence(tuple(key))).permutation(labels)
    if parts == 1:
        order = np.array(labels)

    # the rows of each mini-batch keep the order of the responses
    groups = [set(part.tolist()) for part in np.array_split(order, parts)]
    owner = group_N.tolist()
    return [[n for n, label in enumerate(owner) if label in chosen] for chosen in groups]


def padded_tokens(sequences: Sequences, plan: Sequence[Sequence[int]]) -> int:
    """Tokens that the micro-batches of a plan compute, padding included."""
    return sum(len(rows) * max(map(sequences.total_length, rows)) for rows in plan)


def plan_micro_batches(
    sequences: Sequences, rows: Sequence[int], token_budget: int
) -> list[list[int]]:
    """Split rows into micro-batches of similar length with as little padding as calls are worth.

    Rows are sorted by length and cut where the sum over micro-batches of (rows x longest +
    CALL_TOKENS) is least, each within the budget: a dynamic programme, exact. A row longer than the
    budget gets a micro-batch of its own. The plan depends only on the lengths and on the order of
    rows, so it is the same in every run.
    """
    if token_budget < 1:
        raise ValueError(f"micro-batch token budget must be >= 1, got {token_budget}")

    # rows of similar length, each as long as the longest of its micro-batch
    ordered = sorted(rows, key=sequences.total_length)
    cuts = cut_by_cost([sequences.total_length(n) for n in ordered], CALL_TOKENS, token_budget)
    plan: list[list[int]] = []
    for begin, end in cuts:
        plan.append(ordered[begin:end])
    return plan


def cut_by_cost(
    ordered_lengths: Sequence[int], call: int, budget: int | None = None
) -> list[tuple[int, int]]:
    """Cut rows into parts where the sum over parts of (rows x longest + call) is least.

    Args:
        ordered_lengths: lengths of the rows, ascending.
        call: price of a part, in tokens.
        budget: most padded tokens of a part of more than one row; None for any number.

    Returns:
        First row of each part, and the row behind its last.
    """
    # cost[i]: of the best plan for the i shortest rows; start[i]: where its last part begins
    lengths = np.array(ordered_lengths, dtype=np.int64)
    cost = np.zeros(len(lengths) + 1, dtype=np.int64)
    start = np.zeros(len(lengths), dtype=np.int64)

    # a part that ends with row `last` costs its rows times the longest, plus a call
    for last, longest in enumerate(lengths):
        first = 0
        if budget is not None:
            first = max(0, last + 1 - max(1, budget // int(longest)))
        begins = np.arange(first, last + 1)
        total = cost[first : last + 1] + (last + 1 - begins) * longest + call
        best = int(total.argmin())
        start[last], cost[last + 1] = first + best, total[best]

    # walk back over the parts of the best plan
    cuts: list[tuple[int, int]] = []
    end = len(lengths)
    while end:
        begin = int(start[end - 1])
        cuts.append((begin, end))
        end = begin
    return cuts[::-1]


def make_micro_batch(
    sequences: Sequences, rows: list[int], device: torch.device, pad_id: int = 0, pad_to: int = 0
) -> MicroBatch:
    """Right-pad the given rows to their longest (or to `pad_to`) and index their response
    tokens."""
    # pad every row to the longest
    length = max(pad_to, *(sequences.total_length(n) for n in rows))
    padded: list[list[int]] = []
    positions: list[int] = []
    targets: list[int] = []
    segments: list[int] = []
    for row, n in enumerate(rows):
        prompt, response = sequences.prompts[n], sequences.responses[n]
        padded.append(prompt + response + [pad_id] * (length - len(prompt) - len(response)))

        # token y_t is predicted at the position before it
        first = row * length + len(prompt) - 1
        positions.extend(range(first, first + len(response)))
        targets.extend(response)
        segments.extend([row] * len(response))
    return MicroBatch(
        rows=rows,
        input_ids_BL=torch.tensor(padded, device=device),
        positions_T=torch.tensor(positions, dtype=torch.int64, device=device),
        targets_T=torch.tensor(targets, dtype=torch.int64, device=device),
        segments_T=torch.tensor(segments, dtype=torch.int64, device=device),
        real_tokens=sum(sequences.total_length(n) for n in rows),
    )


def mean_by_response(rows_TD: Tensor, batch: MicroBatch) -> Tensor:
    """Mean over the tokens of each response of a micro-batch, (rows, D).

    Args:
        rows_TD: one vector for each response token.
        batch: says which response each token belongs to. A response without tokens has 0.
    """
    count = len(batch.rows)
    sums_ND = rows_TD.new_zeros(count, rows_TD.shape[1]).index_add(0, batch.segments_T, rows_TD)
    sizes_N = torch.bincount(batch.segments_T, minlength=count)
    return sums_ND / sizes_N.clamp(min=1).unsqueeze(1)
