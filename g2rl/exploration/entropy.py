"""GRPO with an entropy bonus: loss -= coefficient * mean token entropy; rewards stay as they
are."""

from __future__ import annotations

from g2rl.exploration.signal import Stateless
from g2rl.types import GroupBatch, Shaped


class EntropyBonus(Stateless):
    """Entropy of the token distribution at the sampling temperature, averaged over response tokens.

    Args:
        coefficient: in loss units per nat; arXiv 2512.15687 does not state the one of its baseline.
    """

    name = "entropy"
    needs: frozenset[str] = frozenset()

    def __init__(self, coefficient: float = 0.01) -> None:
        if coefficient < 0:
            raise ValueError(f"exploration.coefficient must be >= 0, got {coefficient}")
        self.coefficient = coefficient

    def __call__(self, batch: GroupBatch) -> Shaped:
        return Shaped(rewards_PG=batch.rewards_PG, entropy_coef=self.coefficient)
