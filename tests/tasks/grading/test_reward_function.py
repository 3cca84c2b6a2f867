"""Reward functions of one's own: what they are given, what they may return, and what happens when
they fail, hang or take too much memory."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import pytest

from g2rl.tasks.grading.code_files import file_of
from g2rl.tasks.grading.grader import Grader, Graders
from g2rl.tasks.grading.reward_function import (
    RewardFunction,
    RewardFunctionError,
    RewardVerifier,
    load_function,
)
from g2rl.types import Problem, Verdict
from tests.support import told_by_g2rl

HERE = Path(__file__).parent
MODULE = "tests.tasks.grading.own_rewards"
PROBLEM = Problem("rows/7", "a question", "42", {"columns": {"answer": "42", "level": 3}})


def verifier(*names: str, **settings: Any) -> RewardVerifier:
    functions = tuple(RewardFunction(f"{MODULE}:{name}") for name in names)
    return RewardVerifier(functions, **settings)


def reward(name: str, completion: str, **settings: Any) -> float:
    return verifier(name, **settings).grade(completion, PROBLEM).reward


def test_rewards_are_those_of_the_function() -> None:
    assert reward("length", "x" * 7) == pytest.approx(0.7)
    assert reward("level", "anything") == 3.0
    assert reward("hits", "it is 42") == 1.0
    assert reward("hits", "it is 41") == 0.0
    assert reward("content", "four", messages=True) == 4.0
    assert reward("logging", "") == 0.5
    assert reward("slow", "") == 0.25
    assert reward("obey", "1e6") == 0.75


def test_correct_is_a_threshold_and_the_answer_is_read_from_the_response() -> None:
    judge = verifier("length", right_from=0.7)
    assert judge.grade("x" * 7, PROBLEM).correct
    assert not judge.grade("x" * 6, PROBLEM).correct
    verdict = judge.grade("so \\boxed{ 6 } or so", PROBLEM)
    assert (verdict.answer, verdict.route) == ("6", "reward")
    assert judge.grade("the end", PROBLEM).answer == "the end"
    assert judge.grade("", PROBLEM).answer is None
    assert judge.key(" a  b ") == "a b"
    assert judge.equivalent("a  b", "a b")
    # rewards of verifiers that know right and wrong only
    assert [Verdict(flag, None, "-").reward for flag in (True, False)] == [1.0, -1.0]
    assert Verdict(True, None, "-", graded=0.0).reward == 0.0


def test_functions_are_weighed_and_none_leaves_one_out() -> None:
    pair = RewardVerifier(
        (RewardFunction(f"{MODULE}:length", 2.0), RewardFunction(f"{MODULE}:sometimes", 0.5))
    )
    assert pair.grade("yes", PROBLEM).reward == pytest.approx(2 * 0.3 + 0.5)
    assert pair.grade("no", PROBLEM).reward == pytest.approx(2 * 0.2)
    with pytest.raises(RewardFunctionError, match=r"own_rewards:sometimes returned None .* rows/7"):
        reward("sometimes", "no")


@pytest.mark.parametrize(("word", "paid"), [("float", 0.5), ("truth", 1.0), ("array", 0.5)])
def test_a_number_of_a_library_is_one(word: str, paid: float) -> None:
    assert reward("of_a_library", word) == paid


@pytest.mark.parametrize(
    ("word", "complaint"),
    [
        ("raise", "raised KeyError: 'a bug'"),
        ("exit", "raised SystemExit: 3"),
        ("few", "returned 0 values for 1 completion"),
        ("many", "returned 2 values for 1 completion"),
        ("scalar", "returned 1.0 instead of a list"),
        ("text", "returned '1' instead of a list"),
        ("nothing", "returned None instead of a list"),
        ("mapping", "instead of a list"),
        ("nan", "returned nan, which is no reward"),
        ("infinite", "returned inf, which is no reward"),
        ("huge", "returned 1000000000.0, which is no reward"),
        ("word", "returned '0.5', which is no number"),
        ("list", r"returned \[1.0\], which is no number"),
        ("digits", r"returned a int, which is no reward .*at most 1e\+06 in size"),
        ("lines", r"returned one two, which is no number"),
        ("unwritable", r"returned a Written, which is no number"),
        ("none", "returned None for a response"),
    ],
)
def test_what_is_no_reward_is_named_with_function_and_problem(word: str, complaint: str) -> None:
    with pytest.raises(RewardFunctionError, match=complaint) as caught:
        reward("obey", word)
    assert f"{MODULE}:obey" in str(caught.value)
    assert "rows/7" in str(caught.value)

    # counted instead, if that is asked for
    verdict = verifier("obey", on_error="count", failed_reward=-0.5).grade(word, PROBLEM)
    assert (verdict.correct, verdict.route, verdict.reward) == (False, "error", -0.5)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("no.such.module:f", "no.such.module cannot be imported"),
        (f"{MODULE}:absent", "has no function of that name; it has "),
        (f"{MODULE}:not_callable", "has no function of that name"),
        ("absent.py:f", "no such file"),
    ],
)
def test_functions_that_cannot_be_found_are_named(name: str, complaint: str) -> None:
    judge = RewardVerifier((RewardFunction(name),))
    judge.warm_up()  # says nothing yet
    with pytest.raises(RewardFunctionError, match=complaint):
        judge.grade("x", PROBLEM)


def test_a_file_may_have_errors_or_modules_beside_it(tmp_path: Path) -> None:
    (tmp_path / "beside_it_g2rl.py").write_text("PAY = 0.125\n")
    good = tmp_path / "my rewards.py"
    good.write_text("from beside_it_g2rl import PAY\ndef f(completions): return [PAY]\n")
    assert load_function(f"{good}:f")(completions=["x"]) == [0.125]
    for name, text in (("syntax.py", "def f(:"), ("raises.py", "1 / 0"), ("exits.py", "exit(1)")):
        (tmp_path / name).write_text(text)
        with pytest.raises(RewardFunctionError, match=f"{name} cannot be imported"):
            load_function(f"{tmp_path / name}:f")


def test_the_file_of_a_function_is_found_without_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "rewarding" / "inner"
    package.mkdir(parents=True)
    for file in (tmp_path / "alone.py", package.parent / "__init__.py", package / "deep.py"):
        file.write_text("raise SystemExit('imported')")
    monkeypatch.chdir(tmp_path)
    assert file_of("alone.py:f") == Path("alone.py")
    assert file_of("alone:f") == tmp_path / "alone.py"
    assert file_of("rewarding:f") == package.parent / "__init__.py"
    assert file_of("rewarding.inner.deep:f") == package / "deep.py"
    for name in ("nowhere.py:f", "nowhere:f", "rewarding.nowhere:f", "sys:f", "alone.deeper:f"):
        assert file_of(name) is None
    verifier = RewardVerifier((RewardFunction("alone.py:f"), RewardFunction("nowhere:f")))
    assert verifier.code_files() == [Path("alone.py")]


def test_an_argument_that_no_row_has_is_named_with_those_there_are() -> None:
    with pytest.raises(
        RewardFunctionError, match=r"asks for 'completion_ids'.*answer, completions"
    ):
        reward("needs_ids", "x")


@pytest.mark.parametrize("name", ["", "f", "module:", ":f", "module:f g", "module.f"])
def test_what_names_no_function_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"task\.source\.reward"):
        RewardFunction(name)


def test_settings_that_cannot_be_are_refused() -> None:
    for settings, key in (
        ({"right_from": float("nan")}, "right_from"),
        ({"failed_reward": float("inf")}, "failed_reward"),
        ({"on_error": "ignore"}, "on_error"),
    ):
        with pytest.raises(ValueError, match=f"task.source.{key}"):
            verifier("length", **settings)
    with pytest.raises(ValueError, match="names no function"):
        RewardVerifier(())
    with pytest.raises(ValueError, match="must be finite"):
        RewardFunction("a:b", float("nan"))


def test_workers_kill_what_hangs_or_hogs_and_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = verifier("obey", failed_reward=-0.25)
    with Grader(judge, workers=2, timeout_seconds=6.0, wall_seconds=60.0) as grader:
        # what hangs uses no CPU time: five seconds by the clock are enough to see it given up
        monkeypatch.setattr(grader, "wall_seconds", 5.0)
        hanging = grader.submit([("hang", PROBLEM)])
        monkeypatch.setattr(grader, "wall_seconds", 60.0)
        others = grader.submit([(word, PROBLEM) for word in ("fine", "hog", "fine")])

        verdicts = hanging.result() + others.result()
        routes = [verdict.route for verdict in verdicts]
        assert routes == ["timeout", "reward", "killed", "reward"]
        assert [verdict.reward for verdict in verdicts] == [-0.25, 0.75, -0.25, 0.75]
        assert not any(verdict.correct for verdict in verdicts)

        # an error of the function reaches the trainer with its message
        with pytest.raises(RewardFunctionError, match="raised KeyError"):
            grader.grade([("raise", PROBLEM)])


def test_an_error_names_the_line_of_the_users_file_and_the_response(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the error is raised in a library, two calls below the function
    source = """
