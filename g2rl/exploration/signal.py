"""The signal interface: rewards of whole groups in, shaped rewards out.

A signal declares in `needs` what it looks at besides rewards and lengths, and a batch carries just
that, so a signal that needs nothing costs nothing:

    features     gradient features of the policy
    embeddings   of an external encoder
    answers      the extracted final answers
    entropy      mean token entropy of each response
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from g2rl.types import GroupBatch, Shaped

NEEDS = frozenset({"features", "embeddings", "answers", "entropy"})


class Signal(Protocol):
    """One exploration signal."""

    name: str
    """As in exploration=NAME."""
    needs: frozenset[str]
    """Part of `NEEDS`."""

    def __call__(self, batch: GroupBatch) -> Shaped:
        """Shape the rewards of P whole groups, from the batch and the signal's own state alone."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """State that a checkpoint keeps; {} for a stateless signal."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the state that a checkpoint kept."""
        ...


class Stateless:
    """Base class of signals that keep nothing from one batch to the next."""

    def state_dict(self) -> dict[str, Any]:
        """Always empty."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Accept the empty state.

        Raises:
            ValueError: the checkpoint holds the state of another signal.
        """
        if state:
            raise ValueError(
                f"{type(self).__name__} keeps no state, the checkpoint holds {sorted(state)}"
            )


def missing_need(signal: str, need: str) -> ValueError:
    """The error to raise when a batch does not carry what a signal needs.

    Args:
        signal: its name.
        need: what is missing, and perhaps how to get it.
    """
    return ValueError(f"exploration={signal} needs {need}, which this batch does not carry")


def all_needs(signals: Sequence[Signal], encoder: bool) -> frozenset[str]:
    """What several signals need together.

    Args:
        signals: the training signal and those that only observe.
        encoder: whether an encoder is configured.

    Raises:
        ValueError: a need that does not exist, or embeddings where there is no encoder.
    """
    needs: frozenset[str] = frozenset()
    for signal in signals:
        unknown = set(signal.needs) - NEEDS
        if unknown:
            raise ValueError(
                f"exploration={signal.name} needs {sorted(unknown)}; there is {sorted(NEEDS)}"
            )
        if "embeddings" in signal.needs and not encoder:
            raise ValueError(
                f"exploration={signal.name} needs embeddings, but no encoder is configured: "
                "choose one, e.g. encoder=ngram"
            )
        needs = needs.union(signal.needs)
    return needs
