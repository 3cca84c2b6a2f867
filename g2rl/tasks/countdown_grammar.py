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

# bounds of an expression; digits are those of one integer
MAX_CHARACTERS = 512
MAX_TOKENS = 64
MAX_DIGITS = 6

# other spellings, in LaTeX and Unicode, and their meaning
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
    """Exact value, or None if the expression divides by zero."""
    numbers: tuple[int, ...]
    """The integers used, sorted, with repetition."""
    canonical: str
    """Normal form up to commutativity and associativity, e.g. "(+ (* 2 4) 3)"."""


def tokenize(text: str) -> list[str]:
    """Split an expression into integers, operators and parentheses.

    Raises:
        GrammarError: the text holds anything else, or exceeds a bound.
    """
    # before anything else, because a model may write any length
    if len(text) > MAX_CHARACTERS:
        raise GrammarError(f"longer than {MAX_CHARACTERS} characters")
    for written, meant in _SYNONYMS:
        text = text.replace(written, meant)

    tokens: list[str] = []
    position = 0
    while position < len(text):
        # the digits from here on, perhaps none
        end = position
        while end < len(text) and text[end] in _DIGITS:
            end += 1

        # one token, or a space
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

    # this also bounds how deep the parser goes
    if len(tokens) > MAX_TOKENS:
        raise GrammarError(f"more than {MAX_TOKENS} tokens")
    return tokens


@dataclass(slots=True, frozen=True)
class _Node:
    """A sum, a product or an integer."""

    kind: str
    """"+" for a sum, "*" for a product, "n" for an integer."""
    value: Fraction | None
    """Exact value, or None if the expression divides by zero."""
    terms: tuple[tuple[bool, str], ...]
    """(inverted, canonical form) of each term; an inverted one is subtracted or divided by."""

    @property
    def canonical(self) -> str:
        """Normal form: the terms in alphabetical order, in prefix notation."""
        if self.kind == "n":
            return self.terms[0][1]
        inverse = {"+": "-", "*": "/"}[self.kind]
        names: list[str] = []
        for is_inverted, name in self.terms:
            names.append(f"{inverse}{name}" if is_inverted else name)
        return f"({self.kind} {' '.join(sorted(names))})"


def _join(kind: str, left: _Node, right: _Node, inverted: bool) -> _Node:
    """Combine two nodes into a sum (kind "+") or a product (kind "*").

    With `inverted`, the right one is subtracted or divided by.
    """
    # inverting a sum inverts each of its terms, and the same holds for a product
    terms = list(_terms_in(kind, left))
    for is_inverted, name in _terms_in(kind, right):
        terms.append((is_inverted != inverted, name))
    return _Node(kind, _value_of(kind, left.value, right.value, inverted), tuple(terms))


def _terms_in(kind: str, node: _Node) -> tuple[tuple[bool, str], ...]:
    """The terms that a node brings into a sum or a product: all of its own if it is one too."""
    if node.kind == kind:
        return node.terms
    return ((False, node.canonical),)


def _value_of(
    kind: str, left: Fraction | None, right: Fraction | None, inverted: bool
) -> Fraction | None:
    """The exact value of a sum or a product of two, or None if it divides by zero."""
    # a whole has no value if one of its parts divides by zero
    if left is None or right is None:
        return None
    if kind == "+":
        return left - right if inverted else left + right
    if not inverted:
        return left * right
    return left / right if right != 0 else None


class _Parser:
    """Reads tokens by recursive descent; the depth is bounded by `MAX_TOKENS`."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.position = 0
        self.numbers: list[int] = []  # the integers read so far

    def peek(self) -> str:
        """The next token, or an empty string at the end."""
        return self.tokens[self.position] if self.position < len(self.tokens) else ""

    def take(self) -> str:
        """Step over the next token and return it."""
        token = self.peek()
        self.position += 1
        return token

    def chain(self, kind: str, operators: str) -> _Node:
        """Read a sum (kind "+") or a product (kind "*").

        The first of its two `operators` joins, the second inverts.
        """
        node = self.member(kind)
        while self.peek() and self.peek() in operators:
            inverted = self.take() == operators[1]
            node = _join(kind, node, self.member(kind), inverted)
        return node

    def member(self, kind: str) -> _Node:
        """Read a member of a sum, which is a product, or of a product, which is a factor."""
        if kind == "+":
            return self.chain("*", "*/")
        return self.factor()

    def factor(self) -> _Node:
        """Read an integer, or an expression in parentheses."""
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
        GrammarError: the text lies outside the grammar or its bounds.
    """
    parser = _Parser(tokenize(text))
    node = parser.chain("+", "+-")
    if parser.position != len(parser.tokens):
        raise GrammarError(f"unexpected {parser.peek()!r} after a complete expression")
    return Expression(node.value, tuple(sorted(parser.numbers)), node.canonical)
