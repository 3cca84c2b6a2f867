"""What is wrong with a task or a verifier of one's own is said with its class and the mend."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from omegaconf import OmegaConf

from g2rl.cli.build.benchmarks import build_benchmarks
from g2rl.tasks.grading.grader import Grader
from g2rl.tasks.grading.verifier import VerifierError
from g2rl.tasks.task import TaskError, check_task, drawn, refuse_leaks
from g2rl.types import Problem
from tests.tasks.own import AS_THE_RESPONSE_SAYS, Judge, Own, StagedJudge

PROBLEM = Problem("p", "1 :", "1")


def test_a_whole_task_is_one() -> None:
    check_task(Own())
    assert [problem.id for problem in drawn(Own(), 0, 3, 2)] == ["3", "4"]


@pytest.mark.parametrize(
    ("attribute", "value", "words"),
    [
        ("name", None, "has no name; write"),
        ("batch", None, "has no method batch"),
        ("may_draw", None, "has no method may_draw"),
        ("verifier", None, "has no verifier; set"),
    ],
)
def test_what_is_no_task_is_refused(attribute: str, value: object, words: str) -> None:
    task = Own()
    setattr(task, attribute, value)
    with pytest.raises(ValueError, match=rf"^task class tests\.tasks\.own\.Own {words}"):
        check_task(task)


@pytest.mark.parametrize("attribute", ["grade", "key", "equivalent", "bounded"])
def test_what_is_no_verifier_is_refused(attribute: str) -> None:
    task = Own()
    setattr(task.verifier, attribute, None)
    with pytest.raises(VerifierError, match=rf"Own: its verifier .*own\.Judge .*{attribute}"):
        check_task(task)


@pytest.mark.parametrize(
    ("gives", "words"),
    [
        ([PROBLEM], "gave 1 problems where 4 were asked for"),
        ([PROBLEM] * 5, "gave 5 problems where 4 were asked for"),
        ([{"prompt": "1 :"}] * 4, r"gave a dict; it must give g2rl\.types\.Problem"),
        (
            [Problem("p", None, "1")] * 4,
            "gave a Problem whose prompt is a NoneType; it must be a text",
        ),  # type: ignore[arg-type]
        ([Problem("p", "1 :", 1)] * 4, "gave a Problem whose answer is a int; it must be a text"),  # type: ignore[arg-type]
        ((problem for problem in [PROBLEM]), "gave a generator; it must give a list"),
    ],
)
def test_problems_that_are_not_as_asked_stop_the_run(gives: Any, words: str) -> None:
    with pytest.raises(TaskError, match=rf"own\.Own: batch\(seed=0, start=8, size=4\) {words}"):
        drawn(Own(gives), 0, 8, 4)


@pytest.mark.parametrize("error", [KeyError("my bug"), SystemExit("my bug")])
def test_a_task_that_raises_is_named(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    words = rf"raised {type(error).__name__}: '?my bug'?, in line \d+ of test_own_task\.py$"
    monkeypatch.setattr(Own, "batch", fail)
    with pytest.raises(TaskError, match=rf"own\.Own: batch\(seed=0, start=8, size=4\) {words}"):
        drawn(Own(), 0, 8, 4)
    monkeypatch.setattr(Own, "may_draw", fail)
    with pytest.raises(TaskError, match=rf"own\.Own: may_draw\('p'\) {words}"):
        refuse_leaks(Own(), [PROBLEM], "mine")


@pytest.fixture(scope="module", params=[True, False], ids=["here", "worker"])
def failing(request: pytest.FixtureRequest) -> Iterator[Grader]:
    """A grader whose verifier fails as a response says, here or in a worker."""
    judge = Judge(request.param, AS_THE_RESPONSE_SAYS)
    with Grader(judge, workers=1, timeout_seconds=20) as shared:
        yield shared


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("raises", r"own\.Judge raised KeyError: 'my bug', in line \d+ of own\.py \(for a resp"),
        ("true", r"own\.Judge returned a bool instead of a g2rl\.types\.Verdict \(for a response"),
        ("exits", r"own\.Judge raised SystemExit: 0, in line \d+ of own\.py \(for a response"),
        ("correct", r"returned a Verdict whose correct is a bool_?; it must be bool \(for a resp"),
        ("word", r"returned a Verdict whose correct is a str; it must be bool"),
        ("answer", r"returned a Verdict whose answer is a int; it must be str or None"),
        ("route", r"returned a Verdict whose route is a NoneType; it must be str"),
        ("graded", r"whose graded is a float32; it must be float or int or None"),
        ("nan", r"whose graded is no reward; it must be finite, and at most 1e\+06 in size"),
        ("huge", r"whose graded is no reward; it must be finite, and at most 1e\+06 in size"),
    ],
)
def test_a_verifier_that_fails_is_named_with_its_line(
    failing: Grader, fault: str, words: str
) -> None:
    with pytest.raises(VerifierError, match=words):
        failing.grade([(fault, PROBLEM)])
    assert failing.grade([("1", PROBLEM)])[0].correct


def test_a_second_stage_that_fails_is_named() -> None:
    """A worker runs it, and what it gives is no verdict yet."""
    faults = {
        "decides": r"raised KeyError: 'my bug', in line \d+ of own\.py as what it decides of",
        "none": r"returned None as what it decides of the answer '1'; it must be \(correct, route",
        "number": r"returned \(1, 'string'\) as what it decides",
        "text": r"returned 'right' as what it decides",
    }
    for fault, words in faults.items():
        with (
            Grader(StagedJudge(fault), workers=1, timeout_seconds=20) as grader,
            pytest.raises(VerifierError, match=rf"own\.StagedJudge {words}"),
        ):
            grader.grade([("1", PROBLEM)])
    with Grader(StagedJudge(), workers=1, timeout_seconds=20) as grader:
        verdicts = grader.grade([("1", PROBLEM), ("2", PROBLEM)])
        assert [(one.correct, one.route) for one in verdicts] == [
            (True, "string"),
            (False, "string"),
        ]
        assert grader.cluster(["a", "A", "b"]) == [0, 0, 1]


@pytest.mark.parametrize("bounded", [True, False], ids=["here", "worker"])
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("key", r"raised KeyError: 'my bug', in line \d+ of own\.py as the key of the answer 'a'"),
        ("number", "returned a int, no text, as the key of the answer 'a'"),
        ("equivalent", r"raised KeyError: .* of own\.py of the answers 'a' and 'b'"),
    ],
)
def test_a_verifier_that_cannot_compare_is_named(bounded: bool, fault: str, words: str) -> None:
    with (
        Grader(Judge(bounded, fault), workers=1, timeout_seconds=20) as grader,
        pytest.raises(VerifierError, match=rf"own\.Judge {words}"),
    ):
        grader.cluster(["a", "b"])


def test_a_first_stage_that_cannot_compare_is_named() -> None:
    words = r"own\.StagedJudge raised KeyError: .* of own\.py of the answers 'a' and 'b'"
    with (
        Grader(StagedJudge("screens"), workers=1, timeout_seconds=20) as grader,
        pytest.raises(VerifierError, match=words),
    ):
        grader.cluster(["a", "b"])


@pytest.mark.parametrize("bounded", [True, False], ids=["here", "worker"])
def test_a_comparison_may_give_a_truth_of_numpy(bounded: bool) -> None:
    with Grader(Judge(bounded), workers=1, timeout_seconds=20) as grader:
        assert grader.cluster(["a", "b", "A"]) == [0, 1, 0]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("key", r"^benchmark own: its verifier tests\.tasks\.own\.Judge has no key"),
        (
            "bounded",
            r"^benchmark own: its verifier .*own\.Judge does not say whether it is bounded",
        ),
        ("none", r"^benchmark\._target_ gave a builtins\.list; it must give a g2rl\.tasks\.bench"),
    ],
)
def test_the_verifier_of_an_own_benchmark_is_checked_when_it_is_built(
    fault: str, words: str
) -> None:
    own = {"_target_": "tests.tasks.own.own_benchmark"}
    assert build_benchmarks(OmegaConf.create(own))[0].name == "own"
    with pytest.raises(ValueError, match=words):
        build_benchmarks(OmegaConf.create({**own, "fault": fault}))
    suite = OmegaConf.create({"suite": {"mine": {**own, "fault": fault}}})
    with pytest.raises(ValueError, match=words.replace(r"k\.", r"k\.suite\.mine\.", 1)):
        build_benchmarks(suite)
