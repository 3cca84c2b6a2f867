"""One pass of the head over the response tokens of a micro-batch: `head_pass`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from g2rl.policy.lm_head.fused import FusedHead, Objective
from g2rl.policy.lm_head.residuals import FeatureRequest, to_features
from g2rl.policy.lm_head.tiled import TiledHead
from g2rl.policy.lm_head.tiles import cap_slopes, tile_columns, tile_rows, wide

DEFAULT_TILE_BYTES = 64 << 20

# vocabulary from which fusing pays; the products of a smaller head are next to nothing in a step
FUSE_FROM = 4096

# tokens of a tile from which fusing pays. Measured with V = 49,152 and D = 576 on two cores: with
# 19 tokens it takes 1.10 times as long as recomputing, with 78 tokens 0.74 times.
FUSE_ROWS = 64


@dataclass(slots=True)
class HeadOutput:
    """What one pass of the head yields for T response tokens of N responses."""

    logps_T: Tensor
    """log p_t(y_t) at the sampling temperature."""
    entropy_T: Tensor
    """Token entropy at the sampling temperature, nats."""
    features_ND: Tensor | None = None
    """Gradient features Phi, float32; None unless asked for. A response without tokens has 0."""
    loss: Tensor | None = None
    """The value of an objective that was differentiated in the forward; None if it was not. If set,
    this is the only differentiable output."""
    hidden_ND: Tensor | None = None
    """Mean last hidden state of each response, float32, detached; None unless asked for. The policy
    adds it, because the head sees other positions. A response without tokens has 0."""


def fuses(hidden_TD: Tensor, weight_VD: Tensor, rows: int) -> bool:
    """Whether an objective is differentiated in the forward, over tiles of `rows` tokens.

    No, if any of these holds: gradients would be accumulated below float32; a tile has too few rows
    to pay for reading and writing the head's gradient; the vocabulary is so small that the head's
    products are next to nothing; autograd is off.
    """
    is_exact = hidden_TD.dtype == weight_VD.dtype == wide(hidden_TD.dtype)
    head_is_large = weight_VD.shape[0] >= FUSE_FROM
    tiles_are_high = rows >= min(FUSE_ROWS, hidden_TD.shape[0])
    return is_exact and head_is_large and tiles_are_high and torch.is_grad_enabled()


def head_pass(
    hidden_TD: Tensor,
    weight_VD: Tensor,
    targets_T: Tensor,
    *,
    temperature: float = 1.0,
    bias_V: Tensor | None = None,
    features: FeatureRequest | None = None,
    objective: Objective | None = None,
    tile_bytes: int = DEFAULT_TILE_BYTES,
    cap: float | None = None,
) -> HeadOutput:
    """Log-probability and entropy of each response token, and gradient features when asked for.

    Args:
        hidden_TD: last hidden states at the positions that predict the response tokens.
        weight_VD: weight of the LM head.
        targets_T: response tokens y_t (int64).
        temperature: sampling temperature tau > 0; log-probabilities are those of softmax(z / tau).
        bias_V: bias of the LM head, if it has one.
        features: which response each token belongs to; None skips the features and their cost.
        objective: a loss that is a sum over tokens, as a function of (slice of the T tokens, their
            log-probabilities, their entropies). If this saves time, it is differentiated in this
            pass and the output has a `loss`; otherwise it is not called. It cannot be combined with
            features.
        tile_bytes: memory for one tile of logits together with the residual sums of the features.
        cap: c of a soft cap, under which logits are c tanh((W h + b) / c); None for none. The
            features then are the gradient of capped logits, Phi = W^T sum_t a_t s_t (e(y_t) - p_t)
            / sum_t a_t with the slopes s = 1 - tanh^2. An objective is not fused under a cap.

    Returns:
        With a `loss`, only the loss is differentiable. Without one, log-probabilities and entropies
        are, with respect to hidden states, weight and bias. Features are always detached.

    Raises:
        ValueError: a temperature is not positive, or features and an objective are both asked for.
    """
    # refuse what has no answer
    if temperature <= 0 or (features is not None and features.temperature <= 0):
        raise ValueError("the head needs a temperature > 0 (greedy decoding has no distribution)")
    if objective is not None and features is not None:
        raise ValueError(
            "features are taken before the update, an objective in it: ask for one of them"
        )

    # residual sums (N, V) take memory from the tile, at most half of it
    vocabulary = weight_VD.shape[0]
    residual_bytes = 0
    if features is not None:
        bytes_of_sums = features.count * vocabulary * wide(hidden_TD.dtype).itemsize
        residual_bytes = min(bytes_of_sums, tile_bytes // 2)
    tile_room = tile_bytes - residual_bytes
    rows = tile_rows(vocabulary, tile_room, hidden_TD.dtype, hidden_TD.device)

    # the head that differentiates the objective in its forward
    if cap is None and objective is not None and fuses(hidden_TD, weight_VD, rows):
        return _fused(hidden_TD, weight_VD, bias_V, targets_T, temperature, rows, objective)

    # the head whose backward recomputes logits, over slices of the vocabulary
    columns = tile_columns(hidden_TD.shape[0], tile_bytes, hidden_TD.dtype)
    logps_T, entropy_T, residual_NV = TiledHead.apply(
        hidden_TD, weight_VD, bias_V, targets_T, temperature, rows, columns, features, cap
    )
    output = HeadOutput(logps_T, entropy_T)
    if features is not None:
        with torch.no_grad():
            slopes_T = None
            if cap is not None:
                slopes_T = _target_slopes(hidden_TD, weight_VD, bias_V, targets_T, cap)
            output.features_ND = to_features(residual_NV, weight_VD, targets_T, features, slopes_T)
    return output


def _target_slopes(
    hidden_TD: Tensor, weight_VD: Tensor, bias_V: Tensor | None, targets_T: Tensor, cap: float
) -> Tensor:
    """Derivative of each target's soft-capped logit for the head's output, (T,)."""
    outputs_T = (hidden_TD * weight_VD[targets_T]).sum(-1, dtype=wide(hidden_TD.dtype))
    if bias_V is not None:
        outputs_T += bias_V[targets_T]
    return cap_slopes(cap * torch.tanh(outputs_T / cap), 1.0, cap)


def _fused(*inputs: Any) -> HeadOutput:
    """The output of `FusedHead`, whose forward takes these inputs."""
    loss, logps_T, entropy_T = FusedHead.apply(*inputs)
    return HeadOutput(logps_T, entropy_T, loss=loss)
