"""All solutions of a Countdown problem, up to commutativity and associativity.

How many essentially different right answers a problem has decides how much there is to explore in
it, so it is counted by trying everything.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from g2rl.tasks.countdown_grammar import parse

Term = tuple[Fraction, str]
"""A value and an expression that has it, in parentheses if it is not a number."""


def solutions(numbers: list[int], target: int) -> set[str]:
    """Canonical forms of all expressions that use each number once and equal the target.

    Any intermediate value is allowed, as for the verifier. Costs some thousand steps for four
    numbers, and sixty times as many for five.
    """
    # most expressions miss the target, so only the others are parsed
    found: set[str] = set()
    terms = [(Fraction(number), str(number)) for number in numbers]
    for value, text in expressions(terms):
        if value == target:
            found.add(parse(text).canonical)
    return found


def expressions(terms: list[Term]) -> Iterator[Term]:
    """Every way to join all terms into one by + - * /, where nothing is divided by zero."""
    if len(terms) == 1:
        yield terms[0]
        return

    # two of them become one
    for i in range(len(terms)):
        for j in range(i):
            rest = [term for place, term in enumerate(terms) if place not in (i, j)]
            for joined in joins(terms[i], terms[j]):
                yield from expressions([*rest, joined])


def joins(left: Term, right: Term) -> list[Term]:
    """The sum, the product, both differences and both quotients of two terms."""
    (a, first), (b, second) = left, right
    joined = [
        (a + b, f"({first} + {second})"),
        (a * b, f"({first} * {second})"),
        (a - b, f"({first} - {second})"),
        (b - a, f"({second} - {first})"),
    ]

    # a quotient by zero has no value
    if b != 0:
        joined.append((a / b, f"({first} / {second})"))
    if a != 0:
        joined.append((b / a, f"({second} / {first})"))
    return joined
