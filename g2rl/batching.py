"""Micro-batches of similar length under a token budget, and the flat view of their response tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(slots=True)
class Sequences:
    """N prompt-response pairs as token ids; responses include their stop token."""

    prompts: list[list[int]]
    responses: list[list[int]]

    def __post_init__(self) -> None:
        if len(self.prompts) != len(self.responses):
            raise ValueError(f"{len(self.prompts)} prompts for {len(self.responses)} responses")
        if any(not prompt for prompt in self.prompts):
            raise ValueError("a prompt has no token; the first response token would have no prediction")

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
    """A few right-padded rows and the flat index of what predicts each response token.

    Right padding needs no attention mask under causal attention: real tokens never see padding.
    """

    rows: list[int]
    """Indices n of the responses, in row order."""
    input_ids_BL: Tensor
    positions_T: Tensor
    """Flat index into (B*L) of the hidden state that predicts each response token."""
    targets_T: Tensor
    segments_T: Tensor
    """Row of each response token, non-decreasing."""


def plan_micro_batches(sequences: Sequences, rows: Sequence[int], token_budget: int) -> list[list[int]]:
    """Split rows into micro-batches of similar length: padded size (rows x longest) within the budget.

    A row longer than the budget gets a micro-batch of its own. The plan depends only on the lengths
    and on the order of rows, so it is the same in every run.
    """
    if token_budget < 1:
        raise ValueError(f"micro-batch token budget must be >= 1, got {token_budget}")
    ordered = sorted(rows, key=sequences.total_length)
    plan: list[list[int]] = []
    for n in ordered:
        longest = sequences.total_length(n)  # ascending: the newest row is the longest
        if plan and (len(plan[-1]) + 1) * longest <= token_budget:
            plan[-1].append(n)
        else:
            plan.append([n])
    return plan


def make_micro_batch(
    sequences: Sequences, rows: list[int], device: torch.device, pad_id: int = 0, pad_to: int = 0
) -> MicroBatch:
    """Right-pad the given rows to their longest (or to `pad_to`) and index their response tokens."""
    length = max(pad_to, *(sequences.total_length(n) for n in rows))
    padded: list[list[int]] = []
    positions: list[int] = []
    targets: list[int] = []
    segments: list[int] = []
    for row, n in enumerate(rows):
        prompt, response = sequences.prompts[n], sequences.responses[n]
        padded.append(prompt + response + [pad_id] * (length - len(prompt) - len(response)))
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
    )
