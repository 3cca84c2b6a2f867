"""What an encoder of texts must offer, and the one check that every encoder's output passes.

An encoder turns N responses into N unit vectors whose cosines say how alike the texts are. It is
used by `exploration=evol` during training and by the semantic side of the geometry analysis. A
failing encoder fails the run: a made-up vector would silently become a reward.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor


class EncoderError(RuntimeError):
    """An encoder returned something that is no embedding; the message names the encoder and the
    text."""


class Encoder(Protocol):
    """Texts in, unit vectors out. Deterministic: the same texts give the same rows."""

    name: str
    """Names the encoder in metrics and figures, e.g. "ngram-1024" or "Qwen/Qwen3-Embedding-4B"."""

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Embed each text.

        Returns:
            (N, E) float32 on the CPU, one row per text in order. Rows have unit L2 norm; the row of
            a text with nothing to embed (see `is_empty`) is zero. N = 0 gives (0, E).

        Raises:
            EncoderError: the model returned a wrong number of rows, a non-finite row, or a zero row
                for a text that is not empty.
        """
        ...


def is_empty(text: str) -> bool:
    """Whether there is nothing to embed: no character other than white space."""
    return not text.strip()


def unit_rows(raw_NE: Tensor, indices: Sequence[int], name: str) -> Tensor:
    """Check the raw output for non-empty texts and divide each row by its L2 norm.

    Args:
        raw_NE: what the model returned, any float dtype, any device.
        indices: for each expected row, the position of its text in the caller's list (for
            messages).
        name: of the encoder.

    Returns:
        (N, E) float32 on the CPU with unit rows.

    Raises:
        EncoderError: shape is not (len(indices), E), or a row is not finite or has no direction.
    """
    # one row a text
    if raw_NE.ndim != 2 or raw_NE.shape[0] != len(indices):
        rows = raw_NE.shape[0] if raw_NE.ndim else 0
        first = f"; text {indices[rows]} is the first without a row" if rows < len(indices) else ""
        raise EncoderError(
            f"{name}: {len(indices)} texts gave an output of shape {tuple(raw_NE.shape)}, expected "
            f"({len(indices)}, E){first}"
        )
    # float64: the squares of a large float32 row may overflow, those of a small one vanish.
    wide_NE = raw_NE.detach().to("cpu", torch.float64)
    norm_N1 = wide_NE.norm(dim=1, keepdim=True)

    # every text that is not empty must have a direction
    for bad_N, what in (
        (~norm_N1[:, 0].isfinite(), "a non-finite row"),
        (norm_N1[:, 0] == 0, "a zero row"),
    ):
        if bad_N.any():
            row = int(bad_N.nonzero()[0])
            raise EncoderError(
                f"{name}: text {indices[row]} gave {what} ({int(bad_N.sum())} such texts)"
            )
    return (wide_NE / norm_N1).float()


def scatter_rows(unit_ME: Tensor, indices: Sequence[int], count: int) -> Tensor:
    """Put M unit rows at `indices` of a (count, E) float32 tensor; the rows of empty texts stay
    zero."""
    out_NE = torch.zeros(count, unit_ME.shape[1])
    out_NE[list(indices)] = unit_ME
    return out_NE
