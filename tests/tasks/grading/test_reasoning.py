"""Reasoning: what opens and closes it, also where the prompt opened it."""

from __future__ import annotations

import pytest

from g2rl.tasks.grading.choice import ChoiceVerifier
from g2rl.tasks.grading.extract import extract_answer
from g2rl.tasks.grading.math import MathVerifier
from g2rl.tasks.grading.reasoning import CUT_OFF, MARKERS, opened_by, spoken
from g2rl.types import Problem

HARMONY = "<|channel|>analysis<|message|>maybe 7<|end|><|start|>assistant"


@pytest.mark.parametrize(("opening", "closing"), MARKERS)
def test_only_what_follows_reasoning_is_read(opening: str, closing: str) -> None:
    assert extract_answer(rf"{opening}maybe \boxed{{1}}{closing}It is \boxed{{2}}.") == "2"
    assert extract_answer(rf"{opening}maybe the answer is 7") is None
    assert extract_answer(rf"{opening}maybe \boxed{{7}}") is None
    assert extract_answer(rf"a{closing}\boxed{{1}}{opening}again \boxed{{2}}") is None


def test_the_channels_of_harmony() -> None:
    final = "<|channel|>final<|message|>It is 5.<|return|>"
    assert spoken(HARMONY + final) == "It is 5."
    assert spoken(HARMONY) == ""
    assert spoken("<|channel|>commentary<|message|>calling<|call|>") == ""
    assert extract_answer(HARMONY + final) == "5"
    assert extract_answer(HARMONY) is None


@pytest.mark.parametrize("here", ["Here is", "Here's"])
def test_the_sentences_of_granite(here: str) -> None:
    thought = f"{here} my thought process: maybe the answer is 7. "
    assert extract_answer(thought) is None
    assert extract_answer(thought + f"{here} my response: The answer is 8.") == "8"

    # in the middle of a text they are ordinary words
    assert extract_answer(f"First. {here} my thought process: the answer is 8.") == "8"


@pytest.mark.parametrize(
    ("prompt", "opened"),
    [
        ("<|im_start|>assistant<|think:start|>", "<|think:start|>"),
        ("<|im_start|>assistant<|think:start|><|think:end|>", ""),
        ("<hy_Assistant><think:opensource>", "<think:opensource>"),
        ("assistant[unused16]", "[unused16]"),
        ("<|im_start|>assistant\n<think>\n", "<think>"),
        ("<｜Assistant｜><think>", "<think>"),
        ("<|im_start|>assistant\n<think>\nOkay,", "<think>"),
        ("[/INST][THINK]", "[THINK]"),
        ("<|turn>model\n<|channel>thought\n", "<|channel>thought"),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", ""),
        ("<|im_start|>assistant\n", ""),
        ("Put your thoughts into <think> tags, then answer.\n<|im_start|>assistant\n", ""),
        ("Use <think> and </think>.", ""),
        ("Begin with <think>` and go on", ""),
        ("<|start|>assistant<|channel|>analysis<|message|>", "<|channel|>analysis<|message|>"),
        ("", ""),
    ],
)
def test_what_a_prompt_leaves_open(prompt: str, opened: str) -> None:
    assert opened_by(prompt) == opened


def test_a_thought_that_the_prompt_opened_and_nothing_closed_is_no_answer() -> None:
    opened = opened_by("<|assistant|><think>\n")
    assert extract_answer(opened + "maybe the answer is 7") is None
    assert extract_answer(opened + r"maybe 7</think>\boxed{8}") == "8"


def test_a_completion_that_was_cut_off_counts_with_its_box_only() -> None:
    problem = Problem("p", "", "7")
    verifier = MathVerifier()
    assert verifier.grade("so the answer is 7", problem).correct
    cut = verifier.grade("so the answer is 7" + CUT_OFF, problem)
    assert (cut.correct, cut.answer, cut.route) == (False, None, "unparsed")
    assert verifier.grade(r"so \boxed{7}, because" + CUT_OFF, problem).correct

    choice, question = ChoiceVerifier(), Problem("p", "", "B")
    assert choice.grade("The answer is (B).", question).correct
    assert not choice.grade("The answer is (B)." + CUT_OFF, question).correct
    assert choice.grade(r"\boxed{B}" + CUT_OFF, question).correct
