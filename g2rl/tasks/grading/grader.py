"""Grading of many completions at once, with a hard limit of time and memory on each.

A bounded verifier runs in the calling process. Any other runs in worker processes: an item that
uses more than `timeout_seconds` of CPU time is ended and counts as wrong (route ``timeout``);
one that takes the worker down counts as wrong too (route ``killed``). Neither touches other items.

CPU time, and not the clock, decides, so that a verdict does not depend on what else the machine
does. The clock is a backstop for an item that waits instead of computing (`wall_seconds`,
generous).

A verifier may be staged (see `Staged`). Then the cheap part is done in the calling process, and
only extracted answers that it could not decide travel to workers. So a verdict names its answer
even when the time is up.
"""

from __future__ import annotations

import logging
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import TimeoutError
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from pebble import ProcessExpired

from g2rl.tasks.grading import workers
from g2rl.tasks.grading.reasoning import CUT_OFF
from g2rl.tasks.grading.staged import PENDING, Staged
from g2rl.tasks.grading.verifier import (
    Verifier,
    are_equivalent,
    are_equivalent_at_once,
    judged,
    key_of,
)
from g2rl.tasks.grading.worker_pool import ScheduledCall, WorkerPool
from g2rl.types import Problem, Verdict

log = logging.getLogger(__name__)

WALL_FACTOR = 20.0
LEAST_WALL_SECONDS = 60.0
"""By the clock an item is given up after so many times its CPU time, and no less than so long."""
SILENT_SECONDS = 20.0
"""After so long a wait for one item by the clock the user is told what the wait is for."""
REPORTED_ROUTES = ("timeout", "killed", "unparsed", "error")
"""Routes whose share of all verdicts is a metric."""


@dataclass(slots=True)
class _Job:
    """A call that was given to the pool, with all that is needed to give it again."""

    call: Callable[..., Any]
    args: tuple[Any, ...]
    answer: str | None
    """The answer that the verdict names when the worker does not come back."""
    scheduled: ScheduledCall
    submitted: float
    """Time of submission on the clock of `time.perf_counter`, in seconds."""


class Handle:
    """Grading that is under way; `result()` waits for its verdicts."""

    def __init__(self, grader: Grader, slots: list[Verdict | _Job]) -> None:
        self._grader = grader
        self._slots = slots
        self._verdicts: list[Verdict] | None = None

    def result(self) -> list[Verdict]:
        """Wait for the verdicts, in the order of the items. May be called again.

        Raises:
            RuntimeError: the workers cannot be kept running.
        """
        if self._verdicts is None:
            verdicts = []
            for slot in self._slots:
                verdict = slot if isinstance(slot, Verdict) else self._grader._verdict(slot)
                verdicts.append(verdict)

            # counted once, however often the result is asked for
            self._verdicts = verdicts
            self._slots = []
            self._grader._count(verdicts)
        return self._verdicts


