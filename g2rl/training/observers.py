"""Signals that only measure: they look at copies, and whatever goes wrong costs their own metrics.

Each observer is shown a batch of its own, made of what it needs alone. It cannot change a tensor
that training uses, and numbers that are not finite, an encoder that fails or an observer that
raises an error end in one warning and no `observe/NAME/` metrics in that step.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor

from g2rl.engines.colocated import random_state_kept
from g2rl.exploration.asking import ask, embeddings_of
from g2rl.exploration.encoders.encoder import Encoder
from g2rl.exploration.signal import Signal
from g2rl.training.bad_numbers import bad_groups
from g2rl.types import GroupBatch, Shaped

log = logging.getLogger(__name__)


class ObserverError(RuntimeError):
    """What an observer measures cannot be used."""


@dataclass(slots=True)
class Observations:
    """What the observers say of one step."""

    metrics: dict[str, float] = field(default_factory=dict)
    """Named observe/NAME/QUANTITY; those of an observer that failed are its `failed` alone."""
    diagnostics: dict[str, Tensor] = field(default_factory=dict)
    """Columns (P, G) of the geometry table, named observe_NAME_QUANTITY."""
    batch: GroupBatch | None = None
    """The first batch with gradient features that was shown, for the table of cosines."""


class OncePerBatch:
    """An encoder that embeds the same texts once, for the signal and the observers.

    Args:
        encoder: does the work.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encoder, self.name = encoder, encoder.name
        self.texts: list[str] | None = None
        self.embeddings = torch.empty(0, 1)

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Embeddings (N, E), see `Encoder.encode`."""
        if self.texts != list(texts):
            self.embeddings = embeddings_of(self.encoder, texts)
            self.texts = list(texts)
        return self.embeddings


class NeverFails(OncePerBatch):
    """An encoder for observers, whose failure is no error but rows of NaN (N, 1).

    An error on one of several ranks would leave the others waiting for its embeddings.
    """

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Embeddings (N, E); NaN (N, 1) where the encoder fails, and it is not asked again."""
        try:
            return super().encode(texts)
        except Exception as error:
            # a training never depends on what its observers can embed
            log.warning("the encoder of the observers failed: %s", error)
            self.embeddings = torch.full((len(texts), 1), math.nan)
            self.texts = list(texts)
            return self.embeddings


def observe(
    observers: Sequence[Signal], batch_for: Callable[[Signal], GroupBatch], step: int
) -> Observations:
    """Let every observer measure one step.

    Args:
        observers: signals without effect on the training.
        batch_for: assembles what an observer may look at.
        step: the training step, for warnings.
    """
    observations = Observations()
    for observer in observers:
        name = observer.name
        try:
            batch = batch_for(observer)
            observed = _measure(observer, batch)
        except Exception as error:
            # training goes on: nothing of it depends on what observers measure
            log.warning("step %d: the observer %s measured nothing: %s", step, name, error)
            observations.metrics[f"observe/{name}/failed"] = 1.0
            continue

        # under the observer's name
        for quantity, value in observed.metrics.items():
            observations.metrics[f"observe/{name}/{quantity}"] = value
        for quantity, values_PG in observed.diagnostics.items():
            observations.diagnostics[f"observe_{name}_{quantity}"] = values_PG

        # the tables of the step need features from one observer only
        if observations.batch is None and batch.features_PGD is not None:
            observations.batch = batch
    return observations


def _measure(observer: Signal, batch: GroupBatch) -> Shaped:
    """What an observer says of a batch, which it sees in a copy.

    Raises:
        ObserverError: fields that it looks at, or its metrics, are not finite.
        SignalError: what it returns cannot be used, see `g2rl.exploration.asking`.
    """
    bad_fields = bad_groups(batch)
    if bad_fields:
        raise ObserverError(f"non-finite {', '.join(bad_fields)}")

    # an observer that draws random numbers must not change those of the training
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with random_state_kept(device):
        observed = ask(observer, private_copy(batch))

    # a row of metrics must be finite
    for quantity, value in observed.metrics.items():
        if not math.isfinite(value):
            raise ObserverError(f"{quantity} is {value}")
    return observed


def private_copy(batch: GroupBatch) -> GroupBatch:
    """A batch that shares no memory with another one, so that it may be changed."""
    copies = {}
    for one in fields(batch):
        copies[one.name] = copy.deepcopy(getattr(batch, one.name))
    return replace(batch, **copies)
