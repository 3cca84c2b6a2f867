"""String normalisation: what counts as the same spelling, and what must stay apart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g2rl.tasks.grading.normalize import as_words, has_percent, key, normalize

SAME = [
    (r"\dfrac{1}{2}", r"\frac{1}{2}"),
    (r"\tfrac83", r"\frac{8}{3}"),
    (r"\frac1{72}", r"\frac{1}{72}"),
    (r"\sqrt2", r"\sqrt{2}"),
    ("$x+1$", "x + 1"),
    (r"\(x\)", "x"),
    (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\frac{\pi}{2})"),
    (r"10\%", "10"),
    ("28 percent", r"28\%"),
    (r"\$16,\!386.20", "16386.20"),
    ("1,000", "1000"),
    ("1,234,567.5", "1234567.5"),
    (r"1{,}000", "1000"),
    ("1 000", "1000"),
    (r"10\,080", "10080"),
    (r"\frac{1}{29,\!322,\!216}", r"\frac{1}{29322216}"),
    ("3{,}5", "3.5"),
    (r"90^\circ", "90"),
    (r"90^{\circ}", "90"),
    ("90°", "90"),
    (r"10\text{ cm}^2", "10"),
    (r"125\textnormal{ miles}", "125"),
    (r"17\text{ any text}", "17"),
    ("10 units", "10"),
    (r"\text{(C)}", "C"),
    (r"\mathrm{E}", "E"),
    (r"\text{Yes}", "yes"),
    ("Tuesday.", r"\text{tuesday}"),
    ("x²", "x^2"),
    ("½", r"\frac12"),
    ("９", "9"),
    ("𝟗", "9"),
    ("2 × 3", r"2\times 3"),
    ("x ≤ 2", r"x \le 2"),
    ("x <= 2", r"x \leq 2"),
    ("x != 2", r"x \ne 2"),
    (".5", "0.5"),
    ("185\\", "185"),
    (r"19, 46, \text{ and } 82", "19,46,82"),
    ("(0;1)", "(0,1)"),
    (r"x_{1}", "x_1"),
    ("[45 degrees]", "45"),
    (r"12^{\text{th}}", "12"),
]


@pytest.mark.parametrize(("left", "right"), SAME)
def test_spellings_of_one_answer_share_a_key(left: str, right: str) -> None:
    assert key(left) == key(right)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("(1,000)", "(1000)"),
        ("1,000,2", "10002"),
        ("1,2", "12"),
        ("3 4", "34"),
        ("0,111", "0111"),
        ("x^{12}", "x^1 2"),
        ("x", "X"),
        (r"\text{odd}", "oddd"),
        ("3:00 PM", "3:00 AM"),
        (r"3\text{ PM}", r"3\text{ AM}"),
        ("5!", "5"),
        ("[0,1)", "(0,1)"),
        ("-5", "5"),
        ("1.5", "15"),
        (r"\sqrt{2}3", r"\sqrt{23}"),
        ("x²3", "x^{23}"),
        (r"0.\overline{3}", "0.3"),
    ],
)
def test_different_answers_keep_different_keys(left: str, right: str) -> None:
    assert key(left) != key(right)


def test_percent_is_seen_in_every_spelling() -> None:
    assert all(
        has_percent(text) for text in ("10%", r"10\%", "10 percent", r"10\text{ percent}", "10％")
    )
    assert not has_percent("10")


def test_words_and_variables_are_told_apart() -> None:
    assert as_words("even") == "even"
    assert as_words(r"\text{odd}") == "odd"
    assert as_words("No") == "no"
    assert as_words("abc") is None
    assert as_words("a-bc") is None
    assert as_words("x, y") is None
    assert as_words("C") is None


def test_matrices_keep_their_rows() -> None:
    assert r"\\" in normalize(r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}")


@given(st.integers(-(10**12), 10**12))
def test_thousands_separators_never_change_an_integer(number: int) -> None:
    assert key(f"{number:,}") == key(str(number)) == str(number)


@given(st.text(max_size=200))
def test_any_text_has_a_key_and_the_key_is_stable(text: str) -> None:
    once = key(text)
    assert once == key(text)
    assert normalize(text).isascii() or not text.isascii()


@given(st.text(alphabet="0123456789,.$\\{}^ ()x+-!", max_size=40))
def test_outer_delimiters_and_spaces_do_not_matter(text: str) -> None:
    assert key(f"  {text} ") == key(text)
