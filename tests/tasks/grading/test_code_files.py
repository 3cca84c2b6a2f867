"""Errors of the user's own code are told in one line, whatever their text is."""

from __future__ import annotations

import pytest

from g2rl.tasks.grading.code_files import SHOWN_ERROR, raised, words_of


class WordlessError(Exception):
    def __str__(self) -> str:
        raise LookupError("no text")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("one"), "ValueError: one"),
        (KeyError("one"), "KeyError: 'one'"),
        (ValueError(), "ValueError"),
        (ValueError(" \n\t "), "ValueError"),
        (ValueError("a\n\n  b\r\nc"), "ValueError: a b c"),
        (ValueError("\x1b[31mred\udcff"), r"ValueError: \x1b[31mred\udcff"),
        (ValueError("größer ≤ 2"), "ValueError: größer ≤ 2"),
        (WordlessError(), "WordlessError (whose text cannot be had: LookupError)"),
    ],
)
def test_an_error_is_one_line(error: Exception, words: str) -> None:
    assert words_of(error) == words
    assert raised(error) == f"raised {words}"


def test_of_a_long_text_the_beginning_is_shown() -> None:
    assert words_of(ValueError("x " * 10**6)) == f"ValueError: {('x ' * 150)[:SHOWN_ERROR]}"
