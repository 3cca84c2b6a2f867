"""The signal interface: rewards of whole groups in, shaped rewards or advantages out.

A signal declares in `needs` what it looks at besides rewards and lengths, and a batch carries just
that, so a signal that needs nothing costs nothing:

    features          gradient features of the policy
    embeddings        of an external encoder
    answers           the extracted final answers and their normal forms
    entropy           mean token entropy of each response
    advantages        what the algorithm makes of the base rewards
    logps             log-probability of each response under the policy that sampled it
    token_entropy     entropy of every response token
    hidden            mean last hidden state of each response
    reference_hidden  the same of the frozen initial policy
    problem_ids       ids of the problems
    texts             the decoded responses
    partition         which responses of a group count as the same, by the partitioner

A signal acts at one level (`LEVELS`), which says what it may return and what it combines with:

    reward      shapes rewards; the algorithm makes advantages of them
    estimator   returns advantages in place of the algorithm's
    advantage   changes the advantages of the algorithm or of an estimator
    loss        changes neither, but the loss (an entropy bonus)

A signal that has a method `tokens` acts on single tokens of the loss: see
`g2rl.exploration.token_plan`.

**Reward convention.** `batch.rewards_PG` holds -1 and +1, `batch.r01_PG` 0 and 1. Half of the
published methods are defined on one, half on the other, and most are another method on the wrong
one, so every signal says which it uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from g2rl.types import GroupBatch, Shaped

NEEDS = frozenset(
    {
        # vectors of responses
        "features",
        "embeddings",
        "hidden",
        "reference_hidden",
        # numbers of responses or tokens
        "advantages",
        "logps",
        "entropy",
        "token_entropy",
        # what was asked and answered
        "answers",
        "texts",
        "problem_ids",
        "partition",
    }
)

# where a signal acts
REWARD, ESTIMATOR, ADVANTAGE, LOSS = "reward", "estimator", "advantage", "loss"
LEVELS = (REWARD, ESTIMATOR, ADVANTAGE, LOSS)
"""In the order in which the parts of a combination act."""


class Signal(Protocol):
    """One exploration signal.

    It may also have an attribute `level`, one of `LEVELS` (without it the signal acts on rewards),
    and an attribute `smallest_group`, the fewest responses to a prompt that it is defined for.
    """

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

    level = REWARD
    smallest_group = 1

    def state_dict(self) -> dict[str, Any]:
        """Always empty."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Accept the empty state.

        Raises:
            ValueError: the checkpoint holds the state of another signal.
        """
        # a state would mean that the run began with another signal
        if state:
            raise ValueError(
                f"{type(self).__name__} keeps no state, the checkpoint holds {sorted(state)}"
            )


def level_of(signal: Signal) -> str:
    """The level at which a signal acts.

    Raises:
        ValueError: the signal names a level that does not exist.
    """
    # signals that were written before there were levels shape rewards
    level = getattr(signal, "level", REWARD)
    if level not in LEVELS:
        raise ValueError(f"exploration={signal.name} acts at level {level!r}; there is {LEVELS}")
    return level


def missing_need(signal: str, need: str) -> ValueError:
    """The error to raise when a batch does not carry what a signal needs.

    Args:
        signal: its name.
        need: what is missing, and perhaps how to get it.
    """
    return ValueError(f"exploration={signal} needs {need}, which this batch does not carry")


def refuse_unknown(setting: str, value: str, allowed: Sequence[str]) -> None:
    """Refuse a value that a setting of node `exploration` does not have.

    Raises:
        ValueError: the value is none of those allowed.
    """
    if value not in allowed:
        raise ValueError(f"exploration.{setting} must be one of {tuple(allowed)}, got {value!r}")


def all_needs(
    signals: Sequence[Signal], encoder: bool, partition_needs: frozenset[str] | None = None
) -> frozenset[str]:
    """What several signals need together.

    Args:
        signals: the training signal and those that only observe.
        encoder: whether an encoder is configured.
        partition_needs: what the partitioner looks at; None without one.

    Raises:
        ValueError: a need that does not exist, embeddings where there is no encoder, or a partition
            where there is no partitioner.
    """
    needs: frozenset[str] = frozenset()
    for signal in signals:
        # a misspelt need would never be met
        unknown = set(signal.needs) - NEEDS
        if unknown:
            raise ValueError(
                f"exploration={signal.name} needs {sorted(map(str, unknown))}; there is "
                f"{sorted(NEEDS)}"
            )

        # a partition needs whatever its partitioner looks at
        needs_of_signal = signal.needs
        if "partition" in needs_of_signal:
            if partition_needs is None:
                raise ValueError(
                    f"exploration={signal.name} needs a partition, but no partitioner is "
                    "configured: choose one, e.g. partition=answer"
                )
            needs_of_signal = needs_of_signal | partition_needs

        # nor are embeddings made up
        if "embeddings" in needs_of_signal and not encoder:
            raise ValueError(
                f"exploration={signal.name} needs embeddings, but no encoder is configured: "
                "choose one, e.g. encoder=ngram"
            )
        needs = needs.union(needs_of_signal)
    return needs
