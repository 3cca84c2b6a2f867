"""Multiple choice: options, letters, shuffling. The items are our own, never published ones."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from g2rl.tasks.benchmarks.choice import INSTRUCTION, choice_benchmark, choice_problem, shuffled
from g2rl.tasks.grading.choice import ChoiceVerifier
from g2rl.tasks.places import Origin
from g2rl.tasks.rows import DataError, read_rows
from tests.support import DATA

GPQA, MMLU = str(DATA / "gpqa_diamond.jsonl"), str(DATA / "mmlu_pro.jsonl")


def made(row: dict[str, Any], seed: int | None = None) -> Any:
    return choice_problem("x/0", row, INSTRUCTION, seed, Origin("file"), 7)


def test_padding_is_dropped_and_the_letter_follows_its_option() -> None:
    first, second, third = choice_benchmark("mmlu_pro", MMLU).problems
    assert first.meta["choices"] == ["21", "27", "29", "33"]
    assert first.answer == "C"  # D in the file, before "N/A" was dropped
    assert (
        first.prompt
        == f"Which of these numbers is prime?\n\nA. 21\nB. 27\nC. 29\nD. 33\n\n{INSTRUCTION}"
    )
    assert len(second.meta["choices"]) == 10
    assert third.meta["choices"] == ["Mass", "Temperature"]
    assert (first.id, first.meta["group"]) == ("mmlu_pro/1", "math")


def test_options_are_shuffled_by_the_row_alone() -> None:
    rows = read_rows(GPQA)
    benchmark = choice_benchmark("gpqa_diamond", GPQA, shuffle_seed=0)
    for row, problem in zip(rows, benchmark.problems, strict=True):
        assert problem.meta["choices"]["ABCD".index(problem.answer)] == row["Correct Answer"]
        assert sorted(problem.meta["choices"]) == sorted(v for k, v in row.items() if "Answer" in k)
        assert made(row, 0).meta["choices"] == problem.meta["choices"], (
            "whatever its place in the file"
        )
    other = choice_benchmark("gpqa_diamond", GPQA, shuffle_seed=1)
    assert [p.answer for p in other.problems] != [p.answer for p in benchmark.problems]


def test_the_right_letter_is_uniform_over_questions() -> None:
    places = Counter(shuffled(4, f"question {i}", 0).index(0) for i in range(2000))
    assert set(places) == {0, 1, 2, 3}
    assert all(abs(count - 500) < 5 * (2000 * 3 / 16) ** 0.5 for count in places.values())


def test_the_order_is_pinned() -> None:
    # worked out once: a library that changes its generator must not change published numbers
    found = [shuffled(4, "Which of these is a noble gas?", seed) for seed in range(3)]
    assert found == [[1, 3, 2, 0], [1, 0, 3, 2], [0, 1, 3, 2]]


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (
            {"question": "q", "options": ["a", "b"], "answer": "C"},
            "row 8 .*: answer 'C' names none of its 2",
        ),
        ({"question": "q", "options": ["a", "N/A"], "answer": "B"}, "names none"),
        (
            {"question": "q", "options": ["a", "N/A"], "answer": "A"},
            "1 options; a question needs 2",
        ),
        ({"question": "q", "answer": "A"}, "no column 'choices or options'"),
        ({"options": ["a", "b"], "answer": "A"}, "no column 'problem or question or Question'"),
        ({"question": "q", "options": ["a", "b"]}, "no column 'answer'"),
        ({"Question": "q", "Correct Answer": "a"}, "no column 'Incorrect Answer 1'"),
    ],
)
def test_unusable_rows_are_named(row: dict[str, Any], complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        made(row, 0 if "Question" in row else None)


def test_a_file_whose_right_option_stands_first_must_be_shuffled() -> None:
    with pytest.raises(DataError, match="shuffle_seed"):
        choice_benchmark("gpqa_diamond", GPQA)


def test_an_answer_may_be_an_index() -> None:
    assert made({"question": "q", "options": ["a", "b", "c"], "answer": 2}).answer == "C"


def test_letters_are_graded_and_an_unread_answer_is_wrong() -> None:
    problem = choice_benchmark("mmlu_pro", MMLU).problems[0]
    verifier = ChoiceVerifier()
    said = {
        "\\boxed{C}": True,
        "\\boxed{29}": True,
        "The answer is (C).": True,
        "\\boxed{A}": False,
        "hm": False,
    }
    assert {text: verifier.grade(text, problem).correct for text in said} == said
    assert verifier.grade("hm", problem).route == "unparsed"
