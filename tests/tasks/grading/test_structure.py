"""Answers are taken apart at brackets and separators, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g2rl.tasks.grading.structure import Part, closing_place, parse, simple_groups, split


def shape(part: Part) -> object:
    """Kinds and leaves of a tree, as nested tuples."""
    if part.kind == "leaf":
        return part.text
    return (part.kind, *(shape(member) for member in part.parts))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x+1", "x+1"),
        ("1,2", ("list", "1", "2")),
        ("(1,2)", ("tuple", "1", "2")),
        ("((1,2))", ("tuple", "1", "2")),
        ("(1,2),(3,4)", ("list", ("tuple", "1", "2"), ("tuple", "3", "4"))),
        (r"\{1,\frac{1}{2}\}", ("set", "1", r"\frac{1}{2}")),
        (r"[0,1)\cup(2,3)", ("union", ("tuple", "0", "1"), ("tuple", "2", "3"))),
        (r"x=\pm 2", ("list", ("chain", "x", "+ 2"), ("chain", "x", "- 2"))),
        (r"-1\leq x<2", ("chain", "-1", "x", "2")),
        (r"x<1\lor x>2", ("or", ("chain", "x", "1"), ("chain", "x", "2"))),
        (r"f(a,b)+\sqrt[3]{x,y}", r"f(a,b)+\sqrt[3]{x,y}"),
        (r"\sum_{k=1}^{n} k", r"\sum_{k=1}^{n} k"),
        ("1,1,2", ("list", "1", "2")),
        (
            r"\begin{pmatrix}1&2\\3&4\end{pmatrix}",
            ("table", ("row", "1", "2"), ("row", "3", "4")),
        ),
    ],
)
def test_structures(text: str, expected: object) -> None:
    assert shape(parse(text)) == expected


def test_signs_are_written_out_together_or_independently() -> None:
    assert [part.text for part in parse(r"a\pm b").parts] == ["a+ b", "a- b"]
    assert [part.text for part in parse(r"\pm a\mp b").parts] == ["a- b", "- a+ b"]
    assert len(parse(r"\pm a\pm b").parts) == 4


def test_brackets_of_a_pair_are_kept() -> None:
    assert parse("(0,1]").signs == ("(", "]")
    assert parse("x<=y").kind == "leaf"  # only normalised signs divide


def test_places_of_brackets() -> None:
    assert closing_place("(a(b)c)d", 0) == 7
    assert closing_place("(a", 0) == -1
    assert simple_groups("2[x+(y)]-[a,b]") == [(1, 7)]
    assert split("a,(b,c),d", {","}) == (["a", "(b,c)", "d"], [",", ","])


@given(st.text(alphabet="x1,()[]{}\\=<&|+-pmcup ", max_size=120))
def test_any_text_has_a_structure(text: str) -> None:
    assert parse(text).kind
