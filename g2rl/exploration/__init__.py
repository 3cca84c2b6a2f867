"""Exploration signals: which sampled answers are worth reinforcing.

signal      the interface: what a signal needs, gets and returns
none        plain GRPO
entropy     an entropy bonus in the loss
partitions  which responses of a group count as the same
evol        novelty among sentence embeddings (EVOL-RL)
g2rl        novelty of the gradient direction (G2RL)
encoders/   sentence embeddings, for the signals that need them

The names below are all that a signal of your own needs; the README shows one in 25 lines.
"""

from g2rl.exploration.signal import NEEDS, Signal, Stateless, all_needs, missing_need
from g2rl.types import GroupBatch, Shaped

__all__ = ["NEEDS", "GroupBatch", "Shaped", "Signal", "Stateless", "all_needs", "missing_need"]
