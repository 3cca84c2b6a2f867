"""Worker processes that are killed, lost or never come up, and the pools that take their place."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import pytest
from pebble import ProcessPool

from g2rl.tasks.grading import grader as pool
from g2rl.tasks.grading import worker_pool, workers
from g2rl.tasks.grading.grader import Grader
from g2rl.types import Problem, Verdict
from tests.tasks.grading.misbehaving import (
    GOOD,
    Dying,
    Misbehaving,
    Unstartable,
    bad,
    worker_pids,
)


def test_a_worker_killed_from_outside_is_replaced(grader: Grader) -> None:
    # both are at rest: the tests before may have left one that is only starting
    assert [v.correct for v in grader.grade([GOOD] * 2)] == [True] * 2
    for pid in worker_pids():
        os.kill(pid, signal.SIGKILL)
    assert [v.correct for v in grader.grade([GOOD] * 4)] == [True] * 4


def test_a_job_that_a_broken_pool_never_takes_in_is_given_again(
    grader: Grader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pool breaks down between the call and its queue: such a job is never answered."""
    assert grader._pool is not None
    broken = grader._pool.pool
    put = broken._context.task_queue.put

    def late(task: object) -> None:
        deadline = time.monotonic() + 600
        while broken.active and time.monotonic() < deadline:
            time.sleep(0.01)
        put(task)  # type: ignore[arg-type]

    monkeypatch.setattr(broken._context.task_queue, "put", late)
    for pid in worker_pids():
        os.kill(pid, signal.SIGKILL)
    assert [v.correct for v in grader.grade([GOOD] * 2)] == [True] * 2
    assert grader._pool.pool is not broken


def test_a_job_that_a_running_pool_has_lost_is_given_again(
    grader: Grader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that is killed between taking a job and saying so takes the job with it."""
    monkeypatch.setattr(worker_pool, "STUCK_SECONDS", 1.5)
    assert grader._pool is not None
    lost = worker_pool.ScheduledCall(Future(), grader._pool.pool)
    assert lost.pool.active
    job = pool._Job(workers.grade, GOOD, None, lost, time.perf_counter())
    assert grader._verdict(job).correct
    assert grader._pool.pool is not lost.pool

    # one that waits behind another is not lost
    napping = grader.submit([bad("nap")] * 2 + [GOOD])
    assert [v.route for v in napping.result()] == ["string"] * 3


def test_a_pool_that_ran_is_started_again_if_something_ends_a_starting_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prove, attempts = worker_pool.WorkerPool._prove, []

    def disturbed(self: worker_pool.WorkerPool, started: Any) -> None:
        attempts.append(started)
        if len(attempts) < 3:
            raise BrokenProcessPool("a worker ended while the pool was starting")
        prove(self, started)

    with Grader(Misbehaving(), workers=1) as lone:
        monkeypatch.setattr(worker_pool.WorkerPool, "_prove", disturbed)
        assert lone._pool is not None
        lone._pool.pool.stop()
        assert lone.grade([GOOD])[0].correct
        assert len(attempts) == 3

        # it is not the verifier's fault then
        attempts.clear()
        monkeypatch.setattr(worker_pool, "ATTEMPTS", 2)
        lone._pool.pool.stop()
        with pytest.raises(RuntimeError, match="ran and cannot be started again, tried 2 times"):
            lone.grade([GOOD])


def test_threads_share_one_new_pool(grader: Grader) -> None:
    assert grader._pool is not None
    grader._pool.pool.stop()
    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(lambda _: grader.grade([GOOD] * 2), range(3)))
    assert [[v.correct for v in verdicts] for verdicts in found] == [[True] * 2] * 3
    assert len(worker_pids()) == 2


def test_an_item_that_waited_in_a_broken_pool_is_retried_once(grader: Grader) -> None:
    def stranded(item: tuple[str, Problem]) -> pool._Job:
        future: Future[Verdict] = Future()
        future.set_exception(BrokenProcessPool("all workers expired"))
        assert grader._pool is not None
        task = worker_pool.ScheduledCall(future, grader._pool.pool)
        return pool._Job(workers.grade, item, None, task, time.perf_counter())

    assert grader._verdict(stranded(GOOD)).correct
    assert grader._verdict(stranded(bad("crash"))).route == "killed"


def test_a_grader_that_cannot_start_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="cannot start"):
        Grader(Unstartable(), workers=1)


def scheduler_threads() -> set[threading.Thread]:
    """The threads by which pebble runs its pools."""
    return {thread for thread in threading.enumerate() if thread.name.endswith("_loop)")}


def test_a_worker_that_dies_before_the_next_is_asked_is_a_worker_that_cannot_start(
    monkeypatch: pytest.MonkeyPatch, started: list[Any]
) -> None:
    """The pool knows that it is broken before it has been given its second probe."""
    schedule = ProcessPool.schedule

    def late(self: ProcessPool, function: Callable[..., Any], **given: Any) -> Any:
        future = schedule(self, function, **given)
        deadline = time.monotonic() + 600
        while self.active and time.monotonic() < deadline:
            time.sleep(0.01)
        return future

    threads = scheduler_threads()
    monkeypatch.setattr(ProcessPool, "schedule", late)
    with pytest.raises(RuntimeError, match=r"cannot start \(Dying, 64 MiB\)"):
        worker_pool.WorkerPool(Dying(), workers=2, timeout_seconds=1.0, memory_mb=64)
    assert scheduler_threads() <= threads
    assert started
    assert not any(process.is_alive() for process in started)


def never_ready() -> bool:
    return False


def test_no_pool_stays_when_a_worker_came_up_without_its_verifier(
    monkeypatch: pytest.MonkeyPatch, started: list[Any]
) -> None:
    threads = scheduler_threads()
    monkeypatch.setattr(workers, "ready", never_ready)
    with pytest.raises(RuntimeError, match="came up without its verifier"):
        worker_pool.WorkerPool(Misbehaving(), workers=1, timeout_seconds=1.0, memory_mb=512)
    assert scheduler_threads() <= threads
    assert started
    assert not any(process.is_alive() for process in started)
