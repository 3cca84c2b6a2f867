"""The signal interface: rewards of whole groups in, shaped rewards out.

A signal declares what it `needs` and gets just that: "features" (gradient features), "embeddings"
(external encoder), "answers". A signal that needs nothing costs nothing.
"""

from __future__ import annotations

from typing import Any, Protocol

from g2rl.types import GroupBatch, Shaped

NEEDS = frozenset({"features", "embeddings", "answers"})


class Signal(Protocol):
    """One exploration signal."""

    name: str
    needs: frozenset[str]

    def __call__(self, batch: GroupBatch) -> Shaped:
        """Shape the rewards of P whole groups. Must depend on nothing but the batch and own state."""
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
            raise ValueError(f"{type(self).__name__} keeps no state, the checkpoint holds {sorted(state)}")


def missing_need(signal: str, need: str) -> ValueError:
    return ValueError(f"exploration={signal} needs {need}, which this batch does not carry")
