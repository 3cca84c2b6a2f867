"""The interface of encoders, and the check that the output of each of them passes.

An encoder turns N responses into N unit vectors whose cosines say how alike the texts are. It is
used by `exploration=evol` during training and by the semantic side of the geometry analysis. A
failing encoder fails the run: a made-up vector would silently become a reward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from g2rl.formulas.tensors import unit_rows_float64


@dataclass(slots=True, frozen=True)
class EncoderMemory:
    """What an encoder takes on its device, in bytes."""

    device: torch.device
    weights: int
    forward: int
    """What its largest forward takes besides: an estimate."""
    is_offloaded: bool
    """Whether its weights are in host memory between encodings."""


class EncoderError(RuntimeError):
    """An encoder returned no embedding of a text; the message names the encoder and the text."""


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


def checked_unit_rows(raw_NE: Tensor, indices: Sequence[int], name: str) -> Tensor:
    """Check the raw output for texts that are not empty, and divide each row by its L2 norm.

    Args:
        raw_NE: what the model returned, of any floating-point type, on any device.
        indices: for each expected row, the place of its text in the caller's list, for messages.
        name: of the encoder.

    Returns:
        (N, E) float32 on the CPU with unit rows.

    Raises:
        EncoderError: shape is not (len(indices), E), or a row is not finite or has no direction.
    """
    # a row is missing, or one is too many
    if raw_NE.ndim != 2 or raw_NE.shape[0] != len(indices):
        message = (
            f"{name}: {len(indices)} texts gave an output of shape {tuple(raw_NE.shape)}, expected "
            f"({len(indices)}, E)"
        )
        row_count = raw_NE.shape[0] if raw_NE.ndim else 0
        if row_count < len(indices):
            message += f"; text {indices[row_count]} is the first without a row"
        raise EncoderError(message)

    # a text that is not empty must have a direction
    unit_NE, norm_N = unit_rows_float64(raw_NE.detach().cpu())
    defects = ((~norm_N.isfinite(), "a non-finite row"), (norm_N == 0, "a zero row"))
    for bad_N, defect in defects:
        if bad_N.any():
            row = int(bad_N.nonzero()[0])
            raise EncoderError(
                f"{name}: text {indices[row]} gave {defect} ({int(bad_N.sum())} such texts)"
            )
    return unit_NE.float()


def scatter_rows(unit_ME: Tensor, indices: Sequence[int], count: int) -> Tensor:
    """Embeddings of all texts from those of the texts that are not empty.

    Args:
        unit_ME: unit rows of the M texts that are not empty.
        indices: the places of these texts among all.
        count: N, the number of all texts.

    Returns:
        (N, E) float32; the rows of empty texts are zero.
    """
    embeddings_NE = torch.zeros(count, unit_ME.shape[1])
    embeddings_NE[list(indices)] = unit_ME
    return embeddings_NE
