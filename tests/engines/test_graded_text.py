"""What the grader reads: markers that the prompt opened or that decoding dropped come back."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from g2rl.engines.graded_text import graded_item, marker_tokens, with_markers
from g2rl.tasks.grading.grader import Grader
from g2rl.tasks.grading.math import MathVerifier
from g2rl.tasks.grading.reasoning import CUT_OFF
from g2rl.types import Completion, Problem, Verdict

PIECES = ["Q", "<think>", "</think>", "[THINK]", "[/THINK]", r"\boxed{7}", "<end>"]


class Pieces:
    """A tokenizer of whole pieces; those with index 3, 4 and 6 are special."""

    def __init__(self) -> None:
        self.added_tokens_decoder = {}
        for place, piece in enumerate(PIECES):
            is_special = place in (3, 4, 6)
            self.added_tokens_decoder[place] = SimpleNamespace(content=piece, special=is_special)

    def decode(self, token_ids: list[int], skip_special_tokens: bool = False) -> str:
        kept = [place for place in token_ids if not (skip_special_tokens and place in (3, 4, 6))]
        return "".join(PIECES[place] for place in kept)


def completion(*token_ids: int, finish: str = "stop") -> Completion:
    text = Pieces().decode(list(token_ids), skip_special_tokens=True)
    return Completion(list(token_ids), finish, text)


def read(prompt: list[int], sampled: Completion) -> str:
    tokenizer: Any = Pieces()
    return with_markers(tokenizer, [prompt], [[sampled]])[0][0].text


def test_what_the_prompt_opened_stands_in_front() -> None:
    assert read([0, 1], completion(5, 6)) == r"<think>\boxed{7}"
    assert read([0, 1, 2], completion(5, 6)) == r"\boxed{7}"
    assert read([0], completion(1, 5, 2, 6)) == r"<think>\boxed{7}</think>"


def test_markers_that_are_special_tokens_come_back() -> None:
    assert marker_tokens(Pieces()) == {3, 4}  # type: ignore[arg-type]
    assert read([0], completion(3, 5, 6)) == r"[THINK]\boxed{7}"
    assert read([0], completion(3, 4, 5, finish="length")) == r"[THINK][/THINK]\boxed{7}"
    assert read([0], completion(5, 6)) == r"\boxed{7}"  # nothing dropped, nothing decoded again


def test_a_token_that_only_begins_a_marker_comes_back() -> None:
    """Gemma 4 writes <|channel>thought, of which <|channel> is a special token."""
    pieces = ("<|channel>", "<channel|>", "<|chan|>", "<eos>", "", "thought")
    table: dict[int, Any] = {}
    for place, piece in enumerate(pieces):
        table[place] = SimpleNamespace(content=piece, special=place < 5)
    tokenizer: Any = SimpleNamespace(added_tokens_decoder=table)
    assert marker_tokens(tokenizer) == {0, 1}


def test_a_cut_off_thought_earns_nothing() -> None:
    verifier, problem = MathVerifier(), Problem("p", "", "7")
    assert verifier.grade(read([0], completion(5, 6)), problem).correct
    assert not verifier.grade(read([0, 1], completion(5, 6)), problem).correct
    assert not verifier.grade(read([0], completion(3, 5, 6)), problem).correct


class Echo:
    """A bounded verifier that answers with what it was given."""

    bounded = True

    def grade(self, completion: str, problem: Problem) -> Verdict:
        return Verdict(True, completion, "-")

    def key(self, answer: str) -> str:
        return answer

    def equivalent(self, left: str, right: str) -> bool:
        return left == right


def test_only_verifiers_that_mind_are_told_of_a_cut() -> None:
    problem = Problem("p", "", "7")
    assert graded_item("x", "stop", problem) == ("x", problem)
    item = graded_item("x", "length", problem)
    assert item == ("x" + CUT_OFF, problem)
    with Grader(Echo()) as grader:
        assert grader.grade([item])[0].answer == "x"
    Echo.minds_cut_off = True  # type: ignore[attr-defined]
    with Grader(Echo()) as grader:
        assert grader.grade([item])[0].answer == "x" + CUT_OFF
    del Echo.minds_cut_off  # type: ignore[attr-defined]
