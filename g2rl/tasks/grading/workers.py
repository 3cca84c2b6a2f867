"""What starts the grading workers, and the functions that run in them.

An item may use so many seconds of its worker's CPU time, whatever else the machine does meanwhile.
When they are up, an exception (`OutOfTimeError`) ends the item, and the worker goes on with the
next. A call in C that lets no exception through is ended together with its worker, by the kernel's
limit of CPU time, `GRACE_SECONDS` later.

Every worker imports this module, so it imports nothing heavy.
"""

from __future__ import annotations

import math
import multiprocessing
import multiprocessing.context
import multiprocessing.spawn
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from g2rl.tasks.grading.verifier import Verifier, are_equivalent, decided, judged
from g2rl.types import Problem, Verdict

GRACE_SECONDS = 1.0
"""CPU seconds beyond its limit after which an item that cannot be interrupted costs its worker."""
TIMEOUT = "timeout"
"""What a call returns, instead of its result, when its time is up."""

_verifier: Verifier | None = None  # of this worker, set once by `initialize`
_cpu_seconds = math.inf  # of each item, set once by `initialize`
_is_running = False  # whether an item may be interrupted now
_end_of_item = math.inf  # CPU time of this process at which the item has used its own
_patching = threading.Lock()  # held while multiprocessing's own function is replaced


class OutOfTimeError(BaseException):
    """The CPU time of an item is up. No `Exception`: the libraries under a verifier catch those."""


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

                # a worker of joblib starts processes its own way, which a new process does not know
                data["start_method"] = "spawn"
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


def initialize(verifier: Verifier, memory_bytes: int, cpu_seconds: float) -> None:
    """Prepare a worker: make it killable, warm the verifier up, bound its memory and time."""
    global _verifier, _cpu_seconds

    # The pool stops a worker by SIGTERM. A handler in Python would run only after the current C
    # call (a big power) has returned, so the default action, an immediate end, is restored.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGPROF, _interrupt)

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
    _cpu_seconds = cpu_seconds


def ready() -> bool:
    """Whether this worker is initialised. The grader asks before it uses a new pool."""
    return _verifier is not None


def grade(completion: str, problem: Problem) -> Verdict | str:
    """Judge one completion in a worker; `TIMEOUT` when its time is up."""
    assert _verifier is not None
    return _within_limit(judged, _verifier, completion, problem)


def decide(answer: str, gold: str) -> Verdict | str:
    """Judge an extracted answer in a worker, for a verifier that screens in the calling process."""
    assert _verifier is not None
    start = time.perf_counter()
    outcome = _within_limit(decided, _verifier, answer, gold)
    if isinstance(outcome, str):
        return outcome
    correct, route = outcome
    return Verdict(correct, answer, route, time.perf_counter() - start)


def equivalent(left: str, right: str) -> bool | str:
    """Compare two extracted answers in a worker; `TIMEOUT` when the time is up."""
    assert _verifier is not None
    return _within_limit(are_equivalent, _verifier, left, right)


def _within_limit(call: Callable[..., Any], *args: Any) -> Any:
    """The result of a call, or `TIMEOUT` when it has used the CPU time of an item."""
    global _is_running, _end_of_item
    _end_of_item = time.process_time() + _cpu_seconds

    # the kernel's limit counts from the start of the process, in whole seconds and by ticks
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    end = math.ceil(_end_of_item + _cpu_seconds / 4 + GRACE_SECONDS)
    if hard == resource.RLIM_INFINITY or end < hard:
        resource.setrlimit(resource.RLIMIT_CPU, (end, hard))

    # the timer repeats, in case that the code under it drops the exception
    try:
        signal.setitimer(signal.ITIMER_PROF, _cpu_seconds, 0.5)
        _is_running = True
        try:
            return call(*args)
        finally:
            _is_running = False
    except OutOfTimeError:
        _is_running = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        _check_health()
        return TIMEOUT
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_CPU, (hard, hard))


def _interrupt(number: int, frame: Any) -> None:
    """End the item that runs, if one does and it has used its CPU time."""
    if not _is_running:
        return

    # the timer counts by ticks, and on a busy machine comes early by a fifth
    left = _end_of_item - time.process_time()
    if left > 0:
        signal.setitimer(signal.ITIMER_PROF, left, 0.5)
        return
    raise OutOfTimeError


def _check_health() -> None:
    """End this worker if the item that was interrupted has left its libraries in disorder."""
    warm_up = getattr(_verifier, "warm_up", None)
    if warm_up is None:
        return
    try:
        warm_up()
    except Exception:
        os._exit(1)
