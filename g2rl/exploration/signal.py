"""The signal interface: rewards of whole groups in, shaped rewards out.

A signal declares what it `needs` and gets just that: "features" (gradient features), "embeddings"
(external encoder), "answers", "entropy" (mean token entropy). A signal that needs nothing costs
nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from g2rl.types import GroupBatch, Shaped

NEEDS = frozenset({"features", "embeddings", "answers", "entropy"})


class Signal(Protocol):
    """One exploration signal."""

    name: str
    needs: frozenset[str]

    def __call__(self, batch: GroupBatch) -> Shaped:
        """Shape the rewards of P whole groups. Must depend on nothing but the batch and own
        state."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """State that a checkpoint keeps; {} for a stateless signal."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Stateless:
    """Mixin for signals without state of their own."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:
            raise ValueError(
                f"{type(self).__name__} keeps no state, the checkpoint holds {sorted(state)}"
            )


def missing_need(signal: str, need: str) -> ValueError:
    return ValueError(f"exploration={signal} needs {need}, which this batch does not carry")


def all_needs(signals: Sequence[Signal], encoder: bool) -> frozenset[str]:
    """What some signals need together.

    Raises:
        ValueError: a need that does not exist, or embeddings where there is no `encoder`.
    """
    # each signal's needs must be known, and possible here
    for signal in signals:
        unknown = set(signal.needs) - NEEDS
        if unknown:
            raise ValueError(
                f"exploration={signal.name} needs {sorted(unknown)}; there is {sorted(NEEDS)}"
            )
        if "embeddings" in signal.needs and not encoder:
            raise ValueError(
                f"exploration={signal.name} needs embeddings, but no encoder is configured: choose one, e.g. "
                "encoder=ngram"
            )
    return frozenset().union(*(signal.needs for signal in signals))
