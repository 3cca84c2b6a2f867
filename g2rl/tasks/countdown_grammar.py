"""The grammar of Countdown answers: integers, + - * / and parentheses, read by our own parser.

    expression := term (("+" | "-") term)*
    term       := factor (("*" | "/") factor)*
    factor     := integer | "(" expression ")"

There is no unary minus: a Countdown solution uses the given positive numbers. Values are exact
fractions. Every input is bounded before it is read (`MAX_CHARACTERS`, `MAX_TOKENS`, `MAX_DIGITS`),
so parsing takes microseconds whatever a model writes, and nothing is ever evaluated by Python.

`canonical` names a solution up to commutativity and associativity, so that `3 + 4 * 2` and
`2 * 4 + 3` count as one solution (the answer-diversity metric and maj@k group by it).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

MAX_CHARACTERS = 512
MAX_TOKENS = 64
MAX_DIGITS = 6

_SYNONYMS = (
    ("\\times", "*"),
    ("\\cdot", "*"),
    ("\\div", "/"),
    ("\\left", " "),
    ("\\right", " "),
    ("\u00d7", "*"),
    ("\u00f7", "/"),
    ("\u2212", "-"),
)
_DIGITS = "0123456789"  # str.isdigit would admit superscripts and other scripts


class GrammarError(ValueError):
    """The text is not an expression of the Countdown grammar."""


@dataclass(slots=True, frozen=True)
class Expression:
    """A parsed expression, e.g. ``parse("3 + 4 * 2")``."""

    value: Fraction | None
    """Exact value; None where the expression divides by zero."""
    numbers: tuple[int, ...]
    """The integers used, sorted, with repetition."""
    canonical: str
    """Normal form up to commutativity and associativity, e.g. "(+ (* 2 4) 3)"."""


def tokenize(text: str) -> list[str]:
    """Split an expression into integers, operators and parentheses; refuse anything else."""
    if len(text) > MAX_CHARACTERS:
        raise GrammarError(f"longer than {MAX_CHARACTERS} characters")

    # LaTeX and Unicode spellings
    for written, meant in _SYNONYMS:
        text = text.replace(written, meant)
    tokens: list[str] = []
    position = 0

    # one token a round
    while position < len(text):
        end = position
        while end < len(text) and text[end] in _DIGITS:
            end += 1
        if end > position:
            if end - position > MAX_DIGITS:
                raise GrammarError(f"an integer of more than {MAX_DIGITS} digits")
            tokens.append(text[position:end])
        elif text[position] in "+-*/()":
            end = position + 1
            tokens.append(text[position])
        elif text[position] in " \t\n":
            end = position + 1
        else:
            raise GrammarError(f"unexpected character {text[position]!r}")
        position = end
    if len(tokens) > MAX_TOKENS:
        raise GrammarError(f"more than {MAX_TOKENS} tokens")
    return tokens


@dataclass(slots=True, frozen=True)
class _Node:
    """`terms` are (inverted, canonical child); kind is "+", "*" or "n" (a single integer)."""

    kind: str
    value: Fraction | None
    terms: tuple[tuple[bool, str], ...]

    @property
    def canonical(self) -> str:
        if self.kind == "n":
            return self.terms[0][1]
        inverse = {"+": "-", "*": "/"}[self.kind]
        names: list[str] = []
        for is_inverted, name in self.terms:
            names.append(f"{inverse}{name}" if is_inverted else name)
        return f"({self.kind} {' '.join(sorted(names))})"


def _join(kind: str, left: _Node, right: _Node, inverted: bool) -> _Node:
    """Combine two nodes, flattening nested sums into sums and products into products."""
    # the value, exact; division by zero has none
    value: Fraction | None = None
    if left.value is not None and right.value is not None:
        if kind == "+":
            value = left.value - right.value if inverted else left.value + right.value
        elif not inverted:
            value = left.value * right.value
        elif right.value != 0:
            value = left.value / right.value

    # nested sums become one sum, nested products one product
    left_terms = left.terms if left.kind == kind else ((False, left.canonical),)
    right_terms = right.terms if right.kind == kind else ((False, right.canonical),)
    flipped = tuple((inv != inverted, name) for inv, name in right_terms)
    return _Node(kind, value, left_terms + flipped)


class _Parser:
    """Recursive descent; the depth is bounded by MAX_TOKENS."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.position = 0
        self.numbers: list[int] = []

    def peek(self) -> str:
        """The next token, "" at the end."""
        return self.tokens[self.position] if self.position < len(self.tokens) else ""

    def take(self) -> str:
        """The next token, which is then behind us."""
        token = self.peek()
        self.position += 1
        return token

    def chain(self, kind: str, operators: str) -> _Node:
        """A sum of terms (kind "+") or a product of factors (kind "*")."""
        node = self.factor() if kind == "*" else self.chain("*", "*/")
        while self.peek() and self.peek() in operators:
            inverted = self.take() == operators[1]
            right = self.factor() if kind == "*" else self.chain("*", "*/")
            node = _join(kind, node, right, inverted)
        return node

    def factor(self) -> _Node:
        """An integer, or an expression in parentheses."""
        token = self.take()

        # an expression in parentheses
        if token == "(":
            node = self.chain("+", "+-")
            if self.take() != ")":
                raise GrammarError("a parenthesis is not closed")
            return node

        # a number
        if not token or token[0] not in _DIGITS:
            raise GrammarError(f"expected a number, found {token or 'the end'!r}")
        self.numbers.append(int(token))
        return _Node("n", Fraction(int(token)), ((False, str(int(token))),))


def parse(text: str) -> Expression:
    """Parse one expression.

    Raises:
        GrammarError: for anything outside the grammar or its bounds.
    """
    parser = _Parser(tokenize(text))
    node = parser.chain("+", "+-")

    # nothing may follow
    if parser.position != len(parser.tokens):
        raise GrammarError(f"unexpected {parser.peek()!r} after a complete expression")
    return Expression(node.value, tuple(sorted(parser.numbers)), node.canonical)