import json

def read(text):
    return json.loads(text)

def f(completions):
    return [read(text) for text in completions]
"""
    (tmp_path / "mine.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    judge = RewardVerifier((RewardFunction("mine.py:f"),))
    with pytest.raises(RewardFunctionError, match=r"in line 5 of mine\.py") as caught:
        judge.grade("no \x1b[31m JSON", PROBLEM)
    assert r"rows/7 that begins 'no \x1b[31m JSON'" in str(caught.value)

    # the whole traceback reaches the trainer, and so error.txt
    with Grader(judge, workers=1) as grader, pytest.raises(RewardFunctionError) as raised:
        grader.grade([("no JSON", PROBLEM)])
    assert "return json.loads(text)" in "".join(traceback.format_exception(raised.value))


def test_a_function_that_was_used_here_is_imported_anew_in_a_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file whose name another module has is a module that no other process finds by name."""
    (tmp_path / "statistics.py").write_text("def f(completions):\n    return [0.5]\n")
    monkeypatch.chdir(tmp_path)
    judge = RewardVerifier((RewardFunction("statistics.py:f"),))
    assert judge.grade("x", PROBLEM).reward == 0.5
    with Grader(judge, workers=1) as grader:
        assert grader.grade([("x", PROBLEM)])[0].reward == 0.5


