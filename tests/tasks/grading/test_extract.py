"""Final-answer extraction: the policy, rule by rule, and its cost."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g2rl.tasks.grading.extract import (
    MAX_ANSWER,
    MAX_DEPTH,
    MAX_TAIL,
    boxes,
    extract_answer,
    final_text,
    last_boxed,
    too_deep,
)

BOXED = [
    (r"so $\boxed{5}$.", "5"),
    (r"\boxed{\frac{1}{\sqrt{2}}} is it", r"\frac{1}{\sqrt{2}}"),
    (r"first \boxed{1}. Then, after checking, \boxed{2}.", "2"),
    (r"\fbox{7}", "7"),
    (r"\boxed 5", "5"),
    (r"$\boxed 12$", "12"),
    (r"\boxed {8}", "8"),
    (r"\boxed{\{1,2\}}", r"\{1,2\}"),
    (r"\boxed{x=\boxed{3}}", "x={3}"),
    (r"\boxed{1} and \boxed{2}", "1,2"),
    (r"\boxed{(1,2)}, \boxed{(3,4)}", "(1,2),(3,4)"),
    (r"$\boxed{x=1} \text{ or } \boxed{x=2}$", "x=1,x=2"),
    (r"\boxed{4}, which is \boxed{4}", "4"),
    (r"\boxed{1}, so we get \boxed{2}", "2"),
    ("\\boxed{1}\n\nWait, \\boxed{2}", "2"),
    (r"\boxed{1}, no, \boxed{2}", "2"),
    (r"{unbalanced \boxed{3}", "3"),
    (r"\boxed{6}} } }", "6"),
    (r"\boxed{2} then \boxed{3", "2"),
    (r"</think>\boxed{42}", "42"),
    (r"<think>\boxed{1}</think>\boxed{2}", "2"),
    (r"a</think>b \boxed{1}</think>c \boxed{2}", "2"),
    (r"\boxed{5}<|im_end|>\boxed{6}", "5"),
    (r"\boxed{5}. Final Answer: The final answer is $6$. I hope it is correct.", "$6$"),
]


@pytest.mark.parametrize(("text", "answer"), BOXED)
def test_the_last_box_is_the_answer(text: str, answer: str) -> None:
    assert extract_answer(text) == answer
    if "final answer" not in text:
        assert extract_answer(text, boxed_only=True) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is 4.", "4"),
        ("The answer is $x+1$. Hence we are done.", "$x+1$"),
        ("Answer: 3/4", "3/4"),
        ("We sum 3 and 4, so there are 7 apples in the basket.", "7"),
        ("the probability that Alice wins the game is 2/3.", "2/3"),
        ("Thus we see that $a=1$ and then $b=2$ follows from it.", "b=2"),
        ("The roots are clearly given by $1$ and $2$.", "1,2"),
        ("In total Haley has **99** marbles here.", "99"),
        ("an increase of 100% in all.", r"100\%"),
        (r"\frac{3}{4}", r"\frac{3}{4}"),
        ("-15", "-15"),
        ("x = 3", "x = 3"),
        ("答案是 12。", "12"),
        ("总共有99颗弹珠。", "99"),
    ],
)
def test_without_a_box_the_statement_or_the_last_formula_counts(text: str, answer: str) -> None:
    assert extract_answer(text) == answer
    assert extract_answer(text, boxed_only=True) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   \n",
        "no number at all, sorry to say",
        r"\boxed{}",
        r"\boxed{ }",
        r"the answer is \boxed{12",
        r"<think>\boxed{5} and so on",
        r"<think>it is \boxed{5}</think>",
        r"<think>a</think>\boxed{1}<think>again \boxed{2}",
        r"\boxed{" + "1" * (MAX_ANSWER + 1) + "}",
        r"\boxed{" + "(" * (MAX_DEPTH + 1) + ")" * (MAX_DEPTH + 1) + "}",
        r"\boxed{5}" + " " + "x" * MAX_TAIL,
    ],
)
def test_no_answer_is_none(text: str) -> None:
    assert extract_answer(text) is None


def test_an_unclosed_box_is_never_read_by_the_fallback() -> None:
    assert extract_answer(r"The answer is 12, that is \boxed{12") is None


def test_limits_are_exact() -> None:
    inner = "1" * MAX_ANSWER
    assert extract_answer(rf"\boxed{{{inner}}}") == inner
    deep = "(" * MAX_DEPTH + ")" * MAX_DEPTH
    assert extract_answer(rf"\boxed{{{deep}}}") == deep
    assert not too_deep("()" * 10_000)


def test_odd_characters_leave_the_answer_encodable() -> None:
    assert extract_answer("\\boxed{4\x00\ud8002}") == "4?2"
    assert final_text("a\x00b") == "ab"


def test_last_boxed_reads_solutions() -> None:
    assert last_boxed(r"we get \boxed{\boxed{1}}, hence \boxed{x^{2}}.") == "x^{2}"
    assert last_boxed("no box") is None


def test_boxes_gives_positions() -> None:
    assert boxes(r"is \boxed{2}") == ([(3, 12, "2")], True)
    assert boxes(r"is \boxed{2") == ([], True)
    assert boxes("is 2") == ([], False)


@given(st.text(alphabet="\\boxedfrac{}()[]$0123 .,=answeri\n<think>/|", max_size=300))
def test_any_text_gives_a_clean_answer_or_none(text: str) -> None:
    answer = extract_answer(text)
    if answer is not None:
        assert answer == answer.strip() != ""
        assert len(answer) <= MAX_ANSWER
        assert not too_deep(answer)
        answer.encode("utf-8")


@given(st.text(max_size=60), st.text(alphabet="abx0123456789+-=^_ ,.()", min_size=1, max_size=40))
def test_what_stands_in_the_last_box_comes_out(before: str, content: str) -> None:
    answer = extract_answer(
        "<think></think>"
        + before.replace("think", "")
        + " so we finally have \\boxed{"
        + content
        + "}"
    )
    depth_is_fine = content.strip() != ""
    assert answer == (content.strip() if depth_is_fine else None)


@pytest.mark.parametrize(
    "unit", ["\\boxed{", "{", "$", "answer is ", "1,", "\\", "**", "\\[x", "<think>"]
)
def test_time_grows_linearly(unit: str) -> None:
    def seconds(length: int) -> float:
        text = unit * (length // len(unit))
        times = []
        for _ in range(3):
            start = time.thread_time()
            extract_answer(text)
            times.append(time.thread_time() - start)
        return min(times)

    assert seconds(1_000_000) < 0.5  # a quadratic scan of a million characters takes minutes
