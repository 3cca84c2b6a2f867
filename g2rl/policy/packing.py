"""Micro-batches that compute a prompt once for all of its responses.

Where it saves enough, the rows of a micro-batch are packed instead of padded: every prompt stands
once, nothing is padded, and the last token of a response, which predicts nothing, is left out. A
policy says whether its architecture allows it (`Policy.shares_prefixes`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from g2rl.policy.batching import (
    MicroBatch,
    Sequences,
    cut_by_cost,
    make_micro_batch,
    padded_tokens,
    plan_micro_batches,
)
from g2rl.policy.prefix_layout import Block, PrefixLayout
from g2rl.world import World

WORTH = 0.9
"""Packing is for micro-batches that compute at most this share of their padded tokens."""
KEYS_SHARE = 8
"""A response holds keys and values of its whole row: about as much memory as an eighth of what its
tokens hold otherwise. It counts so against a token budget."""
BLOCK_TOKENS = 512
"""Padded tokens of attention that cost as much as one more block."""


def groups_by_prompt(sequences: Sequences, rows: Sequence[int]) -> list[list[int]]:
    """Those of some rows that have the same prompt, prompt by prompt, in the order of the rows."""
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for n in rows:
        groups[tuple(sequences.prompts[n])].append(n)
    return list(groups.values())


@dataclass(slots=True)
class _Tally:
    """What the rows of a micro-batch compute, counted row by row."""

    rows: int = 0
    longest: int = 0
    """Tokens of the longest row."""
    row_tokens: int = 0
    """Tokens of all rows, a prompt counted for each of its responses."""
    packed: int = 0
    """Tokens of all rows, a prompt counted once."""
    prompts: set[tuple[int, ...]] = field(default_factory=set)

    def with_rows(self, sequences: Sequences, rows: Sequence[int]) -> _Tally:
        """The tally after some more rows; this one stays as it is."""
        tally = _Tally(
            self.rows + len(rows), self.longest, self.row_tokens, self.packed, set(self.prompts)
        )
        for n in rows:
            prompt = tuple(sequences.prompts[n])
            own_tokens = len(sequences.responses[n])
            length = len(prompt) + own_tokens
            tally.longest = max(tally.longest, length)
            tally.row_tokens += length
            tally.packed += own_tokens

            # a prompt that is there already costs nothing
            if prompt not in tally.prompts:
                tally.prompts.add(prompt)
                tally.packed += len(prompt)
        return tally

    @property
    def padded(self) -> int:
        """Tokens that are computed when the rows are padded."""
        return self.rows * self.longest

    @property
    def is_worth_packing(self) -> bool:
        """Whether packing computes enough less than padding."""
        return self.packed <= WORTH * self.padded

    @property
    def computed(self) -> int:
        """What counts against a token budget where prefixes are shared."""
        if self.is_worth_packing:
            return self.packed + self.row_tokens // KEYS_SHARE
        return self.padded


def packed_tokens(sequences: Sequences, rows: Sequence[int]) -> int:
    """Tokens that some rows compute when they are packed, last tokens included."""
    return _Tally().with_rows(sequences, rows).packed


def is_worth_packing(sequences: Sequences, rows: Sequence[int]) -> bool:
    """Whether a micro-batch of these rows is packed by a policy that shares prefixes."""
    return _Tally().with_rows(sequences, rows).is_worth_packing


def computed_tokens(sequences: Sequences, plan: Sequence[Sequence[int]], sharing: bool) -> int:
    """What the micro-batches of a plan count against a token budget.

    Args:
        sequences: all responses.
        plan: the rows of each micro-batch.
        sharing: whether the policy shares prefixes; otherwise these are the padded tokens.
    """
    if not sharing:
        return padded_tokens(sequences, plan)
    return sum(_Tally().with_rows(sequences, rows).computed for rows in plan)


def plan_batches(
    sequences: Sequences, rows: Sequence[int], token_budget: int, sharing: bool
) -> list[list[int]]:
    """Split rows into micro-batches under a budget, by length or by prompt, whichever computes
    less.

    Args:
        sequences: all responses.
        rows: those to be split.
        token_budget: most tokens of a micro-batch, counted as `computed_tokens` does.
        sharing: whether the policy shares prefixes.

    Raises:
        ValueError: a budget below 1.
    """
    by_length = plan_micro_batches(sequences, rows, token_budget)
    if not sharing:
        return by_length

    # packing by prompt does nothing about padding where prompts are short beside the responses
    by_prompt = _plan_by_prompt(sequences, rows, token_budget)
    cost_by_prompt = computed_tokens(sequences, by_prompt, sharing)
    if cost_by_prompt <= WORTH * computed_tokens(sequences, by_length, sharing=False):
        return by_prompt
    return by_length


def _plan_by_prompt(
    sequences: Sequences, rows: Sequence[int], token_budget: int
) -> list[list[int]]:
    """Fill micro-batches with whole groups while they fit, prompts of similar length together.

    A group that is larger than a micro-batch is cut, and its prompt is computed in every part.
    """
    # pieces that fit a micro-batch of their own
    pieces: list[list[int]] = []
    for group in groups_by_prompt(sequences, rows):
        ordered = sorted(group, key=sequences.total_length)
        pieces += _filled(sequences, [[n] for n in ordered], token_budget)
    pieces.sort(key=lambda piece: len(sequences.prompts[piece[0]]))

    # and as many of them together as fit
    return _filled(sequences, pieces, token_budget)


def _filled(
    sequences: Sequences, pieces: Sequence[list[int]], token_budget: int
) -> list[list[int]]:
    """Join pieces that follow one another while they fit the budget."""
    plan: list[list[int]] = []
    tally = _Tally()
    for piece in pieces:
        joined = tally.with_rows(sequences, piece)
        if plan and joined.computed <= token_budget:
            plan[-1] = plan[-1] + piece
            tally = joined
        else:
            plan.append(piece)
            tally = _Tally().with_rows(sequences, piece)
    return plan


def rows_of_this_rank(
    sequences: Sequences, rows: list[int], world: World, sharing: bool = False
) -> list[int]:
    """The share of some rows that this rank computes, of nearly equal lengths on every rank.

    A single process computes all of them, in the order given. A policy that shares prefixes keeps
    groups together where every rank gets as many.
    """
    if world.size == 1:
        return rows

    # whole groups, the largest first
    groups = groups_by_prompt(sequences, rows)
    if sharing and len(groups) < len(rows) and len(groups) % world.size == 0:
        groups.sort(key=lambda group: -packed_tokens(sequences, group))
        own_rows: list[int] = []
        for group in world.deal(groups):
            own_rows += group
        return own_rows

    longest_first = sorted(rows, key=sequences.total_length, reverse=True)
    return world.deal(longest_first)


def form_micro_batch(
    sequences: Sequences,
    rows: list[int],
    device: torch.device,
    sharing: bool,
    keep_last: bool = False,
) -> MicroBatch:
    """The micro-batch of some rows: packed where the policy allows it and it is worth it.

    Args:
        sequences: all responses.
        rows: those of the micro-batch.
        device: of its tensors.
        sharing: whether the policy shares prefixes.
        keep_last: pack the last token of every response too, whose hidden state is asked for.
    """
    if sharing and is_worth_packing(sequences, rows):
        return pack(sequences, rows, device, keep_last)
    return make_micro_batch(sequences, rows, device)


@dataclass(slots=True)
class _Packing:
    """The tokens of a packed micro-batch while they are put one behind the other."""

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    padded_places: list[NDArray[np.int64]] = field(default_factory=list)
    is_token: list[NDArray[np.bool_]] = field(default_factory=list)
    padded_count: int = 0

    def append(self, tokens: Sequence[int], position: int) -> int:
        """Append a piece of a row that begins at a position; returns its packed place."""
        first = len(self.ids)
        self.ids.extend(tokens)
        self.positions.extend(range(position, position + len(tokens)))
        return first

    def pad(self, firsts: Sequence[int], lengths: Sequence[int]) -> tuple[int, int]:
        """Put pieces of rows into one rectangle of padded order.

        Args:
            firsts: packed place of each piece.
            lengths: its tokens, at least one.

        Returns:
            The first padded place of the rectangle, and its length.
        """
        # padding repeats the last token of its row
        longest = max(lengths)
        columns = np.arange(longest)
        last_N1 = np.array(lengths)[:, None] - 1
        places = np.array(firsts)[:, None] + np.minimum(columns, last_N1)
        self.padded_places.append(places.ravel())
        self.is_token.append((columns <= last_N1).ravel())

        first = self.padded_count
        self.padded_count += places.size
        return first, longest

    def layout(
        self, prompt_lengths: list[int], blocks: list[Block], device: torch.device
    ) -> PrefixLayout:
        """The layout of what has been padded."""
        to_padded = np.concatenate(self.padded_places)
        is_token = np.concatenate(self.is_token)

        # where each packed token has gone
        to_packed = np.empty(len(self.ids), dtype=np.int64)
        to_packed[to_padded[is_token]] = np.flatnonzero(is_token)
        return PrefixLayout(
            prompt_lengths,
            blocks,
            torch.from_numpy(to_padded).to(device),
            torch.from_numpy(to_packed).to(device),
            torch.from_numpy(np.flatnonzero(~is_token)).to(device),
        )


def pack(
    sequences: Sequences, rows: list[int], device: torch.device, keep_last: bool = False
) -> MicroBatch:
    """Put the tokens of some rows one behind the other, each prompt once.

    Args:
        sequences: all responses.
        rows: those of the micro-batch.
        device: of its tensors.
        keep_last: pack the last token of every response too.
    """
    packing = _Packing()

    # prompts, in the order in which rows name them
    prompt_of_row: dict[int, int] = {}
    prompt_firsts: list[int] = []
    prompt_lengths: list[int] = []
    for number, group in enumerate(groups_by_prompt(sequences, rows)):
        prompt = sequences.prompts[group[0]]
        prompt_firsts.append(packing.append(prompt, 0))
        prompt_lengths.append(len(prompt))
        prompt_of_row.update(dict.fromkeys(group, number))
    packing.pad(prompt_firsts, prompt_lengths)

    # responses, the shortest first
    fed: dict[int, list[int]] = {}
    for n in rows:
        response = sequences.responses[n]
        fed[n] = response if keep_last else response[:-1]
    firsts: dict[int, int] = {}
    for n in sorted(rows, key=lambda n: len(fed[n])):
        firsts[n] = packing.append(fed[n], len(sequences.prompts[n]))
    blocks = _blocks(packing, fed, firsts, prompt_of_row, device)

    # the first token of a response is predicted by the last of its prompt
    ends: dict[int, int] = {}
    for n, number in prompt_of_row.items():
        ends[n] = prompt_firsts[number] + prompt_lengths[number] - 1
    layout = packing.layout(prompt_lengths, blocks, device)
    return _micro_batch(packing, sequences, rows, (ends, firsts), layout, keep_last, device)


def _blocks(
    packing: _Packing,
    fed: dict[int, list[int]],
    firsts: dict[int, int],
    prompt_of_row: dict[int, int],
    device: torch.device,
) -> list[Block]:
    """Pad the responses in blocks of similar length.

    Args:
        packing: it grows by the blocks.
        fed: packed tokens of each response.
        firsts: their packed places, in the order of `packing`, the shortest first.
        prompt_of_row: number of each response's prompt.
        device: of the tensors.
    """
    # a response of which nothing is fed attends to nothing
    ordered = [n for n in firsts if fed[n]]
    lengths = [len(fed[n]) for n in ordered]
    blocks: list[Block] = []
    for begin, end in cut_by_cost(lengths, BLOCK_TOKENS):
        members = ordered[begin:end]
        first, longest = packing.pad([firsts[n] for n in members], lengths[begin:end])
        prompts_N = torch.tensor([prompt_of_row[n] for n in members], device=device)
        blocks.append(Block(first, len(members), longest, prompts_N))
    return blocks


def _micro_batch(
    packing: _Packing,
    sequences: Sequences,
    rows: list[int],
    places: tuple[dict[int, int], dict[int, int]],
    layout: PrefixLayout,
    keep_last: bool,
    device: torch.device,
) -> MicroBatch:
    """Index the response tokens of packed rows.

    Args:
        packing: the packed tokens.
        sequences: all responses.
        rows: those of the micro-batch, in whose order response tokens are listed.
        places: packed place of the last token of each row's prompt, and of its first response
            token.
        layout: of the packed tokens.
        keep_last: whether last tokens are packed.
        device: of the tensors.
    """
    ends, firsts = places
    positions: list[int] = []
    own: list[int] = []
    targets: list[int] = []
    segments: list[int] = []
    for row, n in enumerate(rows):
        response = sequences.responses[n]
        own_places = range(firsts[n], firsts[n] + len(response))
        own.extend(own_places)
        positions.extend([ends[n], *own_places[:-1]] if response else [])
        targets.extend(response)
        segments.extend([row] * len(response))

    # all index tensors alike; torch would look at every number for its type first
    def index(places: list[int]) -> Tensor:
        return torch.from_numpy(np.fromiter(places, np.int64, len(places))).to(device)

    return MicroBatch(
        rows=rows,
        input_ids_BL=index(packing.ids).unsqueeze(0),
        positions_T=index(positions),
        targets_T=index(targets),
        segments_T=index(segments),
        layout=layout,
        position_ids_BL=index(packing.positions).unsqueeze(0),
        packed_own_T=index(own) if keep_last else None,
        real_tokens=len(packing.ids),
    )
