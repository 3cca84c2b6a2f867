r"""Pairs of answers by kind: what is one answer in two spellings, and what only looks like it.

Each kind has both, so a rule that accepts too much fails here as one does that accepts too little.
"""

from __future__ import annotations

import time

import pytest

from g2rl.tasks.grading.math import MathVerifier
from g2rl.types import Problem

SAME = {
    "equations": [
        ("x^2+2x+1=0", "(x+1)^2=0"),
        (r"y=\frac{1}{x}", "xy=1"),
        ("2x+3y=6", r"y=2-\frac{2x}{3}"),
        ("5=x", "x=5"),
        (r"y \ge 2x+1", r"2x - y + 1 \le 0"),
        ("x=1, y=2", "y=2, x=1"),
    ],
    "sets": [
        (r"\{x \in \mathbb{R} : -1 < x < 3\}", "(-1,3)"),
        (r"x\neq 0", r"(-\infty,0)\cup(0,\infty)"),
        (r"\mathbb{R}\setminus\{0\}", r"x \ne 0"),
        (r"x<2 \text{ or } x>3", r"(-\infty,2)\cup(3,\infty)"),
        (r"x>1 \text{ and } x<3", "(1,3)"),
        (r"x \le -1 \cup x \ge 3", r"(-\infty,-1]\cup[3,\infty)"),
        (r"[-\sqrt8,1]", r"-2\sqrt2\le x\le 1"),
    ],
    "units": [
        ("2 hours", "120 minutes"),
        ("72 km/h", "20 m/s"),
        (r"\$5", "500 cents"),
        (r"12\text{ square feet}", r"12\text{ ft}^2"),
        (r"3\text{ L}", r"3000\text{ mL}"),
        (r"5\text{ dollars}", r"\$5"),
        (r"9π cm²", r"9\pi"),
        (r"5\,\Omega", "5"),
        (r"5\ \text{m/s}^2", "5"),
        ("72 clips", "72"),
    ],
    "numbers": [
        (r"0.\overline{142857}", r"\frac17"),
        ("0.1666...", r"\frac16"),
        ("0.(3)", "1/3"),
        ("6.02e23", r"6.02 \times 10^{23}"),
        ("3 x 10^8", r"3\times10^8"),
        (r"\sqrt{3+2\sqrt2}", r"1+\sqrt2"),
        ("(101)_2", "101_2"),
        ("2½", "5/2"),
        ("3⅛", r"\frac{25}{8}"),
    ],
    "functions": [
        ("sqrt(x^2+1)", r"\sqrt{x^2+1}"),
        ("ln(4)/2", r"\ln 2"),
        ("cbrt(2)", r"\sqrt[3]{2}"),
        (r"\log_e 2", r"\ln 2"),
        ("exp(2)", "e^2"),
        ("8*[2*cos(t)]^2", r"32\cos^2 t"),
        (r"\sin 20^\circ", r"\sin\frac{\pi}{9}"),
        (r"\operatorname{lcm}(6,4)", "12"),
        ("x^(1/2)", r"\sqrt{x}"),
    ],
    "complex": [
        ("(1+i)^2", "2i"),
        (r"e^{i\pi}", "-1"),
        ("14.0 + -1.0i", "14-i"),
        (r"\cos(\pi/3)+i\sin(\pi/3)", r"e^{i\pi/3}"),
        (r"3\pm 2i", "3+2i, 3-2i"),
    ],
    "plus-minus": [
        (r"\frac{1\pm\sqrt{17}}{4}", r"\frac{1-\sqrt{17}}{4},\frac{1+\sqrt{17}}{4}"),
        (r"-\frac12\pm\frac{\sqrt5}{2}", r"\frac{-1\pm\sqrt5}{2}"),
        (r"x=\pm 2", "-2, 2"),
    ],
    "decoration": [
        (r"\text{The answer is } 5", "5"),
        (r"5\tag{1}", "5"),
        (r"5 \checkmark", "5"),
        (r"{\rm 5}", "5"),
        (r"\begin{aligned} x &= 3+4 \\ &= 7 \end{aligned}", "7"),
        (r"5 \, \text{(since } x>0 \text{)}", "5"),
        (r"f(n)=2n \text{ for all } n", "f(n)=2n"),
        (r"k\pi, k\in\mathbb{Z}", r"k\pi"),
    ],
    "structures": [
        (r"\begin{pmatrix}1&2\\[4pt]3&4\end{pmatrix}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"),
        (
            r"\begin{cases} x & \text{if } x>0 \\ -x & \text{if } x\le 0 \end{cases}",
            r"\begin{cases}-x & x\le 0\\x & x>0\end{cases}",
        ),
        ("(3,1),(1,3),(3,1)", "(1,3),(3,1)"),
    ],
    "text": [("3:30 PM", "3:30 p.m."), (r"\text{June 20th}", "June 20"), ("correct!", "correct")],
    "a cut at an equals sign": [
        ("28 + 32 = 60", "60"),
        ("x+y=7", "7"),
        (r"\sin\theta = \frac35", "3/5"),
        (r"\frac{1}{2} \approx 0.5", r"\frac12"),
        ("2", "2=y"),
        (r"\sum_{k = 1}^{10} k^2", "385"),
    ],
}
"""(answer, gold) that mean the same."""

