"""Arithmetic: what is asked, what counts as right, exact counts of answers, and the experiment."""

from __future__ import annotations

import random
import re

import pytest

from g2rl.cli.build.benchmarks import build_benchmarks
from g2rl.evaluation.estimates import answer_classes, count_right_classes
from g2rl.tasks.arithmetic import (
    FORMS,
    HELD_OUT_TARGETS,
    Arithmetic,
    BetweenVerifier,
    PartsVerifier,
    SumVerifier,
    problems,
)
from g2rl.tasks.benchmarks.arithmetic import arithmetic_benchmark
from g2rl.tasks.grading.grader import Grader
from g2rl.tasks.task import refuse_leaks
from g2rl.types import Problem
from tests.support import composed


def asked(form: str) -> Problem:
    return problems(form, held_out=True)[0]


def test_prompts_are_few_shot_and_every_example_is_right() -> None:
    *shots, question = asked("sum").prompt.split("\n")
    assert len(shots) == 3
    for shot in shots:
        terms, total = shot.split(" = ")
        left, right = terms.split(" + ")
        assert int(left) + int(right) == int(total)
    left, right = asked("sum").meta["terms"]
    assert question == f"{left} + {right} ="
    assert asked("sum").answer == str(left + right)

    *shots, question = asked("parts").prompt.split("\n")
    for shot in shots:
        target, parts = shot.removeprefix("two numbers that make ").split(": ")
        left, right = parts.split(" + ")
        assert int(left) + int(right) == int(target)
    assert question == f"two numbers that make {asked('parts').meta['target']}:"

    *shots, question = asked("between").prompt.split("\n")
    for shot in shots:
        lower, number, upper = (int(shot.split(" ")[place]) for place in (1, 5, 3))
        assert lower < number < upper
    lower, upper = asked("between").meta["bounds"]
    assert question == f"between {lower} and {upper} is"


@pytest.mark.parametrize("form", FORMS)
def test_no_held_out_problem_and_no_example_is_trained_on(form: str) -> None:
    task = Arithmetic(form)
    held_out = arithmetic_benchmark(form).problems
    refuse_leaks(task, held_out, "arithmetic")
    questions = {problem.prompt.rsplit("\n", 1)[1] for problem in [*task.problems, *held_out]}
    assert len(questions) == len(task.problems) + len(held_out)
    for shot in held_out[0].prompt.split("\n")[:-1]:
        assert not any(shot.startswith(question) for question in questions)
    assert task.may_draw(task.problems[5])
    assert not task.may_draw(Problem("other", "p", "1", {}))


def test_a_sum_in_the_other_order_is_the_same_sum() -> None:
    task = Arithmetic("sum")
    left, right = task.problems[0].meta["terms"]
    turned = Problem("mine", f"{right} + {left} =", str(left + right), {"terms": [right, left]})
    with pytest.raises(ValueError, match="1 of 1 problems of benchmark mine"):
        refuse_leaks(task, [turned], "mine")


@pytest.mark.parametrize(
    ("text", "answer", "correct"),
    [
        (" 73", "73", True),
        ("73\n60 + 1", "73", True),
        (" 0073.", "73", True),
        (" 74, no: 73", "74", False),
        (" 7", "7", False),
        (" 731", "731", False),
        ("-73", "73", True),  # the first number; a sign is not part of it
        (" 73.9", "73.9", False),
        (" 73.0", "73", True),
        (" 73.00, that is 73.1", "73", True),
        (" 73,000", "73000", False),
        (" 1,073", "1073", False),
        (" .73", "0.73", False),
        (" 0.730 73", "0.73", False),
        # what ends a number
        ("73.", "73", True),
        ("73. 60", "73", True),
        ("73.\n60 + 18", "73", True),
        ("73, 4", "73", True),
        ("73,4", "73", True),
        ("73,4000", "73", True),
        ("73\n", "73", True),
        ("73 000", "73", True),
        ("it is.73", "73", True),
        ("...73", "73", True),
        (" seventy", None, False),
        ("", None, False),
        (" ٧٣", None, False),
        (" " * 70 + "73", None, False),
        ("9" * 10**5, "9" * 64, False),
    ],
)
def test_the_first_number_counts(text: str, answer: str | None, correct: bool) -> None:
    problem = Problem("p", "47 + 26 =", "73", {"terms": [47, 26]})
    verdict = SumVerifier().grade(text, problem)
    assert (verdict.answer, verdict.correct) == (answer, correct)


