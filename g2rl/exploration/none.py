"""Plain GRPO: the base rewards, unshaped."""

from __future__ import annotations

from g2rl.exploration.signal import Stateless
from g2rl.types import GroupBatch, Shaped


class NoExploration(Stateless):
    """Returns the base rewards of the verifier as they are: r~ = r."""

    name = "none"
    needs: frozenset[str] = frozenset()

    def __call__(self, batch: GroupBatch) -> Shaped:
        return Shaped(rewards_PG=batch.rewards_PG)
