"""Multiple choice: which letter was named, and never a guess."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g2rl.tasks.grading.choice import ChoiceVerifier, choices_of, gold_letter, read_letter
from g2rl.types import Problem
from tests.tasks.grading.shared_data import rows

VERIFIER = ChoiceVerifier()
CHOICES = ["3 m", "4 m", "5 m", "both A and B"]


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        (r"\boxed{B}", "B"),
        (r"\boxed{(B)}", "B"),
        (r"\boxed{b}", "B"),
        (r"\boxed{\text{B}}", "B"),
        (r"\boxed{\text{(B) } 4 \text{ m}}", "B"),
        (r"\boxed{B. 4 m}", "B"),
        (r"$\boxed{\mathbf{B}}$", "B"),
        (r"\boxed{A} no, \boxed{C}", "C"),
        (r"\boxed{4\text{ m}}", "B"),
        (r"\boxed{\text{4 m}}", "B"),
        ("The answer is (B).", "B"),
        ("The answer is B", "B"),
        ("the answer is (b)", "B"),
        ("Answer: B", "B"),
        ("**Answer: B**", "B"),
        ("Answer: **B**", "B"),
        ("The correct option is:\n\n**(B) 4 m**", "B"),
        ("So the best choice is option B, as shown.", "B"),
        ("Option B is correct.", "B"),
        ("(B) is the right one", "B"),
        ("The answer is A. Hmm, the answer is C.", "C"),
        ("Answer: C, but A was right, no wait B.", "B"),
        ("Answer: D, it doesn't make sense for it to be A or B", "D"),
        ("D. it can't be A or B", "D"),
        ("B", "B"),
        ("(B)", "B"),
        ("B.", "B"),
        ("B) 4 m", "B"),
        ("because of that\nB", "B"),
        ("hence\n(B)", "B"),
        ("The answer is 4 m.", "B"),
        ("It must be\n4 m", "B"),
        ("B不是 A", "B"),
        ("答案是B。", "B"),
        ("<think>the answer is (A)</think>The answer is (B)", "B"),
        ("The answer is $B$.", "B"),
        ("The answer is (B)<|im_end|>The answer is (A)", "B"),
    ],
)
def test_a_named_letter_is_read(text: str, letter: str) -> None:
    problem = Problem("p", "", letter, {"choices": CHOICES})
    verdict = VERIFIER.grade(text, problem)
    assert (verdict.answer, verdict.correct) == (letter, True)
    other = Problem("p", "", "A" if letter != "A" else "B", {"choices": CHOICES})
    assert not VERIFIER.grade(text, other).correct


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I do not know.",
        "A long time ago there was a king.",
        "The answer is a matter of taste.",
        "the answer is c",
        "The answer is A or B.",
        "The answer is (A) or (B).",
        "The answer is (J).",
        r"\boxed{J}",
        r"\boxed{7 m}",
        "The ratio of A to C is 0.6. The ratio of T to G is 0.7. The",
        "The answer is not (B).",
        "Answer: A = 3 b",
        "<think>The answer is (B).</think>",
        "<think>The answer is (B).",
        "The answer is 6 m.",
        "I'm sure",
        "Let A be the area and B the base. Then A/B",
        "The answer is A lot of work.",
        r"\boxed{}",
    ],
)
def test_what_names_no_offered_letter_is_unparsed(text: str) -> None:
    for gold in "ABCD":
        verdict = VERIFIER.grade(text, Problem("p", "", gold, {"choices": CHOICES}))
        assert (verdict.correct, verdict.answer, verdict.route) == (False, None, "unparsed")


def test_options_that_differ_in_their_unit_are_told_apart() -> None:
    choices = ["5 m", "5 cm", "5 km"]
    assert read_letter("The answer is 5 cm.", choices) == ("B", "text")
    assert read_letter("The answer is 5.", choices) == (None, "unparsed")


def test_an_option_text_that_two_options_share_names_none() -> None:
    assert read_letter("The answer is yes.", ["yes", "no", "Yes"]) == (None, "unparsed")


@pytest.mark.parametrize(
    "gold",
    ["D", "(D)", "(D) Alina", "D Alina", "D. Alina", "the answer is\n(D) Alina", "both A and B"],
)
def test_golds_are_read_in_every_spelling(gold: str) -> None:
    assert gold_letter(gold, CHOICES) == "D"


def test_without_listed_choices_ten_letters_are_offered() -> None:
    assert len(choices_of(Problem("p", "", "J"))) == 10
    assert VERIFIER.grade(r"\boxed{J}", Problem("p", "", "J")).correct
    assert not VERIFIER.grade(r"\boxed{K}", Problem("p", "", "K")).correct


@given(st.text(alphabet="ABCDEabcd ().:*\\boxed{}answer is$\n", max_size=200))
def test_only_offered_letters_come_out(text: str) -> None:
    letter, route = read_letter(text, ["1", "2", "3"])
    assert letter in (None, "A", "B", "C")
    assert (letter is None) == (route == "unparsed")


def test_keys_are_letters() -> None:
    assert VERIFIER.equivalent("b", "B")
    assert not VERIFIER.equivalent("A", "B")


def test_cases_of_public_graders() -> None:
    cases = [row for row in rows("verifier_cases_dev") if row["kind"] == "mcq"]
    missed = [
        row["id"]
        for row in cases
        if VERIFIER.grade(row["prediction"], Problem("p", "", row["gold"])).correct
        != bool(row["expected"])
    ]
    assert missed == []


def test_agreement_with_the_official_script() -> None:
    """The script draws a random letter for outputs that state none; those 10 of 200 we leave
    unparsed."""
    outputs = rows("mcq_extraction_dev")
    same = unparsed = 0
    for row in outputs:
        letter, _ = read_letter(row["text"], [""] * row["n_choices"])
        same += letter == row["official_pred"]
        unparsed += letter is None
    assert same + unparsed == len(outputs)
    assert unparsed <= 0.05 * len(outputs)


def test_every_mmlu_pro_option_is_found_by_letter_and_by_text() -> None:
    for row in rows("mmlu_pro_sample280"):
        problem = Problem(row["id"], "", row["answer"], {"choices": row["choices"]})
        assert VERIFIER.grade(f"The answer is ({row['answer']}).", problem).correct
        assert VERIFIER.grade(rf"\boxed{{\text{{({row['answer']})}}}}", problem).correct