@pytest.mark.parametrize(
    ("text", "answer", "correct"),
    [
        (" 47 + 26", "26+47", True),
        (" 26 + 47\ntwo", "26+47", True),
        ("72+1", "1+72", True),
        (" 0 + 73", "0+73", False),
        (" 47 + 25", "25+47", False),
        (" 40 + 33 + 1", "33+40", True),  # what follows is not read
        (" 73", None, False),
        (" 47 - 26", None, False),
        # a sum does not begin or end inside a number
        (" 10.5 + 62.5", "10.5+62.5", False),
        (" 10.5 + 68", "10.5+68", False),
        (" 36.7 + 36.3", "36.3+36.7", False),
        (" 47 + 26.5", "26.5+47", False),
        (" 26.0 + 47.", "26+47", True),
        (" 26,000 + 47", "47+26000", False),
        (" 0.0 + 73", "0+73", False),
        (" 9, 47 + 26", "26+47", True),
        (" 73 is 47+26", "26+47", True),
        ("", None, False),
    ],
)
def test_two_numbers_make_the_target(text: str, answer: str | None, correct: bool) -> None:
    problem = Problem("p", "two numbers that make 73:", "1+72", {"target": 73, "solutions": 36})
    verdict = PartsVerifier().grade(text, problem)
    assert (verdict.answer, verdict.correct) == (answer, correct)


@pytest.mark.parametrize(
    ("text", "answer", "correct"),
    [
        (" 31", "31", True),
        (" 049\nbetween", "49", True),
        (" 30", "30", False),
        (" 50", "50", False),
        (" 131", "131", False),
        (" -40", "40", True),  # the first number; a sign is not part of it
        (" 20, no: 40", "20", False),
        (" 31,000", "31000", False),
        (" 40.5", "40.5", False),
        (" 40.0 or 41", "40", True),
        (" 40, 41", "40", True),
        (" 40.", "40", True),
        (" forty", None, False),
    ],
)
def test_a_number_lies_between_and_is_no_bound(
    text: str, answer: str | None, correct: bool
) -> None:
    problem = Problem("p", "between 30 and 50 is", "31", {"bounds": [30, 50], "solutions": 19})
    verdict = BetweenVerifier().grade(text, problem)
    assert (verdict.answer, verdict.correct) == (answer, correct)


def test_responses_of_plain_integers_are_read_as_they_always_were() -> None:
    """Stored results were graded by the first run of digits, and by the first sum of two runs."""
    rng = random.Random(0)
    signs = [" ", "\n", "+", " + ", " = ", "-", ", ", ". ", ": ", "x", ""]
    sum_of = Problem("s", "", "73", {"terms": [47, 26]})
    parts_of = Problem("p", "", "1+72", {"target": 73, "solutions": 36})
    for _ in range(2000):
        numbers = [str(rng.choice([0, 7, 26, 47, 73, 1000])) for _ in range(4)]
        text = "".join(f"{rng.choice(signs)}{number}" for number in numbers)
        first = re.search(r"\d+", text)
        assert first is not None
        assert SumVerifier().grade(text, sum_of).answer == str(int(first[0]))
        pair = re.search(r"(\d+)\s*\+\s*(\d+)", text)
        verdict = PartsVerifier().grade(text, parts_of)
        if pair is None:
            assert verdict.answer is None
            continue
        left, right = sorted((int(pair[1]), int(pair[2])))
        assert verdict.answer == f"{left}+{right}"
        assert verdict.correct == (left > 0 and left + right == 73)


def test_numbers_between_are_counted_exactly() -> None:
    verifier = BetweenVerifier()
    for problem in problems("between", held_out=True):
        verdicts = [verifier.grade(f" {number}", problem) for number in range(200)]
        right = {verdict.answer for verdict in verdicts if verdict.correct}
        assert len(right) == problem.meta["solutions"]
        assert problem.answer in right


def test_right_answers_are_counted_exactly() -> None:
    """Every ordered pair of a target, both orders: n // 2 distinct answers."""
    verifier = PartsVerifier()
    with Grader(verifier) as grader:
        for problem in problems("parts", held_out=True)[:3]:
            target = problem.meta["target"]
            verdicts = [
                verifier.grade(f" {left} + {target - left}", problem) for left in range(1, target)
            ]
            correct = [verdict.correct for verdict in verdicts]
            assert all(correct)
            classes = answer_classes(verdicts, grader)
            assert count_right_classes(classes, correct) == target // 2
            assert problem.meta["solutions"] == target // 2


def test_every_target_is_asked_once_and_forms_are_named() -> None:
    train, held_out = (problems("parts", held_out=flag) for flag in (False, True))
    targets = sorted(problem.meta["target"] for problem in [*train, *held_out])
    assert targets == [n for n in range(10, 100) if n not in (46, 95, 31)]
    assert len(held_out) == HELD_OUT_TARGETS
    with pytest.raises(ValueError, match=r"one of \('sum', 'between', 'parts'\), got 'product'"):
        Arithmetic("product")


@pytest.mark.parametrize("form", FORMS)
def test_the_experiment_asks_without_a_chat_template(form: str) -> None:
    config = composed("experiment=arithmetic_smollm2", f"task=arithmetic_{form}")
    assert (config.model.name, config.model.chat, config.optimizer.lr) == (
        "smollm2_135m",
        False,
        1e-5,
    )
    [benchmark] = build_benchmarks(config.benchmark)
    assert benchmark.name == config.task.name == f"arithmetic_{form}"
    assert (len(benchmark.problems), benchmark.samples) == (24, 8)
    assert benchmark.params.max_tokens == config.task.max_response_tokens
