"""Tiles of logits: how large they may be, and what one of them yields.

A tile holds the logits of a few tokens over the whole vocabulary; its rows are tokens. A slice
holds the logits of all tokens over a part of the vocabulary; its columns are words.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

MAX_TILE_ROWS = 1024  # a tile of a tiny vocabulary would otherwise span hundreds of responses
ROW_STEP = 16  # kernels of matrix products take so many rows at once: 110 take as long as 112
MIN_SLICE = 128
WIDENED_WORDS = 16_384  # rows of a narrow head that are widened at a time
CHUNK = 4096  # columns whose exponentials are taken at once: they stay in a processor's cache
GPU_CHUNK = 32_768  # the same on a GPU, where every chunk costs five launches of kernels

# the backward needs two buffers a slice: log-probabilities, and the entropies' part of the gradient
_SLICE_BUFFERS = 2


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype of sums and exponentials: float32, or float64 for float64."""
    return torch.promote_types(dtype, torch.float32)


def chunk_columns(vocabulary: int, device: torch.device) -> int:
    """Columns of a chunk of a tile on that device."""
    return min(vocabulary, CHUNK if device.type == "cpu" else GPU_CHUNK)


def tile_rows(vocabulary: int, tile_bytes: int, dtype: torch.dtype, device: torch.device) -> int:
    """Tokens of a tile whose logits and one chunk of exponentials fit `tile_bytes`.

    At least 1 and at most MAX_TILE_ROWS. Above ROW_STEP it is a multiple of it.
    """
    # a row needs room for its logits, and for a chunk of their exponentials
    bytes_of_row = (vocabulary + chunk_columns(vocabulary, device)) * wide(dtype).itemsize
    rows = max(1, min(tile_bytes // bytes_of_row, MAX_TILE_ROWS))
    return rows - rows % ROW_STEP if rows > ROW_STEP else rows


def tile_columns(tokens: int, tile_bytes: int, dtype: torch.dtype) -> int:
    """Words of a slice of the vocabulary whose buffers fit `tile_bytes`, at least MIN_SLICE."""
    bytes_of_column = max(tokens, 1) * wide(dtype).itemsize * _SLICE_BUFFERS
    return max(MIN_SLICE, tile_bytes // bytes_of_column)


def tiles(total: int, size: int) -> Iterator[slice]:
    """Cut 0..total-1 into slices of `size`, the last one shorter."""
    for first in range(0, total, size):
        yield slice(first, min(first + size, total))


def chunks(tile: Tensor) -> Iterator[slice]:
    """Cut the columns of a tile into chunks, see `chunk_columns`."""
    return tiles(tile.shape[1], chunk_columns(tile.shape[1], tile.device))


def as_matrix(buffer: Tensor, rows: int, columns: int) -> Tensor:
    """View the start of a reused buffer as a (rows, columns) matrix.

    Every tile uses the same buffer, because allocating anew costs page faults.
    """
    return buffer[: rows * columns].view(rows, columns)


def new_buffers(hidden_TD: Tensor, vocabulary: int, rows: int) -> tuple[Tensor, Tensor]:
    """Two flat buffers: for the logits of a tile, and for one chunk of their exponentials.

    Args:
        hidden_TD: all tokens; dtype and device of the buffers follow from it.
        vocabulary: number of words V.
        rows: number of tokens in a tile.
    """
    # a micro-batch may have fewer tokens than a tile has room for
    most_rows = min(rows, hidden_TD.shape[0])
    dtype = wide(hidden_TD.dtype)
    tile_buffer = hidden_TD.new_empty(most_rows * vocabulary, dtype=dtype)
    chunk = chunk_columns(vocabulary, hidden_TD.device)
    chunk_buffer = hidden_TD.new_empty(most_rows * chunk, dtype=dtype)
    return tile_buffer, chunk_buffer


def tile_logits(
    hidden: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    temperature: float,
    buffer: Tensor,
    cap: float | None = None,
) -> Tensor:
    """Logits of n tokens divided by the temperature, (n, V), float32 or wider.

    Args:
        hidden: hidden states of the tokens, (n, D).
        weight_VD, bias_V: the head, or a slice of it.
        temperature: tau.
        buffer: flat memory that the logits are written to.
        cap: c of a soft cap c tanh(z / c) before the temperature; None for none.
    """
    logits = as_matrix(buffer, hidden.shape[0], weight_VD.shape[0])
    _product(hidden, weight_VD, logits)

    # in the order in which the model does it: bias, soft cap, temperature
    if bias_V is not None:
        logits.add_(bias_V)
    if cap is not None:
        logits.div_(cap).tanh_().mul_(cap)
    if temperature != 1.0:
        logits.div_(temperature)
    return logits


def _product(hidden: Tensor, weight_VD: Tensor, logits: Tensor) -> None:
    """Write hidden @ weight_VD.T to `logits`, whose dtype may be wider than theirs.

    Narrow inputs are multiplied and added up without rounding the result to their dtype: that would
    cost 0.03 nats a token in bfloat16, more than an update changes.
    """
    # without a temporary if the dtypes agree
    if hidden.dtype == logits.dtype:
        torch.mm(hidden, weight_VD.T, out=logits)
        return

    # a GPU multiplies bfloat16 into float32
    if hidden.device.type == "cuda":
        torch.mm(hidden, weight_VD.T, out_dtype=logits.dtype, out=logits)
        return

    # a CPU does not: some rows of the head are widened at a time
    wide_hidden = hidden.to(logits.dtype)
    for words in tiles(weight_VD.shape[0], WIDENED_WORDS):
        torch.mm(wide_hidden, weight_VD[words].to(logits.dtype).T, out=logits[:, words])


def cap_slopes(logits: Tensor, temperature: float, cap: float) -> Tensor:
    """Derivative of soft-capped logits for the head's outputs, 1 - tanh^2, of the same shape.

    Args:
        logits: what `tile_logits` yields, capped and divided by the temperature.
        temperature: tau.
        cap: c.
    """
    return (logits * (temperature / cap)).square_().neg_().add_(1.0)


class TileScores(NamedTuple):
    """What the n tokens of a tile yield, each (n,)."""

    logps: Tensor
    """Log-probabilities of the targets."""
    entropies: Tensor
    """Token entropies, nats."""
    log_norms: Tensor
    """log sum_v exp z_v."""
    sums: Tensor
    """sum_v exp(z_v - max z), the sums of the exponentials that the tile now holds."""


def tile_scores(logits: Tensor, targets: Tensor, chunk_buffer: Tensor) -> TileScores:
    """Log-probability of the target, entropy and normaliser of each token of a tile.

    Args:
        logits: z, (n, V); overwritten by exp(z - max z).
        targets: the sampled tokens, (n,) int64.
        chunk_buffer: working memory for one chunk of columns.
    """
    # subtract the largest logit, so that no exponential overflows
    peak = logits.amax(-1, keepdim=True)
    shifted = logits.sub_(peak)
    target_logits = shifted.gather(1, targets.unsqueeze(1)).squeeze(1)

    # H = log Z - sum_v p_v z_v, for the shifted z and their Z
    sums, weighted_sums = _exponentials(shifted, chunk_buffer)
    log_sums = sums.log()
    return TileScores(
        logps=target_logits - log_sums,
        entropies=log_sums - weighted_sums / sums,
        log_norms=log_sums + peak.squeeze(1),
        sums=sums,
    )


def _exponentials(shifted: Tensor, chunk_buffer: Tensor) -> tuple[Tensor, Tensor]:
    """Replace logits z by exp(z) in place, and return sum_v exp(z_v) and sum_v exp(z_v) z_v, (n,).

    A chunk of columns is treated at a time, so that no second tile is needed.
    """
    sums = shifted.new_zeros(shifted.shape[0])
    weighted_sums = shifted.new_zeros(shifted.shape[0])
    for columns in chunks(shifted):
        values = shifted[:, columns]
        exp = torch.exp(values, out=as_matrix(chunk_buffer, *values.shape))
        sums += exp.sum(-1)
        weighted_sums += torch.einsum("tv,tv->t", exp, values)

        # z is no longer needed
        values.copy_(exp)
    return sums, weighted_sums
