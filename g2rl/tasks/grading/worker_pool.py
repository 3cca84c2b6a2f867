"""Worker processes that are kept running: a pool that breaks down is replaced.

The pool is pebble's. It answers what it has taken in when it breaks down, but not what is still in
its queue; and a worker that is killed at the wrong moment takes a job with it, or the lock by which
workers take jobs. Whoever waits here is told when a job will not be answered, and may give it
again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, TimeoutError, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pickle import PicklingError
from typing import Any

from pebble import ProcessExpired, ProcessPool

from g2rl.tasks.grading import workers
from g2rl.tasks.grading.verifier import Verifier

MAX_TASKS = 5000
"""A worker is replaced after this many items, because the parsers' caches grow without bound."""
LOOK_SECONDS = 1.0
"""After so long a wait by the clock the pool is looked at."""
STUCK_SECONDS = 60.0
"""A pool that has jobs and works on none of them for so long has lost them."""
START_SECONDS = 600.0
"""A pool that is not ready after this many seconds cannot start."""
ATTEMPTS = 3
"""How often a job is given to a pool, and a pool that ran before is started again."""

# what pebble and pickle raise when a worker does not come up
_START_ERRORS = (
    BrokenProcessPool,
    ProcessExpired,
    TimeoutError,
    PicklingError,
    AttributeError,
    TypeError,
)


@dataclass(slots=True, frozen=True)
class ScheduledCall:
    """A call that a pool was given."""

    future: Future[Any]
    pool: ProcessPool
    """It may have been replaced since."""


class WorkerPool:
    """Calls functions of `g2rl.tasks.grading.workers` in processes. Threads may share it.

    Args:
        verifier: what the workers grade with.
        workers: number of processes.
        timeout_seconds: limit of CPU time of each call.
        memory_mb: limit of each worker's address space, in MiB.

    Raises:
        RuntimeError: the workers cannot start.
    """

    def __init__(
        self, verifier: Verifier, workers: int, timeout_seconds: float, memory_mb: int
    ) -> None:
        self.verifier = verifier
        self.workers = workers
        self.timeout_seconds = timeout_seconds
        self.memory_mb = memory_mb

        # one thread at a time replaces the pool, or closes it
        self._lock = threading.RLock()
        self._is_closed = False
        self._waiting: dict[Future[Any], None] = {}
        self.pool = self._start(attempts=1)

    def schedule(
        self, call: Callable[..., Any], args: tuple[Any, ...], wall_seconds: float
    ) -> ScheduledCall:
        """Give a call to the pool; a pool that has broken down is replaced first.

        Raises:
            RuntimeError: the pool was closed, or does not stay alive.
        """
        # a pool may break down between the question and the call, but hardly twice
        for _ in range(ATTEMPTS):
            pool = self._running()
            try:
                future = pool.schedule(call, args=args, timeout=wall_seconds)
            except RuntimeError:
                continue

            # it leaves by itself when it has its answer
            self._waiting[future] = None
            future.add_done_callback(lambda done: self._waiting.pop(done, None))
            return ScheduledCall(future, pool)
        raise RuntimeError(
            f"grading workers ({type(self.verifier).__name__}) do not stay alive: their pool broke "
            f"down {ATTEMPTS} times in a row; look for what ends processes here (a limit of "
            "memory, a scheduler)"
        )

    def is_answered(self, scheduled: ScheduledCall, tell: Callable[[float], None]) -> bool:
        """Wait for a call; False if its pool will never answer it.

        Args:
            scheduled: the call.
            tell: is called every now and then with the seconds that have passed.
        """
        # when the wait began, and when the pool was last seen at work
        begun = worked = time.monotonic()
        count = 0
        while not wait([scheduled.future], LOOK_SECONDS).done:
            now = time.monotonic()
            tell(now - begun)

            # the last answers of a pool that broke down may still be on their way
            if not scheduled.pool.active:
                return bool(wait([scheduled.future], LOOK_SECONDS).done)

            # any job that is under way or has ended shows that the pool works
            waiting = list(self._waiting)
            if len(waiting) != count or any(future.running() for future in waiting):
                count, worked = len(waiting), now

            # then all that wait find it inactive, and give their jobs again
            if now - worked >= STUCK_SECONDS:
                self._retire(scheduled.pool)
        return True

    def close(self) -> None:
        """Stop the workers. Closing twice is harmless."""
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                self._retire(self.pool)

    def _running(self) -> ProcessPool:
        """The pool, or another in its place if it has broken down."""
        with self._lock:
            if self._is_closed:
                raise RuntimeError("this grader is closed, and some of its verdicts were not ready")

            # workers have run before, so another start is worth some attempts
            if not self.pool.active:
                self._retire(self.pool)
                self.pool = self._start(ATTEMPTS)
            return self.pool

    def _retire(self, pool: ProcessPool) -> None:
        """End a pool and its workers; whoever waits for its answers finds it inactive."""
        with self._lock:
            # what waited for it says nothing about the next one
            if pool is self.pool:
                self._waiting = {}
            pool.stop()
            pool.join()

    def _start(self, attempts: int) -> ProcessPool:
        """A pool whose workers have proven that they run.

        Args:
            attempts: more than one where workers have run before, so that the fault is not theirs.
        """
        for attempt in range(attempts):
            pool = ProcessPool(
                max_workers=self.workers,
                max_tasks=MAX_TASKS,
                initializer=workers.initialize,
                initargs=(self.verifier, self.memory_mb * 2**20, self.timeout_seconds),
                context=workers.LightContext(),
            )
            try:
                self._prove(pool)
                return pool
            except BaseException as error:
                # its other workers, if it has any, must not stay, nor its threads
                pool.stop()
                pool.join()

                # what another attempt cannot mend, Ctrl-C among it, is the caller's
                if not isinstance(error, _START_ERRORS):
                    raise
                if attempt + 1 == attempts:
                    raise RuntimeError(self._why_not(attempts)) from error
        raise AssertionError("no attempt to start")

    def _prove(self, pool: ProcessPool) -> None:
        """Ask each worker for a sign of life: a pool starts them at the first call."""
        deadline = time.monotonic() + START_SECONDS
        try:
            probes = [pool.schedule(workers.ready) for _ in range(self.workers)]
        except RuntimeError as error:
            # pebble says so of a pool whose worker has ended before all were asked
            raise BrokenProcessPool("a worker ended while the pool was starting") from error

        for probe in probes:
            # a pool that breaks down need not say so to every probe
            while not wait([probe], LOOK_SECONDS).done:
                if not pool.active and not wait([probe], LOOK_SECONDS).done:
                    raise BrokenProcessPool("a worker ended while the pool was starting")
                if time.monotonic() > deadline:
                    raise TimeoutError(f"no sign of life after {START_SECONDS:g} seconds")
            if not probe.result():
                raise RuntimeError("a grading worker came up without its verifier")

    def _why_not(self, attempts: int) -> str:
        """The message about workers that do not start."""
        who = f"({type(self.verifier).__name__}, {self.memory_mb} MiB)"
        if attempts > 1:
            return (
                f"grading workers {who} ran and cannot be started again, tried {attempts} times: "
                "something ends them (a limit of memory or of processes, a scheduler); the "
                "worker's own error, if it left one, is above"
            )
        return (
            f"grading workers cannot start {who}; the worker's own error is above. A verifier must "
            "be picklable and live in an importable module, not in __main__"
        )
