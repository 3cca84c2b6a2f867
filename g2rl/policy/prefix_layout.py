"""Where the tokens of a packed micro-batch stand, and which of them see which.

In a packed micro-batch every prompt stands once for all of its responses, and nothing is padded:
first the prompts one after the other, then the responses, the shortest first. Attention needs
rectangles. In *padded order* all prompts form one, padded to the longest, and responses of similar
length form a few more, the blocks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(slots=True, frozen=True)
class Block:
    """Responses of similar length that attend in one call."""

    first: int
    """Place of its first token in padded order."""
    count: int
    """Number of responses n."""
    length: int
    """Tokens T of the longest; the others are padded behind."""
    prompts_N: Tensor
    """Prompt of each response, (n,) int64."""


@dataclass(slots=True)
class PrefixLayout:
    """The layout of one packed micro-batch of L tokens and P prompts."""

    prompt_lengths: list[int]
    """Tokens of each prompt."""
    blocks: list[Block]
    to_padded: Tensor
    """Packed place of every token in padded order, int64; padding repeats a token of its row."""
    to_packed_L: Tensor
    """Place in padded order of every packed token, int64."""
    padding: Tensor
    """Places in padded order that hold no token, int64."""
    windows: list[int | None] = field(default_factory=list)
    """The sliding window of every attention call so far, which a check reads."""
    masks: dict[Any, Tensor] = field(default_factory=dict)
    """Masks that were made so far; the layers of a model share them."""

    @property
    def longest_prompt(self) -> int:
        """Tokens S of the longest prompt."""
        return max(self.prompt_lengths)

    @property
    def is_padded(self) -> bool:
        """Whether packed and padded order differ."""
        return self.padding.numel() > 0

    def prompt_mask(self, window: int | None, like: Tensor) -> Tensor | None:
        """Additive mask (1, 1, S, S) of the prompts; None where causal attention says it all.

        Args:
            window: how many tokens a token sees, itself included; None for all before it.
            like: queries, whose dtype and device the mask has.
        """
        length = self.longest_prompt
        if window is None or window >= length:
            return None

        # made once for all layers
        key = ("prompts", window, like.dtype)
        if key not in self.masks:
            places_S = torch.arange(length, device=like.device)
            distance_SS = places_S.unsqueeze(1) - places_S
            seen_SS = (distance_SS >= 0) & (distance_SS < window)
            self.masks[key] = _additive(seen_SS, like)[None, None]
        return self.masks[key]

    def response_mask(
        self, number: int, window: int | None, head_groups: int, like: Tensor
    ) -> Tensor:
        """Additive mask of a block, (n or 1, 1, head_groups * T, S + T).

        Args:
            number: of the block.
            window: how many tokens a token sees, itself included; None for all before it.
            head_groups: query heads of one key head, whose queries follow one another.
            like: queries, whose dtype and device the mask has.
        """
        # made once for all layers
        key = (number, window, head_groups, like.dtype)
        if key not in self.masks:
            seen_NTK = self._seen_by_responses(self.blocks[number], window, like.device)
            mask_NQK = _additive(seen_NTK, like).repeat(1, head_groups, 1)
            self.masks[key] = mask_NQK.unsqueeze(1)
        return self.masks[key]

    def _seen_by_responses(self, block: Block, window: int | None, device: torch.device) -> Tensor:
        """Which keys (prompt, then own tokens) each response token sees, (n or 1, T, S + T)."""
        # one mask serves all responses whose prompts are equally long
        lengths_N = torch.tensor(self.prompt_lengths, device=device)[block.prompts_N]
        if len(set(self.prompt_lengths)) == 1:
            lengths_N = lengths_N[:1]
        prompt_N11 = lengths_N[:, None, None]

        # positions of queries and keys
        own_T = torch.arange(block.length, device=device)
        shape = (lengths_N.numel(), block.length, -1)
        queries_NT1 = prompt_N11 + own_T[:, None]
        prompt_NTS = torch.arange(self.longest_prompt, device=device).expand(shape)
        own_NTT = (prompt_N11 + own_T).expand(shape)

        # padding behind a prompt is seen by nobody, own tokens by those behind them
        seen_NTK = torch.cat([prompt_NTS < prompt_N11, own_NTT <= queries_NT1], dim=-1)
        if window is not None:
            keys_NTK = torch.cat([prompt_NTS, own_NTT], dim=-1)
            seen_NTK &= queries_NT1 - keys_NTK < window
        return seen_NTK


def _additive(seen: Tensor, like: Tensor) -> Tensor:
    """0 where a key is seen and minus infinity elsewhere, with dtype and device of `like`."""
    mask = torch.zeros(seen.shape, dtype=like.dtype, device=like.device)
    return mask.masked_fill_(~seen, float("-inf"))
