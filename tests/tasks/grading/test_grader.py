"""The grader's promises: order, hard limits, one bad item costs one item, any __main__, no silent
failure."""

from __future__ import annotations

import multiprocessing.spawn
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from g2rl.tasks.grading import workers
from g2rl.tasks.grading.choice import ChoiceVerifier
from g2rl.tasks.grading.grader import Grader
from g2rl.tasks.grading.math import MathVerifier
from g2rl.tasks.grading.verifier import VerifierError
from g2rl.types import Problem, Verdict
from tests.support import ROOT, in_this_thread
from tests.tasks.grading.misbehaving import (
    GOOD,
    Misbehaving,
    WrongInMain,
    bad,
    peak_address_space_mb,
    worker_pids,
)

SLOW = r"\lim_{x\to 0} \frac{\sin(\tan x)-\tan(\sin x)}{x^{7}}"  # seconds of sympy


@pytest.fixture(scope="module")
def math_grader() -> Iterator[Grader]:
    with Grader(MathVerifier(), workers=1, timeout_seconds=5.0) as shared:
        yield shared


def test_verdicts_keep_the_order(math_grader: Grader) -> None:
    items = [
        (rf"\boxed{{x+{i}}}", Problem(str(i), "", f"{i}+x" if i % 3 else "y")) for i in range(30)
    ]
    verdicts = math_grader.grade(items)
    assert [v.answer for v in verdicts] == [f"x+{i}" for i in range(30)]
    assert [v.correct for v in verdicts] == [bool(i % 3) for i in range(30)]
    assert {v.route for v in verdicts} == {"math"}


def test_the_pool_agrees_with_the_verifier(math_grader: Grader) -> None:
    items = [
        (text, Problem("p", "", r"\frac{1}{2}"))
        for text in ("", r"\boxed{0.5}", r"\boxed{\cos(\pi/3)}", r"\boxed{3}")
    ]
    plain = [MathVerifier().grade(*item) for item in items]
    assert [(v.correct, v.answer, v.route) for v in math_grader.grade(items)] == [
        (v.correct, v.answer, v.route) for v in plain
    ]


def test_no_items_give_no_verdicts(math_grader: Grader) -> None:
    assert math_grader.grade([]) == []
    assert math_grader.cluster([]) == []


@pytest.mark.parametrize(
    ("what", "route"),
    [
        ("busy", "timeout"),
        ("deaf", "timeout"),
        ("spin", "timeout"),
        ("crash", "killed"),
        ("segv", "killed"),
        ("hog", "killed"),
    ],
)
def test_a_bad_item_costs_itself_only(grader: Grader, what: str, route: str) -> None:
    verdicts = grader.grade([GOOD, GOOD, bad(what), GOOD, GOOD, bad("wrong")])
    assert [v.correct for v in verdicts] == [True, True, False, True, True, False]
    assert verdicts[2].route == route


def test_cpu_time_decides_a_timeout_and_the_worker_goes_on() -> None:
    """Measured in CPU time, so it holds on a machine that is busy with other work."""
    with Grader(Misbehaving(), workers=1, timeout_seconds=0.1) as lone:
        before, _, after = lone.grade([bad("cpu"), bad("busy"), bad("cpu")])
        pids = {verdict.answer for verdict in lone.grade([bad("pid"), bad("busy"), bad("pid")])}
    used = float(after.answer or 0) - float(before.answer or 0)
    assert 0.08 < used < 1.1
    assert len(pids - {None}) == 1  # the worker was not replaced


