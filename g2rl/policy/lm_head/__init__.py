"""The tiled LM head: log-probabilities, entropies and gradient features without a (T, V) matrix.

With hidden states h_t, head W and temperature tau, p_t = softmax(W h_t / tau). One pass over tiles
of a few rows yields, for every response token t with token y_t,

    log p_t(y_t)                            its log-probability at the sampling temperature
    H_t = -sum_v p_t(v) log p_t(v)          its entropy, in nats
    c   = sum_t a_t (e(y_t) - p_t) / sum_t a_t      residual sum of each response, (V,)

and the gradient feature of G2RL (arXiv 2512.15687, Eq. 5-8 and 14) follows from c by one product a
response, Phi = W^T c, because it is linear in the token residuals: this is the identity that makes
it free. The first two are differentiable. Neither logits nor probabilities of all tokens ever exist
together: the backward recomputes logits from h and W (`tiled`), or a loss that is a sum over tokens
is differentiated in the forward, while its tile is there (`fused`). Accumulation is in float32
(float64 when the inputs are).
"""

from g2rl.policy.lm_head.fused import Objective
from g2rl.policy.lm_head.head import DEFAULT_TILE_BYTES, HeadOutput, head_pass
from g2rl.policy.lm_head.residuals import FeatureRequest

__all__ = ["DEFAULT_TILE_BYTES", "FeatureRequest", "HeadOutput", "Objective", "head_pass"]
