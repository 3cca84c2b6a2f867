"""Responses whose log-probabilities are written down while they are drawn.

A few responses of a sampling bear witness to what its tokens were drawn from: their
log-probabilities by the engine's own logits are compared with those of scoring
(`g2rl.engines.drift`). More than a few would cost time and show nothing more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

COUNT = 4
"""Responses of one sampling that are watched."""
TOKENS = 256
"""Tokens of each that are compared, from its beginning."""


def choose(rows: Sequence[int]) -> list[int]:
    """Evenly spaced rows, the first and the last among them; at most `COUNT`."""
    # ordered by length, the first and the last have least and most padding
    count = min(COUNT, len(rows))
    if count < 2:
        return list(rows)
    last = len(rows) - 1
    return [rows[round(number * last / (count - 1))] for number in range(count)]


@dataclass(slots=True)
class Witnesses:
    """The log-probabilities of watched rows, which are numbered as the engine numbers them."""

    temperature: float
    """Of the distribution without truncation that is compared."""
    logps: dict[int, list[float]]
    """Watched rows, with what has been written down of each."""
    places: list[tuple[int, int]] = field(default_factory=list)
    """The watched rows of the present batch, each with its place in it."""
    places_W: Tensor | None = None
    """Their places on the device of the logits, int64."""
    columns: list[Tensor] = field(default_factory=list)
    """Log-probabilities since rows last left the batch, one (W,) tensor a step."""

    def enter(self, rows: Sequence[int], device: torch.device) -> None:
        """Look for watched rows in a batch of these rows, whose logits will be on the device."""
        # a row moves up when others before it leave
        self.places = [(row, place) for place, row in enumerate(rows) if row in self.logps]
        places = [place for _, place in self.places]
        self.places_W = torch.tensor(places, dtype=torch.int64, device=device)

    def see(self, logits_BV: Tensor, tokens_B: Tensor, t: int) -> None:
        """Write down the log-probabilities of the tokens that were drawn from these logits.

        Args:
            logits_BV: as the tokens were drawn from, but not divided by the temperature.
            tokens_B: the tokens.
            t: their number in the responses; those from `TOKENS` on are passed over.
        """
        if not self.places or t >= TOKENS:
            return

        # W rows, a few of many, so that this costs next to nothing beside the sampling
        logps_WV = (logits_BV[self.places_W].float() / self.temperature).log_softmax(-1)
        tokens_W1 = tokens_B[self.places_W].unsqueeze(1)
        self.columns.append(logps_WV.gather(1, tokens_W1).squeeze(1))

    def leave(self) -> None:
        """Transfer what was written down, before rows leave the batch; call `enter` afterwards."""
        if not self.columns:
            return

        # one transfer for all steps since rows last left
        values_WT = torch.stack(self.columns, dim=1).tolist()
        for (row, _), values in zip(self.places, values_WT, strict=True):
            self.logps[row] += values
        self.columns = []
