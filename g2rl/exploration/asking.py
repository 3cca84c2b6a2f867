"""Ask a signal, and say what is wrong with a signal of one's own: which class, where, and the mend.

The signals of g2rl raise errors of their own for settings that the user can mend; these pass as
they are. Whatever a signal of the user's own raises becomes a `SignalError`, as with a reward
function (`g2rl.tasks.grading.reward_function`), and so does what cannot be used of any signal.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from g2rl.exploration.signal import NEEDS, Signal
from g2rl.tasks.grading.code_files import class_of, is_of_g2rl, raised
from g2rl.types import GroupBatch, Shaped

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


def refuse_function(target: Callable[..., Any], key: str) -> None:
    """Refuse a function that takes the batch itself in the place of a class.

    Raises:
        SignalError: naming the function.
    """
    # a function that makes a signal of its settings is all right
    if inspect.isfunction(target) and "batch" in inspect.signature(target).parameters:
        raise SignalError(
            f"{key}: {target.__module__}.{target.__name__} is a function; name a class whose "
            f"__call__ takes the batch; {HELP}"
        )


def ask(signal: Signal, batch: GroupBatch) -> Shaped:
    """What a signal says of a batch.

    Raises:
        SignalError: a signal of the user's own raised, or what it returned is no `Shaped` whose
            metrics are numbers and whose diagnostics have the shape (P, G) of the batch.
    """
    with named_errors(signal, batch):
        shaped = signal(batch)
    who = f"exploration={signal.name} ({class_of(signal)})"
    if not isinstance(shaped, Shaped):
        raise SignalError(f"{who} returned {_kind_of(shaped)} instead of a Shaped; {HELP}")
    if not isinstance(shaped.rewards_PG, Tensor):
        raise SignalError(f"{who} gave {_kind_of(shaped.rewards_PG)} as rewards, not a tensor")

    # a row of metrics is written as JSON
    for name, value in shaped.metrics.items():
        if not isinstance(value, int | float):
            raise SignalError(
                f"{who}: metric {name} is {_kind_of(value)}; it must be a number, e.g. "
                "values.mean().item()"
            )

    # a diagnostic is a column, with one number for every response
    for name, values_PG in shaped.diagnostics.items():
        if not isinstance(values_PG, Tensor) or values_PG.shape != batch.rewards_PG.shape:
            raise SignalError(
                f"{who}: diagnostic {name} has shape {tuple(getattr(values_PG, 'shape', ()))}, "
                f"the batch has {tuple(batch.rewards_PG.shape)}; it must be a tensor with one "
                "number for each response"
            )
    return shaped


@contextmanager
def named_errors(signal: Signal, batch: GroupBatch | None = None) -> Iterator[None]:
    """Tell whose error it is that a signal of the user's own raises, and where.

    Args:
        signal: is called inside.
        batch: that it looks at, if any.
    """
    try:
        yield
    except (SignalError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if is_of_g2rl(signal):
            raise
        who = f"exploration={signal.name} ({class_of(signal)})"
        raise SignalError(f"{who} {raised(error)}{_mend(error, batch)}") from error


def _mend(error: Exception, batch: GroupBatch | None) -> str:
    """What helps where the signal looked at a field that it had not asked for, else nothing."""
    if batch is None or "NoneType" not in str(error):
        return ""

    # names that the functions on the way to the error look up
    read: set[str] = set()
    for frame, _ in traceback.walk_tb(error.__traceback__):
        read |= {*frame.f_code.co_names}
    for field, need in NEED_OF_FIELD.items():
        if field in read and getattr(batch, field) is None:
            return f"; batch.{field} is None unless it is asked for: name {need!r} in needs"
    return ""


def _kind_of(value: Any) -> str:
    """A value in a message: its type, and the shape of a tensor."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return "None" if value is None else f"a {type(value).__name__}"
