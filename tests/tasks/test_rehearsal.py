"""Golds that no response could match are found before training, and sources are those named."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from g2rl.cli.door import refuse_shadowed_sources
from g2rl.tasks.grading.grader import Grader
from g2rl.tasks.grading.math import MathVerifier
from g2rl.tasks.math import MathTask
from g2rl.tasks.rehearsal import REHEARSED, rehearse_golds
from g2rl.tasks.rows import locate
from g2rl.types import Problem
from tests.support import composed


def in_process() -> Grader:
    """A grader that judges in this process, which costs no start of a worker."""
    verifier = MathVerifier()

    def grade(items: list[tuple[str, Problem]]) -> list[Any]:
        return [verifier.grade(text, problem) for text, problem in items]

    return cast(Grader, SimpleNamespace(grade=grade))


def problems(*golds: str) -> list[Problem]:
    return [Problem(f"p/{i}", "?", gold, {"kind": "math"}) for i, gold in enumerate(golds)]


def test_golds_that_are_right_by_their_verifier_pass() -> None:
    rehearse_golds(problems("16", r"\frac{1}{2}", "x^2+1"), in_process(), "no advice")


def test_a_gold_that_no_response_could_match_is_refused_by_name() -> None:
    broken = "16}} \\boxed{17"
    with pytest.raises(ValueError, match=r"^p/1: the gold .*1 of 3 golds.*; mend it"):
        rehearse_golds(problems("16", broken, "3"), in_process(), "mend it")
    rehearse_golds(problems("16", broken, "3"), in_process(), "mend it", tolerated=0.5)


def test_golds_are_tried_all_over_the_file() -> None:
    asked: list[str] = []

    def grade(items: list[tuple[str, Problem]]) -> list[Any]:
        asked.extend(problem.answer for _, problem in items)
        return [SimpleNamespace(correct=True) for _ in items]

    grader = cast(Grader, SimpleNamespace(grade=grade))
    rehearse_golds(problems(*map(str, range(320))), grader, "")
    assert len(asked) == REHEARSED
    assert asked[:2] == ["0", "10"]


def test_an_answer_in_the_manner_of_gsm8k_is_what_follows_its_mark(tmp_path: Path) -> None:
    rows = [{"problem": "What is 7 + 9?", "answer": "We add: 7 + 9 = 16\n#### 16"}]
    rows += [{"problem": "And 1 + 1?", "answer": "2"}]
    file = tmp_path / "mine.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows))
    task = MathTask(source=str(file), answer_column="auto")
    assert [problem.answer for problem in task.problems] == ["16", "2"]
    task.rehearse(in_process())


def test_a_file_that_is_named_is_read_whatever_the_folder_of_copies(tmp_path: Path) -> None:
    (tmp_path / "math_train.jsonl").touch()
    named = str(tmp_path / "mine.jsonl")
    assert locate(named, str(tmp_path), "math_train.jsonl") == named
    copy = str(tmp_path / "math_train.jsonl")
    assert locate("some/hub-id", str(tmp_path), "math_train.jsonl") == copy


def test_a_hub_id_that_a_local_copy_of_another_would_replace_is_refused() -> None:
    words = ["task=math", "data_dir=D", "task.source.source=other/set"]
    with pytest.raises(ValueError, match=r"^task\.source\.source=other/set with data_dir=D"):
        refuse_shadowed_sources(words, composed(*words))
    for mend in ("task.source.local_name=x.jsonl", "task.source.data_dir=null"):
        refuse_shadowed_sources([*words, mend], composed(*words, mend))
    named_file = ["task=math", "data_dir=D", "task.source.source=D/mine.jsonl"]
    refuse_shadowed_sources(named_file, composed(*named_file))
