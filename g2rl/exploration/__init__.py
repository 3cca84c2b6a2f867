"""Exploration signals: which sampled answers are worth reinforcing.

signal          the interface: what a signal needs, gets and returns
token_plan      the interface of signals that act on single tokens
partitions      which responses of a group count as the same
asking          asks a signal, and says what is wrong with one of your own
combined        several signals as one

none            plain GRPO
entropy         an entropy bonus in the loss

Signals that shape rewards:

g2rl            novelty of the gradient direction (G2RL)
evol            novelty among sentence embeddings (EVOL-RL)
darling         quality times diversity (DARLING)
unlikeliness    likely right responses are paid less
repexp          elliptical bonus in representation space (RepExp)
cde             curiosity as surprise (CDE's actor bonus)
determinant     marginal volume of embeddings or gradient features (DQO and relatives)

Signals that replace the advantage:

passk           pass@k in three estimators
maxrl           maximum likelihood of success (MaxRL)
risk_sensitive  exponential utility
nsr             learning from wrong or right responses alone (NSR, PSR, W-REINFORCE)
poly_epo        sets of responses are scored (Poly-EPO)

Signals that change the advantage:

uniqueness      rare strategies (Cue-GRPO, UARL)
ucpo            even credit for right responses (UCPO)
outcome         rare final answers, counted over the run

Signals that act on single tokens or on the loss:

entropy_controller  the entropy bonus, steered towards a target entropy
entropy_advantage   tokens of high entropy are reinforced more
forking_tokens      only tokens of high entropy teach (80/20)
clip_cov            tokens that would lower the entropy most teach nothing (Clip-Cov)
kl_cov              the same tokens are anchored (KL-Cov)

Controls, and the rest:

random_weights  right responses weighed at random
agreement       right responses paid for agreement, the opposite of novelty
encoders/       sentence embeddings, for the signals that need them

docs/signals.md compares them, and shows how to write one.
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
