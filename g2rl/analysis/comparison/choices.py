"""What a user may choose where runs are compared, in one place for every command that does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(slots=True, frozen=True)
class Choices:
    """How runs are compared. Patterns of names may hold ``*``.

    Args:
        by: settings that tell arms apart; none: those that differ.
        metrics: columns of the table, as patterns; none: the usual ones.
        against: label of the arm that is subtracted from the others; None: plain GRPO if it is
            there, or else the first arm.
        family: metrics whose contrasts are tested as one family, as patterns; none: all columns.
        partial: take unfinished runs too, as far as they are.
    """

    by: Sequence[str] = ()
    metrics: Sequence[str] = ()
    against: str | None = None
    family: Sequence[str] = ()
    partial: bool = False

    @property
    def compares(self) -> bool:
        """Whether anything was chosen that makes sense for several runs only."""
        return bool(self.by or self.metrics or self.family) or self.against is not None
