"""Tiles of logits: how much of them fits a limit of memory, and what one of a few whole rows
yields."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

MAX_TILE_ROWS = 1024  # a tile of a tiny vocabulary would otherwise span hundreds of responses
MIN_SLICE = 128
CHUNK = 4096  # columns whose exponentials are taken at once
_BUFFERS = (
    2  # of a slice in the backward: log-probabilities, and the entropy's part of the gradient
)


def wide(dtype: torch.dtype) -> torch.dtype:
    """What sums and exponentials are taken in: float32, or float64 for float64."""
    return torch.promote_types(dtype, torch.float32)


def tile_rows(vocabulary: int, tile_bytes: int, dtype: torch.dtype) -> int:
    """Rows of a tile whose logits and one chunk of exponentials fit `tile_bytes`, 1 to
    MAX_TILE_ROWS."""
    row = (vocabulary + min(vocabulary, CHUNK)) * wide(dtype).itemsize
    return max(1, min(tile_bytes // row, MAX_TILE_ROWS))


def tile_columns(tokens: int, tile_bytes: int, dtype: torch.dtype) -> int:
    """Words of a slice of the vocabulary whose buffers fit `tile_bytes`, at least MIN_SLICE."""
    return max(MIN_SLICE, tile_bytes // (max(tokens, 1) * wide(dtype).itemsize * _BUFFERS))


def tiles(total: int, size: int) -> Iterator[slice]:
    """Cut 0..total-1 into slices of `size`, the last one shorter."""
    for first in range(0, total, size):
        yield slice(first, min(first + size, total))


def chunks(columns: int) -> Iterator[slice]:
    """Cut the columns of a tile where a chunk of them stays in the cache."""
    return tiles(columns, CHUNK)


def room(buffer: Tensor, rows: int, columns: int) -> Tensor:
    """View the start of a reused buffer as a (rows, columns) matrix.

    Every tile uses the same buffer, because allocating anew costs page faults.
    """
    return buffer[: rows * columns].view(rows, columns)


def buffers(hidden_TD: Tensor, vocabulary: int, rows: int) -> tuple[Tensor, Tensor]:
    """For the logits of a tile, and for one chunk of their exponentials."""
    most = min(rows, hidden_TD.shape[0])
    sizes = (most * vocabulary, most * min(CHUNK, vocabulary))
    logits, chunk = (hidden_TD.new_empty(size, dtype=wide(hidden_TD.dtype)) for size in sizes)
    return logits, chunk


def tile_logits(
    hidden: Tensor, weight_VD: Tensor, bias_V: Tensor | None, temperature: float, buffer: Tensor
) -> Tensor:
    """Logits of one tile divided by the temperature, in the flat `buffer` (float32 or wider)."""
    # W h, straight into the buffer where the dtypes agree
    logits = room(buffer, hidden.shape[0], weight_VD.shape[0])
    if hidden.dtype == logits.dtype:
        torch.mm(hidden, weight_VD.T, out=logits)
    else:
        logits.copy_(hidden @ weight_VD.T)
    if bias_V is not None:
        logits.add_(bias_V)
    return logits.div_(temperature) if temperature != 1.0 else logits


class TileScores(NamedTuple):
    """What the n tokens of a tile yield, each (n,)."""

    logps: Tensor
    entropies: Tensor
    log_norms: Tensor
    """log sum_v exp z_v."""
    sums: Tensor
    """Of the exponentials that the tile holds now."""


def tile_scores(logits: Tensor, targets: Tensor, chunk: Tensor) -> TileScores:
    """Log-probability of the targets, entropy and normaliser; turns logits z into exp(z - max z) in
    place."""
    # shift by the largest logit, so that exponentials do not overflow
    peak = logits.amax(-1, keepdim=True)
    shifted = logits.sub_(peak)
    target_logits = shifted.gather(1, targets.unsqueeze(1)).squeeze(1)

    # sums over the vocabulary
    sums, weighted = _exponentials(shifted, chunk)
    log_sums = sums.log()
    # H = log Z - sum_v p_v (z_v - max z)
    return TileScores(
        target_logits - log_sums, log_sums - weighted / sums, log_sums + peak.squeeze(1), sums
    )


def _exponentials(shifted: Tensor, chunk: Tensor) -> tuple[Tensor, Tensor]:
    """Turn z - max z into exponentials in place; returns the sums of exp(z) and exp(z) z of each
    row.

    A chunk of columns at a time: no second tile is needed, and a chunk stays in the cache.
    """
    norm, weighted = (shifted.new_zeros(shifted.shape[0]) for _ in range(2))
    for part in chunks(shifted.shape[1]):
        # sum of exp(z) and of exp(z) z
        values = shifted[:, part]
        exp = torch.exp(values, out=room(chunk, *values.shape))
        norm += exp.sum(-1)
        weighted += torch.einsum("tv,tv->t", exp, values)
        values.copy_(exp)
    return norm, weighted
