"""Ask a signal, and say what is wrong with a signal of one's own: which class, where, and the mend.

The signals of g2rl raise errors of their own for settings that the user can mend; these pass as
they are. Whatever a signal of the user's own raises becomes a `SignalError`, as with a reward
function (`g2rl.tasks.grading.reward_function`), and so does what cannot be used of any signal. So
it is with partitioners and encoders.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from g2rl.exploration.encoders.encoder import Encoder
from g2rl.exploration.partitions import Partitioner
from g2rl.exploration.signal import NEEDS, Signal
from g2rl.tasks.grading.code_files import class_of, errors_named, words_of
from g2rl.types import GroupBatch, Shaped, fits_a_float

HELP = "docs/write_a_signal.md shows a whole one"
NEED_OF_FIELD = {
    # vectors of responses
    "features_PGD": "features",
    "embeddings_PGE": "embeddings",
    "hidden_PGD": "hidden",
    "reference_hidden_PGD": "reference_hidden",
    # numbers of responses or tokens
    "advantages_PG": "advantages",
    "logp_sum_PG": "logps",
    "logp_mean_PG": "logps",
    "entropy_PG": "entropy",
    "token_entropies": "token_entropy",
    # what was asked and answered
    "answers": "answers",
    "answer_keys": "answers",
    "texts": "texts",
    "problem_ids": "problem_ids",
    "partition_PG": "partition",
}
"""Fields of a batch that are None unless the `needs` of the signal have this."""
TENSORS = ("advantages_PG", "keep_P", "keep_PG")
"""What a signal may give besides rewards, as tensors."""


class SignalError(ValueError):
    """A signal of the user's own is none, failed or returned nonsense; the message names it."""


def check_signal(signal: Any, key: str) -> None:
    """Refuse an object that is no signal, before anything is loaded.

    Args:
        signal: what a node was built into.
        key: the setting that names it, for messages.

    Raises:
        SignalError: it lacks something, or has it in a wrong type.
    """
    who = f"{key}: {class_of(signal)}"
    if not callable(signal):
        raise SignalError(f"{who} cannot be called with a batch; give it a __call__; {HELP}")
    if not isinstance(getattr(signal, "name", None), str):
        raise SignalError(f'{who} has no name; write name = "..." into the class; {HELP}')

    # a need in a list, or a text, would be taken apart
    needs = getattr(signal, "needs", None)
    if not isinstance(needs, set | frozenset):
        got = "no needs" if needs is None else f"needs={needs!r}"
        raise SignalError(
            f"{who} has {got}; write needs = frozenset() into the class, or a set with some of "
            f"{sorted(NEEDS)}; {HELP}"
        )

    # checkpoints ask for these
    for method in ("state_dict", "load_state_dict"):
        if not callable(getattr(signal, method, None)):
            raise SignalError(
                f"{who} has no {method}; derive it from g2rl.exploration.Stateless; {HELP}"
            )


def ask(signal: Signal, batch: GroupBatch) -> Shaped:
    """What a signal says of a batch.

    Raises:
        SignalError: a signal of the user's own raised, or what it returned is no `Shaped` whose
            fields are what `g2rl.types` says; shapes of rewards, advantages and masks are left to
            the caller.
    """
    with named_errors(signal, batch):
        shaped = signal(batch)
    who = f"exploration={signal.name} ({class_of(signal)})"
    if not isinstance(shaped, Shaped):
        raise SignalError(f"{who} returned {_kind_of(shaped)} instead of a Shaped; {HELP}")
    if not isinstance(shaped.rewards_PG, Tensor):
        raise SignalError(f"{who} gave {_kind_of(shaped.rewards_PG)} as rewards, not a tensor")
    for name in TENSORS:
        value = getattr(shaped, name)
        if value is not None and not isinstance(value, Tensor):
            raise SignalError(f"{who} gave {_kind_of(value)} as {name}, not a tensor")
    for name in ("metrics", "diagnostics"):
        value = getattr(shaped, name)
        if not isinstance(value, Mapping):
            raise SignalError(f"{who} gave {_kind_of(value)} as {name}, not a dictionary by name")

    # the loss
    coefficient = shaped.entropy_coef
    if not isinstance(coefficient, int | float) or not fits_a_float(coefficient):
        told = "a huge int" if isinstance(coefficient, int) else repr(coefficient)
        raise SignalError(f"{who}: entropy_coef is no finite number, but {told}")
    if shaped.token_bonus is not None:
        _check_tokens(who, shaped.token_bonus, batch.lengths_PG)

    # what is written down
    _check_numbers(who, shaped.metrics)
    _check_columns(who, shaped.diagnostics, batch.rewards_PG.shape)
    return shaped


