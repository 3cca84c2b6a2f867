"""Grading of many completions at once, with a hard limit of time and memory on each.

A bounded verifier runs in the calling process. Any other runs in worker processes: an item that takes
longer than `timeout_seconds` has its worker killed and is wrong (route ``timeout``); one that takes the
worker down is wrong too (route ``killed``). Neither touches any other item.

A verifier may be staged (see `Staged`): the cheap part is done in the calling process, and only the
undecided, already extracted answers travel to workers. So a verdict names its answer even on timeout.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, TimeoutError
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pickle import PicklingError
from types import TracebackType
from typing import Any, Self

from pebble import ProcessExpired, ProcessPool

from g2rl.tasks.grading import workers
from g2rl.tasks.grading.staged import PENDING, Staged
from g2rl.tasks.grading.verifier import Verifier
from g2rl.types import Problem, Verdict

MAX_TASKS = 5000
"""A worker is replaced after this many items, because the caches of parsers grow without bound."""
_START_ERRORS = (
    BrokenProcessPool,
    ProcessExpired,
    TimeoutError,
    PicklingError,
    AttributeError,
    TypeError,
)
START_SECONDS = 120.0
"""A pool that is not ready after this many seconds cannot start."""


@dataclass(slots=True)
class _Job:
    """One call in the pool, with what its result stands for when the worker does not come back."""

    call: Callable[..., Any]
    args: tuple[Any, ...]
    answer: str | None
    future: Future[Any]
    submitted: float


class Handle:
    """Grading under way; `result()` waits for it and returns the verdicts in the order of the items."""

    def __init__(self, grader: Grader, verdicts: list[Verdict | _Job]) -> None:
        self._grader = grader
        self._pending = verdicts
        self._verdicts: list[Verdict] | None = None

    def result(self) -> list[Verdict]:
        """The verdicts, in order. Raises RuntimeError when the workers cannot be kept running."""
        if self._verdicts is None:
            self._verdicts = [
                slot if isinstance(slot, Verdict) else self._grader._verdict(slot)
                for slot in self._pending
            ]
            self._pending = []
            self._grader._count(self._verdicts)
        return self._verdicts


class Grader:
    """Grades with `verifier`: ``Grader(MathVerifier()).grade([(completion, problem)])``.

    `timeout_seconds` bounds each item (wall clock, from the moment a worker takes it); `memory_mb` bounds
    the address space of each worker in MiB. Raises RuntimeError when workers cannot start.
    """

    def __init__(
        self,
        verifier: Verifier,
        workers: int = 2,
        timeout_seconds: float = 5.0,
        memory_mb: int = 2048,
    ) -> None:
        if workers < 1 or timeout_seconds <= 0 or memory_mb < 256:
            raise ValueError(
                "a grader needs workers >= 1, timeout_seconds > 0 and memory_mb >= 256, "
                f"got {workers}, {timeout_seconds}, {memory_mb}"
            )
        self.verifier = verifier
        self.workers = workers
        self.timeout_seconds = timeout_seconds
        self.memory_mb = memory_mb
        self.counts: Counter[str] = Counter()
        """Verdicts by route since the grader was made, and their "total"."""
        self._reported: Counter[str] = Counter()
        self._closed = False
        self._pool = None if verifier.bounded else self._start()

    def grade(self, items: Sequence[tuple[str, Problem]]) -> list[Verdict]:
        """Judge (completion, problem) pairs; verdicts come in the same order."""
        return self.submit(items).result()

    def submit(self, items: Sequence[tuple[str, Problem]]) -> Handle:
        """Start judging and return at once, so that the caller can do other work meanwhile."""
        if self._closed:
            raise RuntimeError("this grader is closed; make a new one")
        return Handle(self, [self._begin(completion, problem) for completion, problem in items])

    def cluster(self, answers: Sequence[str | None]) -> list[int]:
        """Equivalence classes of answers as ids 0, 1, ... by first appearance; None gives -1.

        Answers with equal keys are together; others join the first class whose first member is
        equivalent. A comparison that times out counts as not equivalent.
        """
        class_of_key: dict[str, int] = {}
        members: list[str] = []  # the first member of each class
        ids = []
        for answer in answers:
            if answer is None:
                ids.append(-1)
                continue
            form = self.verifier.key(answer)
            if form not in class_of_key:
                found = self._class_of(answer, members)
                if found == len(members):
                    members.append(answer)
                class_of_key[form] = found
            ids.append(class_of_key[form])
        return ids

    def metrics(self) -> dict[str, float]:
        """Since the last call: verify/total (a count); of it the shares timeout, killed, unparsed, error."""
        new = self.counts - self._reported
        self._reported = Counter(self.counts)
        total = new["total"]
        shares = {
            f"verify/{r}": new[r] / max(total, 1)
            for r in ("timeout", "killed", "unparsed", "error")
        }
        return {"verify/total": float(total), **shares}

    def close(self) -> None:
        """Stop the workers. Closing twice is harmless."""
        self._closed = True
        if self._pool is not None:
            self._pool.stop()
            self._pool.join()
            self._pool = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _start(self) -> ProcessPool:
        """A pool whose workers have proven that they run."""
        pool = ProcessPool(
            max_workers=self.workers,
            max_tasks=MAX_TASKS,
            initializer=workers.initialize,
            initargs=(self.verifier, self.memory_mb * 2**20),
            context=workers.LightContext(),
        )
        try:
            probes = [pool.schedule(workers.ready) for _ in range(self.workers)]
            if not all(probe.result(timeout=START_SECONDS) for probe in probes):
                raise RuntimeError("a grading worker came up without its verifier")
        except _START_ERRORS as error:
            pool.stop()
            pool.join()
            raise RuntimeError(
                f"grading workers cannot start ({type(self.verifier).__name__}, {self.memory_mb} MiB); the "
                "worker's own error is above. A verifier must be picklable and live in an importable module, "
                "not in __main__"
            ) from error
        return pool

    def _begin(self, completion: str, problem: Problem) -> Verdict | _Job:
        if self._pool is None:
            return self.verifier.grade(completion, problem)
        if not isinstance(self.verifier, Staged):
            return self._schedule(workers.grade, (completion, problem), None)
        verdict = self.verifier.screen(completion, problem)
        if verdict.route != PENDING:
            return verdict
        return self._schedule(workers.decide, (verdict.answer, problem.answer), verdict.answer)

    def _schedule(
        self, call: Callable[..., Any], args: tuple[Any, ...], answer: str | None
    ) -> _Job:
        assert self._pool is not None
        if not self._pool.active:
            self._restart()
        future = self._pool.schedule(call, args=args, timeout=self.timeout_seconds)
        return _Job(call, args, answer, future, time.perf_counter())

    def _restart(self) -> None:
        if self._pool is not None:
            self._pool.stop()
            self._pool.join()
        self._pool = self._start()

    def _wait(self, job: _Job, retry: bool = True) -> Any:
        """The result of a job, or the route "timeout" or "killed" as a string."""
        try:
            return job.future.result()
        except TimeoutError:
            return "timeout"
        except ProcessExpired as expired:
            # SIGTERM comes from outside (a scheduler that preempts signals all processes), not from the item
            if expired.exitcode != -signal.SIGTERM:
                return "killed"
        except MemoryError:
            return "killed"
        except BrokenProcessPool:  # the pool went down while this item waited
            pass
        if not retry:
            return "killed"
        return self._wait(self._schedule(job.call, job.args, job.answer), retry=False)

    def _verdict(self, job: _Job) -> Verdict:
        outcome = self._wait(job)
        if isinstance(outcome, Verdict):
            return outcome
        seconds = min(time.perf_counter() - job.submitted, self.timeout_seconds)
        return Verdict(False, job.answer, outcome, seconds)

    def _class_of(self, answer: str, members: list[str]) -> int:
        """Index of the first member that `answer` is equivalent to; len(members) when there is none."""
        screen = self.verifier.screen_equivalent if isinstance(self.verifier, Staged) else None
        jobs: list[_Job | bool] = []
        for member in members:
            known = screen(member, answer) if screen is not None else None
            if known is None and self._pool is None:
                known = self.verifier.equivalent(member, answer)
            if known is None:
                jobs.append(self._schedule(workers.equivalent, (member, answer), None))
                continue
            jobs.append(known)
            if known:
                break
        for index, job in enumerate(jobs):
            if (job if isinstance(job, bool) else self._wait(job)) is True:
                return index
        return len(members)

    def _count(self, verdicts: list[Verdict]) -> None:
        self.counts["total"] += len(verdicts)
        self.counts.update(verdict.route for verdict in verdicts)


class Graders:
    """One grader for each class of verifier in use, made when it is first asked for.

    ``Graders(workers=2, timeout_seconds=5.0, memory_mb=2048)(verifier)``; arguments as in `Grader`.
    """

    def __init__(self, workers: int, timeout_seconds: float, memory_mb: int) -> None:
        self.workers = workers
        self.timeout_seconds = timeout_seconds
        self.memory_mb = memory_mb
        self._grader_of_class: dict[type, Grader] = {}

    def __call__(self, verifier: Verifier) -> Grader:
        """The grader of this verifier's class."""
        verifier_class = type(verifier)
        if verifier_class not in self._grader_of_class:
            self._grader_of_class[verifier_class] = Grader(
                verifier, self.workers, self.timeout_seconds, self.memory_mb
            )
        return self._grader_of_class[verifier_class]

    def close(self) -> None:
        """Stop the workers of all graders."""
        for grader in self._grader_of_class.values():
            grader.close()
