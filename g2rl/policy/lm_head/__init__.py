"""The tiled LM head: log-probabilities, entropies and gradient features without a (T, V) matrix.

With hidden states h_t, head W and temperature tau, p_t = softmax(W h_t / tau). The pass over a
micro-batch takes its tokens tile by tile, a tile being the logits of a few tokens. For every
response token t with token y_t it yields

    log p_t(y_t)                            its log-probability at the sampling temperature
    H_t = -sum_v p_t(v) log p_t(v)          its entropy, in nats
    c   = sum_t a_t (e(y_t) - p_t) / sum_t a_t      residual sum of each response, (V,)

The gradient feature of G2RL (arXiv 2512.15687, Eq. 5-8 and 14) is linear in the token residuals, so
it follows from c by one product a response, Phi = W^T c. This identity makes it nearly free.

Log-probabilities and entropies are differentiable, in one of two ways. Either the backward
recomputes logits from h and W (`tiled`). Or a loss that is a sum over tokens is differentiated in
the forward, while the tile is still there (`fused`). Accumulation is in float32, or in float64 if
the inputs are float64.

In reading order:

    tiles       how large tiles are, and what one tile yields
    tiled       the head whose backward recomputes logits
    fused       the head that differentiates a loss in its forward
    residuals   gradient features from residual sums
    head        one pass over a micro-batch, which chooses between the two heads
"""

from g2rl.policy.lm_head.fused import Objective
from g2rl.policy.lm_head.head import DEFAULT_TILE_BYTES, HeadOutput, head_pass
from g2rl.policy.lm_head.residuals import FeatureRequest

__all__ = ["DEFAULT_TILE_BYTES", "FeatureRequest", "HeadOutput", "Objective", "head_pass"]
