"""Exploration signals: which sampled answers are worth reinforcing.

signal      the interface: what a signal needs, gets and returns
token_plan  the interface of signals that act on single tokens
none        plain GRPO
entropy     an entropy bonus in the loss
entropy_controller  the same, steered towards a target entropy
entropy_advantage   tokens of high entropy are reinforced more
forking_tokens      only tokens of high entropy teach (80/20)
clip_cov            tokens that would lower the entropy most teach nothing (Clip-Cov)
kl_cov              the same tokens are anchored (KL-Cov)
partitions  which responses of a group count as the same
evol        novelty among sentence embeddings (EVOL-RL)
g2rl        novelty of the gradient direction (G2RL)
encoders/   sentence embeddings, for the signals that need them

The names below are all that a signal of your own needs; the README shows one in 25 lines.
"""

from g2rl.exploration.signal import NEEDS, Signal, Stateless, all_needs, missing_need
from g2rl.exploration.token_plan import TokenPlan, TokenView, merge_plans, top_tokens
from g2rl.types import GroupBatch, Shaped

__all__ = [
    "NEEDS",
    "GroupBatch",
    "Shaped",
    "Signal",
    "Stateless",
    "TokenPlan",
    "TokenView",
    "all_needs",
    "merge_plans",
    "missing_need",
    "top_tokens",
]
