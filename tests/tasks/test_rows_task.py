"""Rows of one's own: columns, held-out prompts, judges, and what is refused before training."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hydra.errors import InstantiationException

from g2rl.cli.build.settings import read_train_settings
from g2rl.cli.build.trainer import build_problems
from g2rl.tasks.benchmarks.rows import rows_benchmark
from g2rl.tasks.grading.grader import Grader
from g2rl.tasks.grading.plain import ExactVerifier
from g2rl.tasks.grading.reward_function import RewardFunction, RewardVerifier
from g2rl.tasks.rows import DataError
from g2rl.tasks.rows_task import RowsTask, reward_functions
from g2rl.tasks.task import refuse_leaks
from g2rl.types import Problem
from tests.support import composed

ROWS = [{"q": f"What is {n} + 1?", "a": str(n + 1), "level": str(n % 3)} for n in range(20)]
COLUMNS = {"prompt_column": "q", "answer_column": "a", "verifier": "exact"}


def write(path: Path, rows: list[dict[str, Any]] = ROWS) -> str:
    """The rows as a file of the kind that its name says."""
    if path.suffix == ".parquet":
        pd.DataFrame(rows).to_parquet(path)
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


@pytest.mark.parametrize("name", ["x.jsonl", "x.csv", "x.parquet"])
def test_files_of_every_kind_give_the_same_problems(tmp_path: Path, name: str) -> None:
    task = RowsTask(source=write(tmp_path / name), template="$prompt Be brief.", **COLUMNS)
    assert len(task.problems) == 20
    problem = task.problems[3]
    assert problem.prompt == "What is 3 + 1? Be brief."
    assert (problem.id, problem.answer) == ("rows/3", "4")
    assert problem.meta["columns"] == ROWS[3]
    assert json.loads(json.dumps(problem.meta)) == problem.meta, "files hold it as it is"
    assert isinstance(task.verifier, ExactVerifier)
    assert task.batch(0, 2, 4) == task.batch(0, 0, 6)[2:]


def test_one_message_of_the_user_is_a_prompt(tmp_path: Path) -> None:
    for name in ("m.jsonl", "m.parquet"):
        rows = [{"q": [{"role": "user", "content": "Hi"}], "a": 27.0}]
        [problem] = RowsTask(source=write(tmp_path / name, rows), **COLUMNS).problems
        assert (problem.prompt, problem.answer) == ("Hi", "27")

    # anything else would be trained on without its context
    for messages in (
        [{"role": "system", "content": "s"}, {"role": "user", "content": "Hi"}],
        [{"role": "assistant", "content": "Hi"}],
        [],
        ["Hi"],
    ):
        source = write(tmp_path / "bad.jsonl", [{"q": messages, "a": "1"}])
        with pytest.raises(DataError, match=r"bad\.jsonl, line 1: q lists messages other than one"):
            RowsTask(source=source, **COLUMNS)


def test_held_out_prompts_do_not_depend_on_the_order_of_the_file(tmp_path: Path) -> None:
    rows = [{**row, "id": number} for number, row in enumerate(ROWS)]
    one = write(tmp_path / "one.jsonl", rows)
    other = write(tmp_path / "other.jsonl", rows[::-1])
    parts = []
    for source in (one, other):
        task = RowsTask(source=source, held_out=5, **COLUMNS)
        benchmark = rows_benchmark(source=source, held_out=5, **COLUMNS)
        refuse_leaks(task, benchmark.problems, "rows")
        assert len(task.problems) == 15
        parts.append({problem.prompt for problem in benchmark.problems})
    assert parts[0] == parts[1]
    assert len(parts[0]) == 5

    # without held-out prompts the benchmark is the whole file, which leaks if it is the same one
    everything = rows_benchmark(source=one, held_out=0, **COLUMNS)
    assert len(everything.problems) == 20
    with pytest.raises(ValueError, match=r"raise task\.source\.held_out"):
        refuse_leaks(RowsTask(source=one, **COLUMNS), everything.problems, "rows")


def test_what_helps_where_nothing_is_held_out_can_be_typed(tmp_path: Path) -> None:
    mine = write(tmp_path / "mine.jsonl")
    theirs = write(tmp_path / "theirs.jsonl", [{"q": f"{n}-1?", "a": str(n - 1)} for n in range(9)])
    words = ["task=rows", f"task.source.source={mine}", "task.source.verifier=number"]
    words += ["task.source.prompt_column=q", "task.source.answer_column=a"]

    def build(*more: str) -> None:
        config = composed(*words, *more)
        build_problems(config, read_train_settings(config)).graders.close()

    # a leak names both ways out
    with pytest.raises(ValueError, match=r"benchmark\.source=FILE, or .*held_out=NUMBER") as leaked:
        build("task.source.held_out=0")
    assert "countdown" not in str(leaked.value)
    build("task.source.held_out=0", f"benchmark.source={theirs}")
    build("task.source.held_out=3")

    # too many are held out of the one file, or of the other
    with pytest.raises(InstantiationException, match=r"held_out=0 benchmark\.source=FILE"):
        build("task.source.held_out=100")
    with pytest.raises(InstantiationException, match=r"theirs.*: 9 .*held_out=0 takes them"):
        build("task.source.held_out=10", f"benchmark.source={theirs}")
    with pytest.raises(ValueError, match=r"task\.source\.held_out must be >= 0, got -1"):
        build("task.source.held_out=-1")


def test_a_prompt_with_half_a_character_can_be_held_out(tmp_path: Path) -> None:
    rows = [{"q": "half \ud800", "a": "1"}, {"q": "whole", "a": "2"}]
    source = write(tmp_path / "x.jsonl", rows)
    assert len(RowsTask(source=source, held_out=1, **COLUMNS).problems) == 1


def test_rows_with_one_prompt_stay_together(tmp_path: Path) -> None:
    source = write(tmp_path / "twice.jsonl", [*ROWS, *ROWS])
    task = RowsTask(source=source, held_out=7, **COLUMNS)
    benchmark = rows_benchmark(source=source, held_out=7, **COLUMNS)
    refuse_leaks(task, benchmark.problems, "rows")
    assert (len(task.problems), len(benchmark.problems)) == (26, 14)


def test_the_gold_may_follow_a_mark(tmp_path: Path) -> None:
    rows = [{"q": "?", "a": "6 - 4 = 2, so #### 2, and 2 * 8\n#### 16 "}]
    source = write(tmp_path / "gsm.jsonl", rows)
    [problem] = RowsTask(source=source, answer_after="####", **COLUMNS).problems
    assert problem.answer == "16"
    with pytest.raises(DataError, match=r"line 1: the answer lacks '@@'"):
        RowsTask(source=source, answer_after="@@", **COLUMNS)


@pytest.mark.parametrize(
    ("row", "changes", "complaint"),
    [
        ({"q": "?"}, {}, r"x\.jsonl, line 1: no column 'a'.*; answer_column=NAME"),
        ({"q": "?", "a": None}, {}, "line 1: a holds no answer"),
        ({"q": "?", "a": " "}, {}, "line 1: a holds no answer"),
        ({"q": " ", "a": "1"}, {}, "line 1: q holds no text"),
        ({"q": 3, "a": "1"}, {}, "line 1: q holds no text"),
        ({"q": "?", "a": "1"}, {"columns": ["b"]}, "no column 'b'"),
        ({"q": "?", "a": "1"}, {"template": "prompt"}, r"lacks \$prompt"),
        ({"q": "?", "a": "1"}, {"held_out": 1}, "1 different prompts, and held_out=1"),
        ({"q": "?", "a": "1"}, {"held_out": -1}, "held_out must be 0 or more, got -1"),
    ],
)
def test_rows_that_cannot_be_used_are_named(
    tmp_path: Path, row: dict[str, Any], changes: dict[str, Any], complaint: str
) -> None:
    source = write(tmp_path / "x.jsonl", [row])
    with pytest.raises(DataError, match=complaint):
        RowsTask(source=source, **{**COLUMNS, **changes})


def test_values_that_no_file_can_hold_are_named(tmp_path: Path) -> None:
    rows = [{"q": "?", "a": "1", "when": pd.Timestamp("2026-01-01")}]
    source = write(tmp_path / "x.parquet", rows)
    with pytest.raises(
        DataError, match=r"row 1 \(.*\): when holds a Timestamp.*task\.source\.columns"
    ):
        RowsTask(source=source, **COLUMNS)
    assert RowsTask(source=source, columns=["a"], **COLUMNS).problems


def test_ragged_csv_is_refused(tmp_path: Path) -> None:
    for text in ("q,a\n?,1,2\n", "q,a\n?\n", 'q,a\n"?,1\n'):
        (tmp_path / "x.csv").write_text(text)
        with pytest.raises(DataError, match=r"x\.csv"):
            RowsTask(source=str(tmp_path / "x.csv"), **COLUMNS)


@pytest.mark.parametrize(
    ("judge", "complaint"),
    [
        ({}, "needs one judge"),
        ({"verifier": "exact", "reward": "a:b"}, "needs one judge"),
        ({"verifier": "countdown"}, "must be one of math, number, exact, choice"),
        ({"reward": "nothing"}, "names no function"),
        ({"reward": [{"name": "a:b"}]}, "must be a name, or a list"),
        ({"reward": [{"function": "a:b", "wait": 1}]}, "must be a name, or a list"),
        ({"reward": 3}, "must be a name, or a list"),
        ({"verifier": "exact", "answer_column": None}, "needs gold answers"),
    ],
)
def test_judges_that_cannot_be_are_named(
    tmp_path: Path, judge: dict[str, Any], complaint: str
) -> None:
    settings = {"prompt_column": "q", "answer_column": "a", **judge}
    with pytest.raises(ValueError, match=complaint):
        RowsTask(source=write(tmp_path / "x.jsonl"), **settings)


def test_no_source_is_named() -> None:
    with pytest.raises(DataError, match=r"task\.source\.source=FILE"):
        RowsTask(source=None, **COLUMNS)


def test_reward_functions_may_be_listed_with_weights() -> None:
    entries = ["a:f", {"function": "b.py:g", "weight": 0.5}]
    assert reward_functions(entries) == (RewardFunction("a:f"), RewardFunction("b.py:g", 0.5))


def test_golds_that_can_never_be_met_are_refused_before_training(tmp_path: Path) -> None:
    rows = [{"q": "?", "a": "4"}, {"q": "??", "a": "about four"}]
    settings = {**COLUMNS, "verifier": "number"}
    task = RowsTask(source=write(tmp_path / "x.jsonl", rows), **settings)
    with pytest.raises(ValueError, match="rows/1: the gold answer 'about four' is not right"):
        task.rehearse(Grader(task.verifier))
    RowsTask(source=write(tmp_path / "y.jsonl"), **settings).rehearse(Grader(task.verifier))


class Told(RewardVerifier):
    """Answers with a route of its own."""

    bounded = True
    route = "timeout"

    def grade(self, completion: str, problem: Problem) -> Any:
        verdict = super().grade(completion, problem)
        return type(verdict)(False, None, self.route)


@pytest.mark.parametrize(
    ("route", "complaint"),
    [("timeout", "did not return within verify.timeout_seconds=5"), ("killed", "verify.memory_mb")],
)
def test_functions_that_hang_or_hog_are_refused_before_training(
    tmp_path: Path, route: str, complaint: str
) -> None:
    name = "tests.tasks.grading.own_rewards:length"
    settings = {"prompt_column": "q", "answer_column": None, "reward": name}
    task = RowsTask(source=write(tmp_path / "x.jsonl"), **settings)
    verifier = Told((RewardFunction(name),))
    verifier_class: Any = Told
    verifier_class.route = route
    with pytest.raises(ValueError, match=f"own_rewards:length .*{complaint}"):
        task.rehearse(Grader(verifier))