class Grader:
    """Grades with one verifier: ``Grader(MathVerifier()).grade([(completion, problem)])``.

    Args:
        verifier: runs in this process if it is `bounded`, else in worker processes.
        workers: number of worker processes.
        timeout_seconds: limit of CPU time of each item, in its worker.
        memory_mb: limit of each worker's address space, in MiB.
        wall_seconds: limit by the clock, from the moment when a worker takes the item; by default
            `WALL_FACTOR` times the CPU time and at least `LEAST_WALL_SECONDS`.

    Raises:
        ValueError: an argument is out of range.
        RuntimeError: the workers cannot start.
    """

    def __init__(
        self,
        verifier: Verifier,
        workers: int = 2,
        timeout_seconds: float = 5.0,
        memory_mb: int = 2048,
        wall_seconds: float | None = None,
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

        # the clock is a backstop for an item that waits, so it is generous
        if wall_seconds is None:
            wall_seconds = max(WALL_FACTOR * timeout_seconds, LEAST_WALL_SECONDS)
        self.wall_seconds = wall_seconds
        self.counts: Counter[str] = Counter()
        """Verdicts by route since the grader was made, and their "total"."""
        self._reported_counts: Counter[str] = Counter()
        self._closed = False
        self._told: set[str] = set()
        """Messages about slow and lost items that the user has had; metrics count how many."""

        # a verifier that always ends soon needs no process that could be killed
        self._pool: WorkerPool | None = None
        if not verifier.bounded:
            self._pool = WorkerPool(verifier, workers, timeout_seconds, memory_mb)

    # ---- what callers use

    def grade(self, items: Sequence[tuple[str, Problem]]) -> list[Verdict]:
        """Judge (completion, problem) pairs; verdicts come in the same order."""
        return self.submit(items).result()

    def submit(self, items: Sequence[tuple[str, Problem]]) -> Handle:
        """Start judging and return at once, so that the caller can do other work meanwhile."""
        self._refuse_if_closed()
        return Handle(self, [self._begin(completion, problem) for completion, problem in items])

    def cluster(self, answers: Sequence[str | None]) -> list[int]:
        """Equivalence classes of answers as ids 0, 1, ... by first appearance; None gives -1.

        Two answers are in one class if a chain of equivalent answers leads from one to the other.
        So the classes do not depend on the order of the answers, although equivalence up to a
        tolerance is not transitive. Answers with equal keys are equivalent; a comparison that times
        out says no.
        """
        self._refuse_if_closed()

        # one spelling stands for all that have its key
        spelling_of: dict[str, str] = {}
        for answer in answers:
            if answer is not None:
                key = key_of(self.verifier, answer)
                known = spelling_of.get(key, answer)
                spelling_of[key] = min(known, answer, key=lambda text: (len(text), text))

        # join each spelling to the classes of those before it
        classes: list[list[str]] = []
        for spelling in sorted(spelling_of.values(), key=lambda text: (len(text), text)):
            joined = self._classes_of(spelling, classes)
            merged = [spelling]
            for members in joined:
                merged += members
            classes = [members for members in classes if members not in joined] + [merged]

        # number them by first appearance
        class_of = {member: place for place, members in enumerate(classes) for member in members}
        numbers: dict[int, int] = {}
        ids: list[int] = []
        for answer in answers:
            if answer is None:
                ids.append(-1)
                continue
            place = class_of[spelling_of[key_of(self.verifier, answer)]]
            ids.append(numbers.setdefault(place, len(numbers)))
        return ids

    def metrics(self) -> dict[str, float]:
        """Counts since the last call.

        Returns:
            ``verify/total``, the number of verdicts, and the share of them that each of
            `REPORTED_ROUTES` has, such as ``verify/timeout``.
        """
        # only what is new since the last report
        new_counts = self.counts - self._reported_counts
        self._reported_counts = Counter(self.counts)

        total = new_counts["total"]
        metrics = {"verify/total": float(total)}
        for route in REPORTED_ROUTES:
            metrics[f"verify/{route}"] = new_counts[route] / max(total, 1)
        return metrics

    def close(self) -> None:
        """Stop the workers. Closing twice is harmless."""
        self._closed = True
        if self._pool is not None:
            self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # ---- the pool of workers

    def _refuse_if_closed(self) -> None:
        """Workers are gone then, and nothing unbounded runs in the calling process."""
        if self._closed:
            raise RuntimeError("this grader is closed; make a new one")

    def _schedule(
        self, call: Callable[..., Any], args: tuple[Any, ...], answer: str | None
    ) -> _Job:
        """Give a call to the workers."""
        assert self._pool is not None
        scheduled = self._pool.schedule(call, args, self.wall_seconds)
        return _Job(call, args, answer, scheduled, time.perf_counter())

    def _note_wait(self, seconds: float) -> None:
        """Nobody waits in silence, though an item may take minutes by the clock."""
        if seconds >= SILENT_SECONDS:
            self._tell(f"has not come back within {SILENT_SECONDS:g} seconds")

    def _wait(self, job: _Job, retry: bool = True) -> Any:
        """The result of a job, or the route "timeout" or "killed" as a string."""
        assert self._pool is not None
        try:
            if self._pool.is_answered(job.scheduled, self._note_wait):
                return job.scheduled.future.result()
        except TimeoutError:
            return workers.TIMEOUT
        except MemoryError:
            return "killed"
        except ProcessExpired as expired:
            # the kernel ends a worker whose item could not be interrupted
            if expired.exitcode == -signal.SIGXCPU:
                return workers.TIMEOUT

            # SIGTERM comes from outside (a scheduler that preempts a job signals all of its
            # processes), so the item is not to blame; any other end is the item's own
            if expired.exitcode != -signal.SIGTERM:
                return "killed"
        except BrokenProcessPool:
            pass  # the pool went down while this item waited, and said so

        # an item that is not to blame gets a second try, but no third
        if not retry:
            return "killed"
        return self._wait(self._schedule(job.call, job.args, job.answer), retry=False)

    # ---- one item

    def _begin(self, completion: str, problem: Problem) -> Verdict | _Job:
        """Judge an item here if that is safe and enough; else give it to the pool."""
        if not getattr(self.verifier, "minds_cut_off", False):
            completion = completion.removesuffix(CUT_OFF)
        if self._pool is None:
            return judged(self.verifier, completion, problem)

        # without a first stage that is safe here, everything goes to a worker
        if not isinstance(self.verifier, Staged):
            return self._schedule(workers.grade, (completion, problem), None)

        # the first stage often settles it; a worker takes what is left open
        verdict = judged(self.verifier, completion, problem, "screen")
        if verdict.route != PENDING:
            return verdict
        return self._schedule(workers.decide, (verdict.answer, problem.answer), verdict.answer)

    def _verdict(self, job: _Job) -> Verdict:
        """Wait for a job's verdict; a job without a result counts as wrong."""
        outcome = self._wait(job)
        if isinstance(outcome, Verdict):
            return outcome
        if outcome == "killed":
            self._tell_of_death()
        else:
            self._tell(f"is given up (verify/{outcome}) and counts as wrong")
        seconds = min(time.perf_counter() - job.submitted, self.timeout_seconds)

        # where rewards are graded, the verifier says what a lost response gets
        failed_reward = getattr(self.verifier, "failed_reward", None)
        return Verdict(False, job.answer, outcome, seconds, graded=failed_reward)

    def _tell(self, what_happened: str) -> None:
        """Say once that grading is slow, or loses responses; the metrics say how many."""
        self._tell_once(
            "the grading of a response %s: one may take %g seconds of CPU time "
            "(verify.timeout_seconds), and %g by the clock if it waits instead of computing; "
            "this is said once, and verify/timeout and verify/killed count such responses",
            what_happened,
            self.timeout_seconds,
            self.wall_seconds,
        )

    def _tell_of_death(self) -> None:
        """Say once that a response has cost its worker, or its memory; the metrics say how many."""
        self._tell_once(
            "a response was lost while it was graded, and counts as wrong: what %s does needs more "
            "than %d MiB (verify.memory_mb), or ends its worker; this is said once, and "
            "verify/killed counts such responses",
            type(self.verifier).__name__,
            self.memory_mb,
        )

    def _tell_once(self, message: str, *values: Any) -> None:
        """Log a warning, whatever its values, the first time only."""
        if message not in self._told:
            self._told.add(message)
            log.warning(message, *values)

    def _classes_of(self, answer: str, classes: Sequence[list[str]]) -> list[list[str]]:
        """The classes with a member that `answer` is equivalent to."""
        joined: list[list[str]] = []
        for round_number in range(max(map(len, classes), default=0)):
            # in every round, one more member of each class that has not been joined yet
            comparisons: list[tuple[list[str], _Job | bool]] = []
            for members in classes:
                if members not in joined and round_number < len(members):
                    comparisons.append((members, self._compare(members[round_number], answer)))

            # a comparison that timed out returns its route, which is not True
            for members, comparison in comparisons:
                same = comparison if isinstance(comparison, bool) else self._wait(comparison)
                if same is True:
                    joined.append(members)
        return joined

    def _compare(self, member: str, answer: str) -> _Job | bool:
        """Whether two answers are equivalent: known at once, or under way in a worker."""
        same = self._equivalent_here(member, answer)
        if same is None:
            return self._schedule(workers.equivalent, (member, answer), None)
        return same

    def _equivalent_here(self, member: str, answer: str) -> bool | None:
        """Whether two answers are equivalent, or None when only a worker may find out."""
        # the cheap comparison first; it gives None where it cannot tell
        same = None
        if isinstance(self.verifier, Staged):
            same = are_equivalent_at_once(self.verifier, member, answer)
        if same is None and self._pool is None:
            same = are_equivalent(self.verifier, member, answer)
        return same

    def _count(self, verdicts: list[Verdict]) -> None:
        self.counts["total"] += len(verdicts)
        self.counts.update(verdict.route for verdict in verdicts)


class Graders:
    """One grader for each kind of verifier in use, made when it is first asked for.

    Verifiers are of one kind if they have the same class and, where they have settings, the same
    `identity`.

    ``Graders(workers=2, timeout_seconds=5.0, memory_mb=2048)(verifier)``; arguments as in `Grader`.
    """

    def __init__(self, workers: int, timeout_seconds: float, memory_mb: int) -> None:
        self.workers = workers
        self.timeout_seconds = timeout_seconds
        self.memory_mb = memory_mb
        self._grader_of_kind: dict[tuple[type, object], Grader] = {}

    def __call__(self, verifier: Verifier) -> Grader:
        """The grader of this verifier's kind."""
        # verifiers that judge alike share their workers
        kind = (type(verifier), getattr(verifier, "identity", None))
        if kind not in self._grader_of_kind:
            self._grader_of_kind[kind] = Grader(
                verifier, self.workers, self.timeout_seconds, self.memory_mb
            )
        return self._grader_of_kind[kind]

    def close(self) -> None:
        """Stop the workers of all graders."""
        for grader in self._grader_of_kind.values():
            grader.close()
