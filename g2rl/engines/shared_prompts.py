"""Attention of rows that share the keys and values of their prompt.

The G responses to a prompt differ behind it only. So its keys and values stand once, the queries
of all its rows are multiplied with them at once, and one softmax runs over the prompt and the row's
own tokens. That is the same sum in another order. Memory and its traffic are those of one prompt
instead of G.

Axes, beside the legend of `g2rl.types`: S counts the tokens of a prompt that the cache holds, T
those that a row has for itself, and Q the query heads of all places of a prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from g2rl.engines.caches import ROOM


@dataclass(slots=True)
class _LayerStates:
    """Keys and values of one layer, over K heads."""

    prompt_keys_XSd: Tensor
    """Of the tokens of all prompts but their last; X counts prompts times heads."""
    prompt_values_XSd: Tensor
    keys_BKMd: Tensor
    """Of the tokens that rows have for themselves, with room behind the last."""
    values_BKMd: Tensor


class SharedPrompts:
    """Keys and values of P prompts, and of what B rows have read behind them.

    Args:
        cache: of transformers, behind the prompts without their last tokens.
        mask_PS: 0 on the padding and 1 on the tokens of the prompts that the cache holds.
        prompt_of_row_B: number of each row's prompt.
    """

    def __init__(self, cache: Any, mask_PS: Tensor, prompt_of_row_B: Tensor) -> None:
        self.mask_PS = mask_PS
        self.prompt_of_row_B = prompt_of_row_B
        self.length = 0

        # prompts stand once, rows begin with room for their own tokens
        self.layers: list[_LayerStates] = []
        for layer in cache.layers:
            _, heads, _, dim = layer.keys.shape
            shape = (len(prompt_of_row_B), heads, ROOM, dim)
            prompts = layer.keys.flatten(0, 1), layer.values.flatten(0, 1)
            rooms = layer.keys.new_empty(shape), layer.values.new_empty(shape)
            self.layers.append(_LayerStates(*prompts, *rooms))
        self.heads: int = heads
        self._arrange()

    def begin_step(self) -> None:
        """See `Attention.begin_step`."""
        # more room, now and then
        self.length += 1
        if self.length > self.layers[0].keys_BKMd.shape[2]:
            for states in self.layers:
                states.keys_BKMd = nn.functional.pad(states.keys_BKMd, (0, 0, 0, ROOM))
                states.values_BKMd = nn.functional.pad(states.values_BKMd, (0, 0, 0, ROOM))

    def __call__(
        self, number: int, module: Any, queries: Tensor, keys: Tensor, values: Tensor
    ) -> Tensor:
        """See `Attention.__call__`."""
        # the new token's keys and values behind those of the row's other tokens
        states, own = self.layers[number], self.length
        states.keys_BKMd[:, :, own - 1] = keys[:, :, 0]
        states.values_BKMd[:, :, own - 1] = values[:, :, 0]
        own_keys = states.keys_BKMd[:, :, :own].flatten(0, 1)
        own_values = states.values_BKMd[:, :, :own].flatten(0, 1)

        # R query heads have the same keys
        rows, _, _, dim = queries.shape
        queries_BKRd = queries.reshape(rows, self.heads, -1, dim) * module.scaling

        # scores of the prompt's tokens and of the row's own, under one softmax
        scores_XQS = torch.baddbmm(
            self.mask_X1S, self._by_prompt(queries_BKRd), states.prompt_keys_XSd.transpose(1, 2)
        )
        scores_BKRS = self._by_row(scores_XQS)
        scores_YRT = torch.bmm(queries_BKRd.flatten(0, 1), own_keys.transpose(1, 2))
        scores_BKRT = scores_YRT.view(*queries_BKRd.shape[:3], own)
        weights = torch.cat((scores_BKRS, scores_BKRT), dim=-1).softmax(dim=-1)
        prompt_weights, own_weights = weights.split((scores_BKRS.shape[-1], own), dim=-1)

        # and what they weigh
        from_prompt_XQd = torch.bmm(self._by_prompt(prompt_weights), states.prompt_values_XSd)
        from_own_YRd = torch.bmm(own_weights.flatten(0, 1), own_values)
        out_BKRd = self._by_row(from_prompt_XQd) + from_own_YRd.view_as(queries_BKRd)
        return out_BKRd.reshape(rows, 1, -1)

    def keep(self, index: Tensor) -> None:
        """See `Attention.keep`; prompts without a row go as well."""
        left_P, self.prompt_of_row_B = self.prompt_of_row_B[index].unique(return_inverse=True)
        heads = torch.arange(self.heads, device=index.device)
        left_X = (left_P[:, None] * self.heads + heads).flatten()

        for states in self.layers:
            states.keys_BKMd, states.values_BKMd = (
                states.keys_BKMd[index],
                states.values_BKMd[index],
            )
            if len(left_P) < len(self.mask_PS):
                states.prompt_keys_XSd = states.prompt_keys_XSd[left_X]
                states.prompt_values_XSd = states.prompt_values_XSd[left_X]
        self.mask_PS = self.mask_PS[left_P]
        self._arrange()

    def _arrange(self) -> None:
        """Give each row a place among those of its prompt; prompts have as many places each."""
        prompts = len(self.mask_PS)
        counts_P = torch.bincount(self.prompt_of_row_B, minlength=prompts)
        self.places = int(counts_P.max())

        # the number of a row among those of its prompt
        order_B = self.prompt_of_row_B.argsort(stable=True)
        firsts_P = counts_P.cumsum(0) - counts_P
        ranks_B = torch.empty_like(order_B)
        counted_B = torch.arange(len(order_B), device=order_B.device)
        ranks_B[order_B] = counted_B - firsts_P[self.prompt_of_row_B[order_B]]
        self.place_of_row_B = self.prompt_of_row_B * self.places + ranks_B
        self.is_full = bool((self.place_of_row_B == counted_B).all()) and (
            len(counted_B) == prompts * self.places
        )

        # what is added to the scores of a prompt's tokens, the same for all heads
        dtype = self.layers[0].keys_BKMd.dtype
        added_PS = torch.zeros(self.mask_PS.shape, dtype=dtype, device=self.mask_PS.device)
        added_PS.masked_fill_(self.mask_PS == 0, float("-inf"))
        self.mask_X1S = added_PS.repeat_interleave(self.heads, dim=0).unsqueeze(1)

    def _by_prompt(self, rows_BKRn: Tensor) -> Tensor:
        """What rows have, gathered by prompt and head: (P * K, places * R, n)."""
        _, heads, repeats, width = rows_BKRn.shape
        prompts = len(self.mask_PS)

        # places without a row compute nothing that anybody reads
        placed = rows_BKRn
        if not self.is_full:
            placed = rows_BKRn.new_zeros(prompts * self.places, heads, repeats, width)
            placed[self.place_of_row_B] = rows_BKRn
        by_prompt = placed.reshape(prompts, self.places, heads, repeats, width).transpose(1, 2)
        return by_prompt.reshape(prompts * heads, self.places * repeats, width)

    def _by_row(self, gathered_XQn: Tensor) -> Tensor:
        """The reverse of `_by_prompt`: (B, K, R, n)."""
        prompts, width = len(self.mask_PS), gathered_XQn.shape[-1]
        by_prompt = gathered_XQn.view(prompts, self.heads, self.places, -1, width)
        placed = by_prompt.transpose(1, 2).flatten(0, 1)
        return placed if self.is_full else placed[self.place_of_row_B]