DIFFERENT = {
    "equations": [
        ("x^2+2x+2=0", "x^2+2x+1=0"),
        ("x+z=3", "x+y=3"),
        ("x^2=-1", "x^2=-2"),
        (r"\sin x = 2", r"\sin x = 3"),
        ("|x|=-2", "|x|=-1"),
        ("|x|<0", "|x|<-1"),
        ("0=0", "1=1"),
        ("x=x", "y=y"),
        (r"\log(0.01)=-8", r"\log(0.01)=-2"),
        ("g(x)=x^2", "f(x)=x^2"),
        ("x=3,y=2", "x=2,y=3"),
    ],
    "sets": [
        (r"x\ge2", "x>2"),
        ("y>2", "x>2"),
        (r"(-\infty,2)\cup(4,\infty)", r"(-\infty,2)\cup(3,\infty)"),
        (r"x<2 \text{ or } x>3", "(2,3)"),
        (r"\{x : x>2\}", "2"),
    ],
    "units": [
        ("5 cents", r"\$5"),
        (r"5\text{ minutes}", r"5\text{ hours}"),
        ("20 cm^{3}", "20 cm^{2}"),
        ("60 km/h", "60 mph"),
        (r"20^\circ F", r"20^\circ C"),
        ("£5", r"\$5"),
        ("2cd", "2ab"),
        ("2ab", "2"),
    ],
    "numbers": [
        (r"\frac{1}{2^{1087}}", r"\frac{1}{2^{1007}}"),
        (r"\frac14-\frac{3}{4\cdot5^{2008}}", r"\frac14+\frac{3}{4\cdot5^{2008}}"),
        (r"\frac{99999999999}{100000000000}", "1"),
        ("1+10^{-12}", "1"),
        (r"\sqrt{2}+10^{-30}", r"\sqrt2"),
        ("x+10^{-20}", "x"),
        ("e^{-100}", "0"),
        ("0.(3)", "0.3"),
        (r"3 \times 10^7", "3e8"),
        ("101_3", "101_2"),
        ("2½", "2"),
    ],
    "functions": [
        (r"\sin 30", r"\frac12"),
        ("ln 3", r"\ln 2"),
        (r"\sqrt{x^2}", "x"),
        ("f'(2)", "f(2)"),
        ("X", "x"),
    ],
    "complex": [("2-3i", "2+3i"), ("i", "1")],
    "plus-minus": [(r"1+\sqrt2", r"1\pm\sqrt2"), ("2", r"\pm2")],
    "decoration": [
        (r"5 \text{ when } x = 2", "2"),
        (r"n=4 \text{ since } 2^4=16", "16"),
        (r"x^2 \text{ for } x<0", r"x^2 \text{ for } x>0"),
        (r"17 \pmod{21}", r"17 \pmod{20}"),
    ],
    "structures": [
        (r"\begin{pmatrix}1&2\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
        (
            r"\begin{cases}-x & x>0\\x & x\le 0\end{cases}",
            r"\begin{cases}x & x>0\\-x & x\le 0\end{cases}",
        ),
        ("(1,1)", "(1,2)"),
        ("[1,2)", "(1,2]"),
    ],
    "text": [("3:30 AM", "3:30 PM"), ("June 21", "June 20"), ("CAB", "ABC")],
    "a cut at an equals sign": [
        (r"\sum_{k=1}^{\infty} k", "1"),
        (r"\int_0^1 x\,dx = 1", "0"),
        ("x^2 = 9", "9"),
        ("2x=10", "10"),
        (r"\frac{1}{x}=3", "3"),
        ("2^3=9", "9"),
        ("1+1=3", "3"),
    ],
}
"""(answer, gold) that do not."""


def pairs(table: dict[str, list[tuple[str, str]]]) -> list[tuple[str, str, str]]:
    return [(kind, answer, gold) for kind, listed in table.items() for answer, gold in listed]


@pytest.mark.parametrize(("kind", "answer", "gold"), pairs(SAME))
def test_one_answer_in_two_spellings_is_right(kind: str, answer: str, gold: str) -> None:
    verdict = MathVerifier().grade(rf"\boxed{{{answer}}}", Problem("p", "", gold))
    assert verdict.correct, (kind, verdict)


@pytest.mark.parametrize(("kind", "answer", "gold"), pairs(DIFFERENT))
def test_what_only_looks_like_it_is_wrong(kind: str, answer: str, gold: str) -> None:
    for left, right in ((answer, gold), (gold, answer)):
        verdict = MathVerifier().grade(rf"\boxed{{{left}}}", Problem("p", "", right))
        assert not verdict.correct, (kind, verdict)


@pytest.mark.parametrize(
    "unit", [r"\alpha", r"\pm 1", "{(", "x=", "a_{1}", r"\text{a}", "1,", r"\cup", "(x)", "ab "]
)
def test_screening_takes_linear_time(unit: str) -> None:
    """In the calling process nothing may backtrack, whatever an answer repeats."""

    def seconds(length: int) -> float:
        text = unit * (length // len(unit)) + "?"
        times = []
        for answer in (text, text + "=1", f"x={text}"):
            start = time.thread_time()
            MathVerifier().screen(rf"\boxed{{{answer}}}", Problem("p", "", "(1,2)"))
            times.append(time.thread_time() - start)
        return max(times)

    assert seconds(1900) < 2.0  # a scan that backtracks takes years