def test_an_import_that_fails_names_the_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.py").write_text("x = 1\ny = absent\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RewardFunctionError, match=r"'absent' is not defined, in line 2 of broken"):
        load_function("broken.py:f")


def test_a_wait_for_one_response_is_not_silent(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # on a loaded machine what is fine may take long by the clock as well
    with Grader(verifier("obey"), workers=1, wall_seconds=60.0) as grader:
        caplog.clear()
        assert grader.grade([("fine", PROBLEM)])[0].route == "reward"
        assert not told_by_g2rl(caplog)

        # said while the first is waited for, and not again
        monkeypatch.setattr(grader, "wall_seconds", 2.0)
        monkeypatch.setattr("g2rl.tasks.grading.grader.SILENT_SECONDS", 0.2)
        verdicts = grader.grade([("hang", PROBLEM), ("hang", PROBLEM)])
    assert [verdict.route for verdict in verdicts] == ["timeout", "timeout"]
    [message] = told_by_g2rl(caplog)
    assert "has not come back within 0.2 seconds" in message
    assert "verify.timeout_seconds" in message


def test_a_worker_that_dies_is_told_with_the_limit_of_memory(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with Grader(verifier("obey"), workers=1, wall_seconds=60.0) as grader:
        caplog.clear()
        verdicts = grader.grade([("hog", PROBLEM), ("fine", PROBLEM), ("hog", PROBLEM)])
    assert [verdict.route for verdict in verdicts] == ["killed", "reward", "killed"]
    [record] = [one for one in caplog.records if "was lost while" in one.getMessage()]
    assert "RewardVerifier does needs more than 2048 MiB (verify.memory_mb)" in record.getMessage()
    assert not [one for one in caplog.records if "verify.timeout_seconds" in one.getMessage()]


@pytest.mark.parametrize(
    ("messages", "code"), [(False, 'text[0]["content"]'), (True, "text.strip()")]
)
def test_a_function_that_takes_messages_for_texts_is_told_of_the_setting(
    messages: bool, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = f"def f(completions):\n    return [float({code} == 'x') for text in completions]\n"
    (tmp_path / "mine.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RewardFunctionError, match=r"in line 2 of mine\.py") as caught:
        RewardVerifier((RewardFunction("mine.py:f"),), messages=messages).grade("x", PROBLEM)
    assert "task.source.messages=true" in str(caught.value)
    assert RewardVerifier((RewardFunction("mine.py:f"),), messages=not messages).grade("x", PROBLEM)

    # other mistakes have nothing to do with it
    (tmp_path / "other.py").write_text("def f(completions):\n    raise ValueError('mine')\n")
    with pytest.raises(RewardFunctionError, match="mine") as caught:
        RewardVerifier((RewardFunction("other.py:f"),), messages=messages).grade("x", PROBLEM)
    assert "messages=true" not in str(caught.value)


class Bounded(RewardVerifier):
    """Graded in this process, so that no workers start."""

    bounded = True


def test_verifiers_with_other_settings_get_graders_of_their_own() -> None:
    graders = Graders(workers=1, timeout_seconds=1.0, memory_mb=2048)
    length, level = RewardFunction(f"{MODULE}:length"), RewardFunction(f"{MODULE}:level")
    first = graders(Bounded((length,)))
    assert graders(Bounded((length,))) is first
    for other in (Bounded((level,)), Bounded((length,), right_from=2.0)):
        assert graders(other) is not first
        assert graders(other).verifier is other


def test_accuracy_reward_of_trl_works_as_it_is() -> None:
    pytest.importorskip("trl")
    judge = RewardVerifier((RewardFunction("trl.rewards:accuracy_reward"),), messages=True)
    problem = Problem("x", "1/2 + 1/4?", "", {"columns": {"solution": "$\\frac{3}{4}$"}})
    assert judge.grade("So it is \\boxed{0.75}.", problem).reward == 1.0
    assert judge.grade("So it is \\boxed{0.7}.", problem).reward == 0.0