def test_a_timer_that_comes_early_is_set_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel counts by ticks, which on a busy machine runs ahead of the CPU time."""
    armed: list[tuple[float, ...]] = []

    def note(*times: float) -> None:
        armed.append(times)

    monkeypatch.setattr(signal, "setitimer", in_this_thread(signal.setitimer, note))
    monkeypatch.setattr(workers, "_is_running", True)

    # there is time left, and then there is none
    monkeypatch.setattr(workers, "_end_of_item", time.process_time() + 100)
    workers._interrupt(signal.SIGPROF, None)
    assert 90 < armed[0][1] <= 100
    monkeypatch.setattr(workers, "_end_of_item", time.process_time())
    with pytest.raises(workers.OutOfTimeError):
        workers._interrupt(signal.SIGPROF, None)


def test_waiting_uses_no_cpu_time_and_is_ended_by_the_clock() -> None:
    with Grader(Misbehaving(), workers=1, timeout_seconds=0.5, wall_seconds=2.0) as lone:
        verdict = lone.grade([bad("sleep")])[0]
    assert (verdict.correct, verdict.route) == (False, "timeout")


def test_a_wait_longer_than_the_cpu_limit_is_no_timeout(grader: Grader) -> None:
    assert grader.wall_seconds >= 60
    assert grader.grade([bad("nap")])[0].route == "string"  # 0.6 s of sleep, a limit of 0.1 s


def test_many_bad_items_in_a_row_leave_a_working_grader(grader: Grader) -> None:
    verdicts = grader.grade([bad("crash")] * 6 + [GOOD] * 3)
    assert [v.route for v in verdicts] == ["killed"] * 6 + ["string"] * 3
    assert grader.grade([GOOD])[0].correct


def test_the_memory_limit_holds(grader: Grader) -> None:
    assert grader.grade([bad("hog")])[0].route == "killed"
    pids = {int(v.answer or 0) for v in grader.grade([bad("pid")] * 20)}
    peaks = [peak_address_space_mb(pid) for pid in pids]
    assert all(0 < peak <= grader.memory_mb for peak in peaks), peaks


def test_verdicts_that_a_closed_grader_did_not_wait_for_are_refused() -> None:
    grader = Grader(Misbehaving(), workers=1)
    pending = grader.submit([bad("nap"), GOOD])
    grader.close()
    with pytest.raises(RuntimeError, match="closed, and some of its verdicts were not ready"):
        pending.result()


def test_items_under_way_survive_a_scheduler_that_signals_every_process(grader: Grader) -> None:
    """Slurm preempts a job by SIGTERM to all of it, Ctrl-C is SIGINT to all of it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        pending = grader.submit([bad("nap"), GOOD, bad("nap"), GOOD])
        time.sleep(0.2)
        for pid in worker_pids():
            os.kill(pid, number)
        assert [v.route for v in pending.result()] == ["string"] * 4


def test_workers_do_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys\n"
        "from tests.tasks.grading.misbehaving import Misbehaving, worker_pids\n"
        "from g2rl.tasks.grading.grader import Grader\n"
        "grader = Grader(Misbehaving(), workers=2)\n"
        "print(*worker_pids(), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        stderr=subprocess.DEVNULL,
    )
    pids = [int(pid) for pid in result.stdout.split()]
    assert len(pids) == 2
    deadline = time.monotonic() + 600
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [pid for pid in pids if alive(pid)]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_an_error_in_a_verifier_is_raised_not_graded(grader: Grader) -> None:
    with pytest.raises(VerifierError, match="LookupError: a bug in a verifier"):
        grader.grade([bad("raise")])


def test_null_bytes_and_surrogates_travel(grader: Grader) -> None:
    odd = "\x00\ud800\udfff\U0010ffff"
    assert grader.grade([(odd, Problem("p", "", odd))])[0].answer == odd


def test_workers_import_nothing_heavy(grader: Grader) -> None:
    assert grader.grade([bad("modules")])[0].answer == ""


def test_grading_overlaps_with_the_caller(grader: Grader) -> None:
    handle = grader.submit([bad("busy"), GOOD])
    assert not handle._slots[0].scheduled.future.done()  # type: ignore[union-attr]
    assert [v.route for v in handle.result()] == ["timeout", "string"]
    assert handle.result() is handle.result()


def test_metrics_cover_what_happened_since_the_last_call(grader: Grader) -> None:
    grader.metrics()
    grader.grade([bad("busy"), bad("crash"), GOOD, GOOD])
    assert grader.metrics() == {
        "verify/total": 4.0,
        "verify/timeout": 0.25,
        "verify/killed": 0.25,
        "verify/unparsed": 0.0,
        "verify/error": 0.0,
    }
    assert grader.metrics()["verify/total"] == 0.0
    assert grader.counts["total"] >= 4


def test_a_timeout_keeps_the_extracted_answer() -> None:
    with Grader(MathVerifier(), workers=1, timeout_seconds=0.05) as slow:
        verdict = slow.grade([(rf"\boxed{{{SLOW}}}", Problem("p", "", "x+1"))])[0]
    assert (verdict.correct, verdict.answer, verdict.route) == (False, SLOW, "timeout")


def test_answers_are_clustered_by_meaning(math_grader: Grader) -> None:
    answers = [
        "1/2",
        None,
        r"\sqrt{8}",
        "0.5",
        r"2\sqrt{2}",
        "x+1",
        "1+x",
        "x + 1",
        None,
        "7",
        r"\frac{1}{2}",
        "(1,2)",
        "(2,1)",
    ]
    assert math_grader.cluster(answers) == [0, -1, 1, 0, 1, 2, 2, 2, -1, 3, 0, 4, 5]


