"""Hostile completions: nothing is executed, no limit is broken, and good answers in between stay
right."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from g2rl.tasks.grading.choice import ChoiceVerifier
from g2rl.tasks.grading.extract import MAX_ANSWER
from g2rl.tasks.grading.grader import Grader
from g2rl.tasks.grading.math import MathVerifier
from g2rl.types import Problem, Verdict
from tests.tasks.grading.hostile import hostile_completions
from tests.tasks.grading.misbehaving import peak_address_space_mb, worker_pids

TIMEOUT_SECONDS = 0.2  # of CPU time; a good answer takes milliseconds, also in a worker that is new
MEMORY_MB = 512
GOLD = r"\frac{x+\sqrt{2}}{y}"
GOOD = r"so it is \boxed{\frac{x}{y}+\frac{\sqrt2}{y}}"  # right, and only mathematics can tell
PROBLEM = Problem("p", "", GOLD)


@pytest.fixture(scope="module")
def canary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("canary") / "executed"


@pytest.fixture(scope="module")
def completions(canary: Path) -> list[str]:
    return hostile_completions(str(canary))


class PeakWatch:
    """Samples the largest address space of any worker while it is running, MiB."""

    def __init__(self) -> None:
        self.peak = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._stop.wait(0.1):
            # A starting worker still bears its parent's size: the limit holds from its first item
            # on.
            for pid in worker_pids():
                if _is_limited(pid):
                    self.peak = max(self.peak, peak_address_space_mb(pid))

    def __enter__(self) -> PeakWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def _is_limited(pid: int) -> bool:
    try:
        limits = Path(f"/proc/{pid}/limits").read_text()
    except OSError:
        return False
    return any(
        line.startswith("Max address space") and str(MEMORY_MB * 2**20) in line
        for line in limits.splitlines()
    )


@pytest.fixture(scope="module")
def run(completions: list[str]) -> tuple[list[Verdict], list[Verdict], float]:
    """One batch: all hostile completions with a good one after every eighth, and one worker, so
    that it grades each good one right after a hostile one."""
    items: list[tuple[str, Problem]] = []
    good_places = []
    for place, completion in enumerate(completions):
        items.append((completion, PROBLEM))
        if place % 8 == 7:
            good_places.append(len(items))
            items.append((GOOD, PROBLEM))
    settings = (1, TIMEOUT_SECONDS, MEMORY_MB)
    with Grader(MathVerifier(), *settings) as grader, PeakWatch() as watch:
        verdicts = grader.grade(items)
    good = [verdicts[place] for place in good_places]
    hostile = [verdict for place, verdict in enumerate(verdicts) if place not in set(good_places)]
    return hostile, good, watch.peak


def test_the_corpus_is_large(completions: list[str]) -> None:
    assert len(set(completions)) >= 150


def test_no_hostile_completion_is_right(
    run: tuple[list[Verdict], list[Verdict], float], completions: list[str]
) -> None:
    hostile = run[0]
    assert len(hostile) == len(completions)
    assert [
        completion[:80]
        for completion, verdict in zip(completions, hostile, strict=True)
        if verdict.correct
    ] == []
    assert {verdict.route for verdict in hostile} <= {
        "string",
        "number",
        "math",
        "unparsed",
        "refused",
        "timeout",
        "killed",
        "error",
    }


def test_good_answers_in_between_are_right(run: tuple[list[Verdict], list[Verdict], float]) -> None:
    good = run[1]
    assert len(good) >= 37
    assert all(verdict.correct and verdict.route == "math" for verdict in good)


def test_nothing_is_executed(
    run: tuple[list[Verdict], list[Verdict], float], canary: Path, completions: list[str]
) -> None:
    assert any(str(canary) in completion for completion in completions)
    assert run[0]
    assert not canary.exists()
    assert list(canary.parent.iterdir()) == []


def test_workers_stay_below_their_memory_limit(
    run: tuple[list[Verdict], list[Verdict], float],
) -> None:
    assert 20 < run[2] <= MEMORY_MB


def test_answers_can_be_written_anywhere(run: tuple[list[Verdict], list[Verdict], float]) -> None:
    for verdict in run[0]:
        assert "\x00" not in (verdict.answer or "")
        (verdict.answer or "").encode("utf-8")


@pytest.fixture(scope="module")
def read_here(completions: list[str]) -> list[tuple[float, Verdict]]:
    """Seconds that the calling process takes with each completion, and the verdict on an option."""
    mathematics, choice = MathVerifier(), ChoiceVerifier()
    mcq = Problem("p", "", "Z", {"choices": [f"option number {n}" for n in range(26)]})
    found = []
    for completion in completions:
        start = time.thread_time()
        mathematics.screen(completion, PROBLEM)
        mathematics.key(completion[: 5 * MAX_ANSWER])
        verdict = choice.grade(completion, mcq)
        found.append((time.thread_time() - start, verdict))
    return found


def test_everything_done_in_the_calling_process_is_fast(
    read_here: list[tuple[float, Verdict]], completions: list[str]
) -> None:
    """Extraction, normalisation, guards and multiple choice see all hostile text unprotected."""
    slow = []
    for completion, (seconds, _) in zip(completions, read_here, strict=True):
        if seconds > 3.0:  # 0.4 s at most on a free core
            slow.append(completion[:60])
    assert slow == []


def test_no_hostile_completion_names_an_option(read_here: list[tuple[float, Verdict]]) -> None:
    assert not any(verdict.correct for _, verdict in read_here)
