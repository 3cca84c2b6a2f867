"""Ctrl-C before a command has begun its work: one line and exit code 130, whatever is imported.

A library that is interrupted in its import raises whatever it likes, so nothing is raised here: the
process ends. Nothing of g2rl and no library is imported, because Ctrl-C would still be a traceback
until then.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_CTRL_C = 130
"""Exit code of a command that Ctrl-C has ended before there was anything to save."""


@contextmanager
def quiet_ctrl_c() -> Iterator[None]:
    """Let Ctrl-C end the process with one line, until this ends or `work_begins` is called."""
    # only the main thread may set handlers; it has Python's own when a user started the command
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _leave)
    try:
        yield
    finally:
        work_begins()


def work_begins() -> None:
    """From now on Ctrl-C is a KeyboardInterrupt again, because there are things to close or save.

    It must come before anything that remembers the handler of before, as `StopRequest` does.
    """
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave(number: int, frame: FrameType | None) -> None:
    """End the process; what Python has printed half may not be printed from here."""
    os.write(2, b"\ninterrupted before anything began\n")
    os._exit(EXIT_CTRL_C)
