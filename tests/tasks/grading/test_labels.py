"""Labels of enumerations, and lines that were cut off, name no answer."""

from __future__ import annotations

from g2rl.tasks.grading.choice import read_letter
from g2rl.tasks.grading.labels import begins_an_enumeration, is_cut_off, is_label

CHOICES = ["a lack of funds", "the king of France", "Sb", "both A and B", "12"]


def test_a_text_that_goes_on_with_the_next_label_enumerates() -> None:
    assert begins_an_enumeration("A. lack\nB. king", "A")
    assert begins_an_enumeration("(A) is so. (B) is not.", "A")
    assert begins_an_enumeration("I. First.\nII. Second.", "I")
    assert begins_an_enumeration("A. False. B. True.", "A")
    assert not begins_an_enumeration("D. it can't be A or B", "D")


def test_a_last_line_behind_its_predecessor_is_a_label() -> None:
    assert is_cut_off("A. x\nB. y", "C")
    assert is_cut_off("A. x\nB. y", "C.")
    assert is_cut_off("18. x\n19. y", "20")
    assert is_cut_off("Then\n$$", "C")
    assert not is_cut_off("Therefore", "C")
    assert not is_cut_off("$$x$$ so", "C")


def test_a_label_has_neighbours_at_the_beginning_of_lines() -> None:
    text = "A. one\nB. two"
    assert is_label(text, text.index("B"), "B")
    assert not is_label("it is B. two", 6, "B")


def test_forms_in_which_models_name_a_letter() -> None:
    cases = {
        "The symbol is C. Sb.": "C",
        "The element, which is (C).": "C",
        "The definition is:\n\nB. the king of France.": "B",
        "The answer is (B": "B",
        "_Answer:_ B": "B",
        r"\boxed{ [C] }": "C",
        "Option C": "C",
        "Option Selected: B": "B",
        "Answer: I think it is C": "C",
        "Answer: c": "C",
        "... which corresponds to option C.": "C",
        "Therefore, B is the answer.": "B",
        "I would go with C.": "C",
        "Final Answer - B": "B",
        "It is not (B). Therefore it is (C).": "C",
        "The answer is A. The answer is (Z).": "A",
        "The answers are (B).": "B",
        "Thus E. 12": "E",
    }
    for text, letter in cases.items():
        assert read_letter(text, CHOICES)[0] == letter, text


def test_what_only_mentions_letters_names_none() -> None:
    for text in (
        "A. foo\nB. bar\nC.",
        "The options are:\nA. a lack of funds\nB. the king of France\nC. Sb",
        "We have (A) and (B) and (C)",
        "Let set (A) be open.",
        "The answer is (A), (B).",
        "The correct answers are A: 1, B: 2",
        "Hence it is plain that the answer is c.\n\nAnswer: c",
        "1. x\n2. y\n11. z\n12",
        "(A) is not it.",
    ):
        assert read_letter(text, CHOICES) == (None, "unparsed"), text