def _check_tokens(who: str, bonus: Any, lengths_PG: Tensor) -> None:
    """Refuse a bonus that does not fit the tokens: in one row it would be that of other tokens."""
    # None where there are no numbers in a row
    lengths: list[Any] = []
    for bonus_T in bonus if isinstance(bonus, list | tuple) else ():
        lengths.append(len(bonus_T) if isinstance(bonus_T, Tensor) and bonus_T.dim() == 1 else None)
    if lengths != lengths_PG.flatten().tolist():
        raise SignalError(
            f"{who} gave {_kind_of(bonus)} as token_bonus; it must be a list with one tensor for "
            "each response, with one number for each of its tokens"
        )


def _check_numbers(who: str, metrics: Mapping[str, Any]) -> None:
    """Refuse a metric that is no number of Python: a row of metrics is written as JSON."""
    for name, value in metrics.items():
        if not isinstance(value, int | float):
            raise SignalError(
                f"{who}: metric {name} is {_kind_of(value)}; it must be an int or a float, e.g. "
                "values.mean().item()"
            )
        if isinstance(value, int) and not fits_a_float(value):
            raise SignalError(f"{who}: metric {name} is an int that no float can hold; scale it")


def _check_columns(who: str, diagnostics: Mapping[str, Any], shape: torch.Size) -> None:
    """Refuse a diagnostic that is no column, with one number for every response."""
    for name, values_PG in diagnostics.items():
        if not isinstance(values_PG, Tensor) or values_PG.shape != shape:
            raise SignalError(
                f"{who}: diagnostic {name} is {_kind_of(values_PG)}, the batch has the shape "
                f"{tuple(shape)}; it must be a tensor with one number for each response"
            )


def named_errors(signal: Signal, batch: GroupBatch | None = None) -> AbstractContextManager[None]:
    """Tell whose error it is that a signal of the user's own raises, and where.

    Args:
        signal: is called inside.
        batch: that it looks at, if any.
    """
    who = f"exploration={signal.name} ({class_of(signal)})"
    return errors_named(signal, SignalError, who, lambda error: _mend(error, signal, batch))


def _mend(error: BaseException, signal: Signal, batch: GroupBatch | None) -> str:
    """What helps where the signal looked at a field that it had not asked for, else nothing."""
    if batch is None or "NoneType" not in words_of(error):
        return ""

    # names that the functions on the way to the error look up
    read: set[str] = set()
    for frame, _ in traceback.walk_tb(error.__traceback__):
        read |= {*frame.f_code.co_names}
    for field, need in NEED_OF_FIELD.items():
        if field in read and need not in signal.needs and getattr(batch, field) is None:
            return f"; batch.{field} is None unless it is asked for: name {need!r} in needs"
    return ""


def partition_of(partitioner: Partitioner, batch: GroupBatch) -> Tensor:
    """Which responses of a batch count as the same, (P, G), see `Partitioner`.

    Raises:
        SignalError: a partitioner of the user's own raised, or what it gave is no partition.
    """
    who = f"partition={class_of(partitioner)}"
    with errors_named(partitioner, SignalError, who):
        numbers_PG = partitioner(batch)
    shape = batch.rewards_PG.shape
    if (
        not isinstance(numbers_PG, Tensor)
        or numbers_PG.shape != shape
        or numbers_PG.is_floating_point()
    ):
        raise SignalError(
            f"{who} gave {_kind_of(numbers_PG)}; it must be a tensor of whole numbers of shape "
            f"{tuple(shape)}"
        )
    return numbers_PG


def embeddings_of(encoder: Encoder, texts: Sequence[str]) -> Tensor:
    """Embeddings (N, E) of texts, see `Encoder.encode`.

    Raises:
        SignalError: an encoder of the user's own raised, or what it gave are no rows of numbers.
    """
    who = f"encoder={class_of(encoder)}"
    with errors_named(encoder, SignalError, who):
        rows_NE = encoder.encode(texts)
    is_matrix = isinstance(rows_NE, Tensor) and rows_NE.dim() == 2 and len(rows_NE) == len(texts)
    if not is_matrix or not rows_NE.is_floating_point():
        raise SignalError(
            f"{who} gave {_kind_of(rows_NE)} for {len(texts)} texts; it must be a tensor with one "
            "row of numbers for each"
        )
    return rows_NE


def _kind_of(value: Any) -> str:
    """A value in a message: its type, with dtype and shape of a tensor."""
    if isinstance(value, Tensor):
        return f"a {value.dtype} tensor of shape {tuple(value.shape)}"
    return "None" if value is None else f"a {type(value).__name__}"
