r"""Take a normalised answer apart: lists, tuples, intervals, sets, unions, tables, relations.

`parse` gives a tree whose leaves are expressions. It looks at brackets and separators only, in
linear time for each level of nesting, so it may run in the calling process:

    parse(r"(-1,3),(1,2)")   list of two tuples
    parse(r"[0,1)\cup\{5\}") union of an interval and a set
    parse(r"x=\pm 2")        list of the relations x=2 and x=-2
    parse(r"-1\leq x<2")     one chain of relations

What ``\pm`` stands for is written out, each sign independent of the others; ``\mp`` has the sign
opposite to the ``\pm`` of the same part.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

MAX_NESTING = 12
"""Brackets within brackets that are taken apart; what lies deeper stays one expression."""
MAX_SIGNS = 3
r"""Most ``\pm`` in one part that are written out, as 2^3 combinations."""

# what the scanner looks at: a command, an escaped character, or any other character
_TOKEN = re.compile(r"\\(?:[a-zA-Z]+|.)|.", re.DOTALL)
_OPENING = {"(", "[", "{", r"\{", r"\lfloor", r"\lceil", r"\begin"}
_CLOSING = {")", "]", "}", r"\}", r"\rfloor", r"\rceil", r"\end"}

RELATIONS = {
    "=": "=",
    "<": "<",
    ">": ">",
    r"\leq": "<=",
    r"\geq": ">=",
    r"\neq": "!=",
    r"\in": "in",
    r"\approx": "~",
}
"""Signs that divide a chain of relations, and the operation that each stands for."""
_OR = {r"\lor", r"\vee"}
_AND = {r"\land", r"\wedge"}
_UNION = {r"\cup"}

_TABLE = re.compile(
    r"\s*\\begin\{(?P<name>[a-z]{1,12})\*?\}(?:\{[lcr|]{0,12}\})?(?P<body>.*)"
    r"\\end\{(?P=name)\*?\}\s*",
    re.DOTALL,
)
_SIGN = re.compile(r"\\(pm|mp)(?![a-zA-Z])")


@dataclass(frozen=True, slots=True)
class Part:
    """A node of the tree, such as a tuple with its members."""

    kind: str
    """leaf, list, tuple, set, union, or, and, chain, table, row."""
    text: str
    """What was taken apart."""
    parts: tuple[Part, ...] = ()
    signs: tuple[str, ...] = ()
    """Of a chain: its operations. Of a tuple: its opening and closing bracket. Of a table: its
    environment."""


def parse(text: str, depth: int = 0) -> Part:
    """The structure of a normalised answer."""
    text = _without_group(text.strip())
    if depth > MAX_NESTING:
        return Part("leaf", text)

    # from the loosest sign to the tightest
    for kind, separators in (("list", {","}), ("or", _OR), ("and", _AND)):
        pieces, _ = split(text, separators)
        if kind == "list":
            pieces = list(itertools.chain.from_iterable(map(_written_out, pieces)))
        if kind == "list":
            pieces = _distinct(pieces)
        if len(pieces) > 1:
            return Part(kind, text, _parse_all(pieces, depth))

    # a chain of relations, then unions
    pieces, signs = split(text, set(RELATIONS))
    if signs and all(piece.strip() for piece in pieces):
        operations = tuple(RELATIONS[sign] for sign in signs)
        return Part("chain", text, _parse_all(pieces, depth), operations)
    pieces, _ = split(text, _UNION)
    if len(pieces) > 1:
        return Part("union", text, _parse_all(pieces, depth))
    return _enclosed(text, depth)


def split(text: str, separators: set[str]) -> tuple[list[str], list[str]]:
    """The pieces of a text between separators outside all brackets, and these separators."""
    pieces: list[str] = []
    found: list[str] = []
    depth, start = 0, 0
    for match in _TOKEN.finditer(text):
        # brackets of any kind count alike, because intervals mix them
        token = match.group()
        if token in _OPENING:
            depth += 1
        elif token in _CLOSING:
            depth -= 1
        elif depth == 0 and token in separators:
            pieces.append(text[start : match.start()])
            found.append(token)
            start = match.end()
    pieces.append(text[start:])
    return pieces, found


def closing_place(text: str, start: int) -> int:
    """Where the bracket that opens at `start` is closed: the place behind it, or -1."""
    depth = 0
    for match in _TOKEN.finditer(text, start):
        token = match.group()
        if token in _OPENING:
            depth += 1
        elif token in _CLOSING:
            depth -= 1
            if depth == 0:
                return match.end()
    return -1


def simple_groups(text: str) -> list[tuple[int, int]]:
    """The square brackets that enclose one part each: (place of "[", place of "]"), in one pass."""
    open_brackets: list[list[Any]] = []  # [token, place, whether a separator was met]
    groups: list[tuple[int, int]] = []
    for match in _TOKEN.finditer(text):
        token = match.group()
        if token in _OPENING:
            open_brackets.append([token, match.start(), False])
        elif token in ",;" and open_brackets:
            open_brackets[-1][2] = True
        elif token in _CLOSING and open_brackets:
            opening, place, has_separator = open_brackets.pop()
            if (opening, token) == ("[", "]") and not has_separator:
                groups.append((place, match.start()))
    return groups


def _parse_all(pieces: Sequence[str], depth: int) -> tuple[Part, ...]:
    """The structure of each piece that is not empty."""
    return tuple(parse(piece, depth + 1) for piece in pieces if piece.strip())


def _distinct(pieces: Sequence[str]) -> list[str]:
    """The pieces without those that were written before: what a list names twice counts once."""
    first_spelling: dict[str, str] = {}
    for piece in pieces:
        first_spelling.setdefault(piece.replace(" ", ""), piece)
    return list(first_spelling.values())


def _without_group(text: str) -> str:
    """The text without braces or parentheses that enclose one value and nothing else."""
    for _ in range(MAX_NESTING):
        if not text or text[0] not in "{(" or closing_place(text, 0) != len(text):
            return text
        if text[0] == "(" and (text[-1] != ")" or len(split(text[1:-1], {","})[0]) > 1):
            return text  # a tuple or an interval
        text = text[1:-1].strip()
    return text


def _written_out(piece: str) -> list[str]:
    r"""The values that a piece with ``\pm`` stands for."""
    signs = _SIGN.findall(piece)
    if not signs or len(signs) > MAX_SIGNS:
        return [piece]

    # each \pm takes both signs; with one of them, \mp takes the other
    values = []
    if "mp" in signs:
        combinations = [tuple("+" if sign == "pm" else "-" for sign in signs)]
        combinations.append(tuple("-" if sign == "pm" else "+" for sign in signs))
    else:
        combinations = list(itertools.product("+-", repeat=len(signs)))
    for combination in combinations:
        chosen = iter(combination)
        value = _SIGN.sub(lambda _, chosen=chosen: next(chosen), piece).strip()  # type: ignore[misc]
        values.append(value.removeprefix("+"))
    return values


def _enclosed(text: str, depth: int) -> Part:
    """A tuple, interval, set, or table, or else a leaf."""
    table = _TABLE.fullmatch(text)
    if table and text.count(r"\begin") == 1:
        return _table(text, table["name"], table["body"], depth)

    # brackets around everything
    opening = r"\{" if text.startswith(r"\{") else text[:1]
    if opening not in ("(", "[", r"\{") or closing_place(text, 0) != len(text):
        return Part("leaf", text)

    # their members
    closing = r"\}" if text.endswith(r"\}") else text[-1:]
    pieces, _ = split(text[len(opening) : len(text) - len(closing)], {","})
    if opening == r"\{" and closing == r"\}":
        members: list[str] = []
        for piece in pieces:
            members += _written_out(piece)
        return Part("set", text, _parse_all(_distinct(members), depth))
    if len(pieces) > 1:
        return Part("tuple", text, _parse_all(pieces, depth), (opening, closing))
    return Part("leaf", text)


def _table(text: str, name: str, body: str, depth: int) -> Part:
    """A matrix, or the cases of a function: rows of cells."""
    # an empty last line is the end of the one before it
    rows = []
    lines, _ = split(body, {r"\\"})
    for line in lines:
        cells, _ = split(line, {"&"})
        if line.strip():
            rows.append(Part("row", line, tuple(parse(cell, depth + 1) for cell in cells)))
    return Part("table", text, tuple(rows), ("cases" if name == "cases" else "matrix",))
