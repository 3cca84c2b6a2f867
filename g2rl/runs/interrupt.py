"""Stop signals: finish the step, save, leave with a code of its own; a second one ends at once.

    with StopRequest() as stop:
        trainer.run(state)        # asks stop() after every step

The first of SIGTERM, SIGINT, SIGUSR1 and SIGUSR2 (Slurm's preemption or time limit, Ctrl-C) is
remembered; whoever runs the loop asks for it where it can stop without loss. With it the default
action of all of them comes back, so that a second one ends the process even inside a long call into
C; nothing more is lost than by `kill -9`.

Requests nest: a sweep holds one over all its runs, each run one of its own. A stop asked of one
request holds for all that enclose it or lie inside it, so no further run begins.
"""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

log = logging.getLogger(__name__)
EXIT_INTERRUPTED = 75
"""Exit code of a run that was asked to stop and can be continued (EX_TEMPFAIL of sysexits.h)."""
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


class Interrupted(Exception):  # noqa: N818  (nothing went wrong)
    """The run stopped on request after a complete step."""

    def __init__(self, step: int, number: int) -> None:
        super().__init__(
            f"stopped by {signal.Signals(number).name} after step {step}, which is saved: the same command "
            "continues"
        )
        self.step, self.number = step, number


def agreed(number: int) -> int:
    """The largest number of all ranks, so that every rank stops after the same step; collective.

    A scheduler may signal some ranks only, and each at another moment. Without torch.distributed it
    is the number itself.
    """
    import torch  # here, so that --help stays quick
    from torch import distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        return number
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"

    # the largest of all ranks
    flag = torch.tensor(number, device=device)
    dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return int(flag)


class StopRequest:
    """Remembers the first of SIGNALS while it is entered; calling it gives its number, or None.

    Python delivers signals to the main thread only; entered elsewhere it never asks for a stop.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __call__(self) -> int | None:
        """The signal's number, or None. Under torch.distributed every rank gets the same answer."""
        return agreed(asked() or self.number or 0) or None

    def __enter__(self) -> Self:
        _entered.append(self)

        # only the main thread gets signals
        if threading.current_thread() is threading.main_thread():
            self._before = {one: signal.signal(one, self._remember) for one in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _entered.remove(self)
        for one, handler in self._before.items():
            signal.signal(one, handler)

    def remember(self, number: int) -> None:
        """Ask this one to stop, and all that it is nested in."""
        for request in _entered[: _entered.index(self) + 1]:
            request.number = request.number or number

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.remember(number)

        # a second one ends the process
        for one in SIGNALS:
            signal.signal(one, signal.SIG_DFL)
        log.warning(
            "%s: stopping after this step; once more stops at once", signal.Signals(number).name
        )


_entered: list[StopRequest] = []  # outermost first


def asked() -> int | None:
    """The number of the signal that any entered request has seen; None without."""
    return next((request.number for request in _entered if request.number is not None), None)


def hand_on(number: int) -> None:
    """Call the handler that the signal had before any request was entered, if a library had set
    one.

    For submitit, whose handler puts a job back into the queue and ends the process; to be called
    when all is saved. The default actions of Python and of the system are not called.
    """
    # the handler of before, unless it is a default
    before = (
        _entered[0]._before.get(signal.Signals(number)) if _entered else signal.getsignal(number)
    )
    if callable(before) and before is not signal.default_int_handler:
        before(number, None)
