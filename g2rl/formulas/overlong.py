"""Soft overlong punishment: a response that comes near the token limit loses reward.

DAPO (arXiv 2503.14476, Eq. 13). With the limit L_max and a buffer of L_cache tokens before it, a
response of T tokens loses

    0                                   T <= L_max - L_cache
    (T - (L_max - L_cache)) / L_cache   up to T = L_max, where it is 1

times a penalty. The paper's lengths are L_max = 20,480 and L_cache = 4,096, a fifth; here the
buffer is given as such a share, so that one setting fits every limit. The punishment is taken from
rewards of -1 and +1, after a signal has shaped them, and decides nothing about which groups are
uniform.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(slots=True, frozen=True)
class OverlongShaping:
    """What length costs.

    Args:
        buffer: L_cache / L_max, the last share of the token limit, in [0, 1]; 0 switches it off.
        penalty: reward that a response at the limit loses, >= 0.
        max_tokens: L_max, the token limit of a response.

    Raises:
        ValueError: a buffer or a penalty that cannot be.
    """

    buffer: float = 0.0
    penalty: float = 1.0
    max_tokens: int = 1

    def __post_init__(self) -> None:
        # a share of the token limit; 1 makes every token cost
        if not 0 <= self.buffer <= 1:
            raise ValueError(f"algorithm.overlong_buffer must lie in [0, 1], got {self.buffer}")
        if self.penalty < 0:
            raise ValueError(f"algorithm.overlong_penalty must be >= 0, got {self.penalty}")

    @property
    def is_on(self) -> bool:
        """Whether any length costs anything."""
        return self.buffer > 0 and self.penalty > 0

    def __call__(self, lengths_PG: Tensor) -> Tensor:
        """The reward that each response loses, (P, G) float32, from 0 to the penalty.

        Args:
            lengths_PG: response lengths in tokens.
        """
        # a buffer of 0 would be divided by
        lengths_PG = lengths_PG.to(torch.float32)
        if not self.is_on:
            return torch.zeros_like(lengths_PG)

        # tokens beyond the free part of the limit, in units of the buffer
        cache = self.buffer * self.max_tokens
        excess_PG = lengths_PG - (self.max_tokens - cache)
        return self.penalty * (excess_PG / cache).clamp(0.0, 1.0)
