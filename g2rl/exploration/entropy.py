"""GRPO with an entropy bonus in the loss; rewards stay as they are."""

from __future__ import annotations

from g2rl.exploration.signal import LOSS, Stateless
from g2rl.types import GroupBatch, Shaped


class EntropyBonus(Stateless):
    """loss -= coefficient * mean token entropy, the baseline of arXiv 2512.15687.

    The entropy is that of the token distribution at the sampling temperature, averaged over
    response tokens.

    Args:
        coefficient: in loss units per nat, >= 0. The paper does not state its value.
    """

    name = "entropy"
    level = LOSS
    needs: frozenset[str] = frozenset()

    def __init__(self, coefficient: float = 0.01) -> None:
        if coefficient < 0:
            raise ValueError(f"exploration.coefficient must be >= 0, got {coefficient}")
        self.coefficient = coefficient

    def __call__(self, batch: GroupBatch) -> Shaped:
        # rewards stay as they are
        return Shaped(rewards_PG=batch.rewards_PG, entropy_coef=self.coefficient)
