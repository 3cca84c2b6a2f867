"""Stop signals: the run finishes its step, saves it, and leaves with an exit code of its own.

    with StopRequest() as stop:
        trainer.run(state)        # asks stop() after every step

The first of SIGTERM, SIGINT, SIGUSR1 and SIGUSR2 (Slurm's preemption or time limit, Ctrl-C) is only
remembered; the loop asks for it where it can stop without loss. At the same moment the default
actions of all four come back. So a second signal ends the process at once, even inside a long call
into C, and nothing more is lost than by `kill -9`.

Requests nest: a sweep holds one over all its runs, each run one of its own. A stop asked of one
request holds for all that enclose it or lie inside it, so no further run begins.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, Self

log = logging.getLogger(__name__)
EXIT_INTERRUPTED = 75
"""Exit code of a run that was asked to stop and can be continued (EX_TEMPFAIL of sysexits.h)."""
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
"""The signals that ask a run to stop."""
SHOW_CURSOR = b"\x1b[?25h"
"""What makes a terminal show its cursor."""


class Interrupted(Exception):  # noqa: N818  (nothing went wrong)
    """The run stopped on request after a complete step.

    Args:
        step: the last complete step; it is saved.
        number: of the signal that asked.
    """

    def __init__(self, step: int, number: int) -> None:
        super().__init__(
            f"stopped by {signal.Signals(number).name} after step {step}, which is saved: the same "
            "command continues"
        )
        self.step, self.number = step, number


def agreed(number: int) -> int:
    """The largest number that any rank passes, so that all ranks stop after the same step.

    A scheduler may signal some ranks only, and each at another moment. Every rank must call this
    (it is a collective operation). Without torch.distributed it returns `number` itself.
    """
    import torch  # here, so that --help stays quick
    from torch import distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        return number

    # NCCL reduces tensors of the GPU only
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    largest = torch.tensor(number, device=device)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return int(largest)


class StopRequest:
    """A context that remembers the first of `SIGNALS`; calling it gives the signal's number.

    Python delivers signals to the main thread only, so a request that is entered in another thread
    never asks for a stop by itself.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __call__(self) -> int | None:
        """The signal's number, or None if nobody asked for a stop.

        Under torch.distributed all ranks must call it, and all get the same answer.
        """
        return agreed(asked() or self.number or 0) or None

    def __enter__(self) -> Self:
        _entered.append(self)

        # only the main thread may set handlers
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _entered.remove(self)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def remember(self, number: int) -> None:
        """Ask for a stop here and in all requests around this one; the first signal stays."""
        for request in _entered[: _entered.index(self) + 1]:
            request.number = request.number or number

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.remember(number)
        show_cursor()

        # a second signal ends the process
        for other in SIGNALS:
            signal.signal(other, signal.SIG_DFL)
        log.warning(
            "%s: stopping after this step; once more stops at once", signal.Signals(number).name
        )


def show_cursor() -> None:
    """Show the cursor again, which a progress bar hides.

    A second signal ends the process at once, and nothing could give the terminal back any more.
    """
    for stream in (1, 2):
        with suppress(OSError):
            if os.isatty(stream):
                os.write(stream, SHOW_CURSOR)


_entered: list[StopRequest] = []  # outermost first


def asked() -> int | None:
    """The number of the signal that any entered request remembers; None if there is none."""
    for request in _entered:
        if request.number is not None:
            return request.number
    return None


def hand_on(number: int) -> None:
    """Call the handler that a library had set for the signal before any request was entered.

    It is for submitit, whose handler puts a job back into the queue and ends the process. Call it
    when everything is saved. The default actions of Python and of the system are not called.
    """
    # inside a request, the handler of before is the outermost request's to know
    if _entered:
        handler = _entered[0]._before.get(signal.Signals(number))
    else:
        handler = signal.getsignal(number)

    if callable(handler) and handler is not signal.default_int_handler:
        handler(number, None)
