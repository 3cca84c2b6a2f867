"""What starts the grading workers, and the functions that run in them.

Every worker imports this module, so it imports nothing heavy.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.context
import multiprocessing.spawn
import resource
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from g2rl.tasks.grading.verifier import Verifier
from g2rl.types import Problem, Verdict

_verifier: Verifier | None = None  # of this worker, set once by `initialize`
_patching = threading.Lock()  # held while multiprocessing's own function is replaced


class _LightProcess(multiprocessing.context.SpawnProcess):
    """A spawned process that does not import the parent's __main__ and never sees Ctrl-C.

    A worker must start whatever __main__ is (a notebook, stdin, pytest, an unguarded script), and
    must not pay for the torch that it imports. Ctrl-C reaches every process of the terminal, but
    the trainer finishes its step first and needs its workers for that.
    """

    @staticmethod
    def _Popen(process_obj: Any) -> Any:
        with _main_hidden(), _interrupt_blocked():
            return multiprocessing.context.SpawnProcess._Popen(process_obj)


class LightContext(multiprocessing.context.SpawnContext):
    """The spawn context with processes that leave __main__ alone."""

    Process = _LightProcess


@contextmanager
def _main_hidden() -> Iterator[None]:
    """Leave __main__ out of what this thread tells a new process; other threads are unaffected."""
    with _patching:
        original = multiprocessing.spawn.get_preparation_data
        this_thread = threading.get_ident()

        def without_main(name: str) -> dict[str, Any]:
            data = original(name)
            # another thread may start a process of its own while the function is replaced
            if threading.get_ident() == this_thread:
                data.pop("init_main_from_name", None)
                data.pop("init_main_from_path", None)
            return data

        multiprocessing.spawn.get_preparation_data = without_main
        try:
            yield
        finally:
            multiprocessing.spawn.get_preparation_data = original


@contextmanager
def _interrupt_blocked() -> Iterator[None]:
    """Block SIGINT in this thread. A process that it starts inherits the mask, and so never sees
    one."""
    mask_before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask_before)


def initialize(verifier: Verifier, memory_bytes: int) -> None:
    """Prepare a worker: make it killable, warm the verifier up, bound the address space."""
    global _verifier

    # The pool stops a worker by SIGTERM. A handler in Python would run only after the current C
    # call (a big power) has returned, so the default action, an immediate end, is restored.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    # import what grading needs before the memory limit and the clock of an item apply
    warm_up = getattr(verifier, "warm_up", None)
    if warm_up is not None:
        warm_up()

    # an administrator's own (hard) limit may be lower; a worker at its limit leaves no core file
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = memory_bytes
    if hard != resource.RLIM_INFINITY:
        limit = min(memory_bytes, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _verifier = verifier


def ready() -> bool:
    """Whether this worker is initialised. The grader asks before it uses a new pool."""
    return _verifier is not None


def grade(completion: str, problem: Problem) -> Verdict:
    """Judge one completion in a worker."""
    assert _verifier is not None
    return _verifier.grade(completion, problem)


def decide(answer: str, gold: str) -> Verdict:
    """Judge an extracted answer in a worker, for a verifier that screens in the calling process."""
    start = time.perf_counter()
    correct, route = _verifier.decide(answer, gold)  # type: ignore[union-attr]
    return Verdict(correct, answer, route, time.perf_counter() - start)


def equivalent(left: str, right: str) -> bool:
    """Compare two extracted answers in a worker."""
    assert _verifier is not None
    return _verifier.equivalent(left, right)