def test_classes_do_not_depend_on_the_order_of_answers(math_grader: Grader) -> None:
    """Equivalence up to a tolerance is not transitive, and neither are percentages."""
    answers = ["10", "10%", "0.1", "1/3", "0.3333333", "0.33333366", "x+1", "1+x", None, "x=5", "5"]
    rng = random.Random(0)
    expected = None
    for _ in range(12):
        order = list(range(len(answers)))
        rng.shuffle(order)
        classes = math_grader.cluster([answers[place] for place in order])
        members: dict[int, set[str | None]] = {}
        for place, class_id in zip(order, classes, strict=True):
            members.setdefault(class_id, set()).add(answers[place])
        found = {frozenset(group) for group in members.values()}
        expected = expected or found
        assert found == expected
    assert frozenset({"10%", "0.1"}) in found  # n % is n/100 where no gold says otherwise
    assert frozenset({"1/3", "0.3333333", "0.33333366"}) in found  # a chain
    assert frozenset({"x=5", "5"}) in found


def test_a_comparison_that_times_out_is_not_equivalent(grader: Grader) -> None:
    assert grader.cluster(["a", "busy", "A", None, "a"]) == [0, 1, 0, -1, 0]


def test_bounded_verifiers_need_no_workers(started: list[Any]) -> None:
    with Grader(ChoiceVerifier(), workers=2) as local:
        assert local.grade([("The answer is (B).", Problem("p", "", "B"))])[0].correct
        assert local.cluster(["A", "b", None, "B"]) == [0, 1, -1, 1]
        assert local.metrics()["verify/total"] == 1.0
    assert not started


def test_unbounded_verifiers_never_run_in_the_calling_process() -> None:
    with Grader(WrongInMain(), workers=1) as remote:
        assert remote.grade([GOOD])[0].correct


def test_a_verifier_that_workers_cannot_load_is_an_error() -> None:
    class Local(Misbehaving):
        """Not importable, so not picklable."""

    with pytest.raises(RuntimeError, match="importable module"):
        Grader(Local(), workers=1)


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"timeout_seconds": 0}, {"memory_mb": 10}])
def test_impossible_limits_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="workers >= 1"):
        Grader(Misbehaving(), **wrong)  # type: ignore[arg-type]


def test_a_closed_grader_refuses_and_leaves_no_process() -> None:
    closing = Grader(Misbehaving(), workers=1)
    mine = int(
        closing.grade([bad("pid")])[0].answer or 0
    )  # other graders may be replacing workers meanwhile
    assert mine in worker_pids()
    closing.close()
    closing.close()
    assert mine not in worker_pids()
    with pytest.raises(RuntimeError, match="closed"):
        closing.grade([GOOD])
    with pytest.raises(RuntimeError, match="closed"):
        closing.cluster(["good", "better"])


SCRIPT = """
from g2rl.types import Problem
from g2rl.tasks.grading.grader import Grader
from tests.tasks.grading.misbehaving import Misbehaving
print("main runs")
with Grader(Misbehaving(), workers=1) as grader:
    print([v.correct for v in grader.grade([("good", Problem("p", "", "good"))])])
"""


@pytest.mark.parametrize("how", ["stdin", "file", "-c"])
def test_any_main_module_will_do(how: str, tmp_path: Path) -> None:
    """No guard, and main is not run again in the workers."""
    script = tmp_path / "unguarded script.py"
    script.write_text(SCRIPT)
    command = {"stdin": ["-"], "file": [str(script)], "-c": ["-c", SCRIPT]}[how]
    done = subprocess.run(
        [sys.executable, *command],
        input=SCRIPT if how == "stdin" else None,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.split("\n")[:2] == ["main runs", "[True]"], done.stderr


def test_workers_start_inside_a_process_of_another_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker of joblib starts processes its own way, loky, which no new process knows."""
    original = multiprocessing.spawn.get_preparation_data
    monkeypatch.setattr(
        multiprocessing.spawn,
        "get_preparation_data",
        lambda name: {**original(name), "start_method": "loky"},
    )
    with Grader(Misbehaving(), workers=1) as grader:
        [verdict] = grader.grade([GOOD])
    assert verdict.correct


def test_seconds_are_measured(math_grader: Grader) -> None:
    verdict = math_grader.grade([(r"\boxed{\sin^2 t+\cos^2 t}", Problem("p", "", "1"))])[0]
    assert isinstance(verdict, Verdict)
    assert 0 < verdict.seconds < math_grader.timeout_seconds
