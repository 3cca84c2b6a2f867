"""One pass of the head over the response tokens of a micro-batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from g2rl.policy.lm_head.fused import FusedHead, Objective
from g2rl.policy.lm_head.residuals import FeatureRequest, to_features
from g2rl.policy.lm_head.tiled import TiledHead
from g2rl.policy.lm_head.tiles import tile_columns, tile_rows, wide

DEFAULT_TILE_BYTES = 64 << 20
FUSE_FROM = 4096  # words: below, the head's products are next to nothing in a step
FUSE_ROWS = 64  # measured (V = 49,152, D = 576, two cores): 19 rows a tile 1.10 of recomputing, 78 rows 0.74


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
    """Of an objective that was differentiated in the forward; the gradient goes through it
    alone."""


def fuses(hidden_TD: Tensor, weight_VD: Tensor, rows: int) -> bool:
    """Whether an objective is differentiated in the forward, over tiles of `rows`.

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
) -> HeadOutput:
    """Log-probability and entropy of each response token, and gradient features when asked for.

    Args:
        hidden_TD: last hidden states at the positions that predict the response tokens.
        weight_VD: LM head; bias_V its bias, if it has one.
        targets_T: response tokens y_t (int64).
        temperature: sampling temperature tau > 0; log-probabilities are those of softmax(z / tau).
        features: which response each token belongs to; None skips the features and their cost.
        objective: a loss that is a sum over tokens, as a function of (slice of the T tokens, their
            log-probabilities, their entropies). Where that saves time it is differentiated in this
            pass, and `loss` is set; elsewhere it is not called. Not together with features.
        tile_bytes: memory for one tile of logits, and for the residual sums of the features beside
            it.

    Returns:
        `HeadOutput`; features are detached, the rest is differentiable in hidden, weight and bias;
        with a `loss` it alone is.

    Raises:
        ValueError: for a temperature that is not positive, or features and an objective at once.
    """
    if temperature <= 0 or (features is not None and features.temperature <= 0):
        raise ValueError("the head needs a temperature > 0 (greedy decoding has no distribution)")
    if objective is not None and features is not None:
        raise ValueError(
            "features are taken before the update, an objective in it: ask for one of them"
        )
    sums = 0  # of residuals share the memory of a tile, as far as half of it goes
    if features is not None:
        sums = min(
            features.count * weight_VD.shape[0] * wide(hidden_TD.dtype).itemsize, tile_bytes // 2
        )

    # rows of a tile, in what the sums leave of its memory
    rows = tile_rows(weight_VD.shape[0], tile_bytes - sums, hidden_TD.dtype)
    if objective is not None and fuses(hidden_TD, weight_VD, rows):
        return _fused(hidden_TD, weight_VD, bias_V, targets_T, temperature, rows, objective)

    # otherwise the backward recomputes logits over slices of the vocabulary
    columns = tile_columns(hidden_TD.shape[0], tile_bytes, hidden_TD.dtype)
    logps_T, entropy_T, residual_NV = TiledHead.apply(
        hidden_TD, weight_VD, bias_V, targets_T, temperature, rows, columns, features
    )

    # features follow from the residual sums by one product a response
    output = HeadOutput(logps_T, entropy_T)
    if features is not None:
        with torch.no_grad():
            output.features_ND = to_features(residual_NV, weight_VD, targets_T, features)
    return output


def _fused(*inputs: Any) -> HeadOutput:
    loss, logps_T, entropy_T = FusedHead.apply(*inputs)
    return HeadOutput(logps_T, entropy_T, loss=loss)
