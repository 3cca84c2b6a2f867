"""How much room to breathe the code has: four figures, for any checkout.

    python tests/texture.py [FOLDER]      FOLDER holds g2rl/; the default is this checkout

Blank lines inside functions show stages, comments say what a stage is for, and comprehensions and
conditional expressions beyond a point need a second reading. tests/test_layers.py holds the goals.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

LONG = 95
NOT_ROOMS = ("__pycache__", "__init__.py", "assets", "conf", "py.typed")
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(slots=True)
class Counts:
    """What is counted in some files."""

    lines: int = 0
    body_lines: int = 0
    """Lines of function bodies, docstrings left out."""
    blank_lines: int = 0
    """Blank lines among `body_lines`."""
    long_lines: int = 0
    """Lines over 95 columns among `body_lines`."""
    comments: int = 0
    comprehensions: int = 0
    conditionals: int = 0
    format_skips: int = 0

    def add(self, other: Counts) -> None:
        """Add the counts of other files."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

    def per_thousand_lines(self, count: int) -> float:
        """A count in relation to all lines."""
        return 1000 * count / max(self.lines, 1)

    @property
    def blank_share(self) -> float:
        """Blank lines of function bodies, in percent."""
        return 100 * self.blank_lines / max(self.body_lines, 1)


def body_of(function: Function) -> list[ast.stmt]:
    """The statements of a function without its docstring."""
    first = function.body[0]
    is_docstring = (
        isinstance(first, ast.Expr)
        and isinstance(first.value, ast.Constant)
        and isinstance(first.value.value, str)
    )
    return function.body[1:] if is_docstring else function.body


def parts_of(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes right inside another, without expressions, which hold no statement."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.expr):
            yield child


def statement_count(function: Function) -> int:
    """Statements of a function at any depth, docstring left out.

    A function inside another counts as one statement of the outer one and is counted for itself.
    """
    count = 0
    waiting: list[ast.AST] = list(body_of(function))
    while waiting:
        node = waiting.pop()
        count += isinstance(node, ast.stmt)
        if not isinstance(node, Function):
            waiting.extend(parts_of(node))
    return count


def counts_of(source: str) -> Counts:
    """The counts of one file."""
    rows = source.splitlines()
    counts = Counts(lines=len(rows), format_skips=source.count("# fmt: skip"))
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        counts.comments += token.type == tokenize.COMMENT

    for node in ast.walk(ast.parse(source)):
        counts.comprehensions += isinstance(node, COMPREHENSIONS)
        counts.conditionals += isinstance(node, ast.IfExp)
        body = body_of(node) if isinstance(node, Function) else []
        if body:
            inside = rows[body[0].lineno - 1 : node.end_lineno]  # type: ignore[attr-defined]
            counts.body_lines += len(inside)
            counts.blank_lines += sum(not row.strip() for row in inside)
            counts.long_lines += sum(len(row) > LONG for row in inside)
    return counts


def total(files: Iterable[Path]) -> Counts:
    """The counts of some files together."""
    counts = Counts()
    for path in files:
        counts.add(counts_of(path.read_text(encoding="utf-8")))
    return counts


def rooms(package: Path) -> list[str]:
    """Modules and packages at the top of a package."""
    return sorted(path.name for path in package.iterdir() if path.name not in NOT_ROOMS)


def main() -> None:
    """Print the figures."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[1]
    files = sorted((folder / "g2rl").rglob("*.py"))
    counts = total(files)
    code_lines = counts.body_lines - counts.blank_lines
    print(
        f"{len(rooms(folder / 'g2rl'))} rooms at the top, {len(files)} files, {counts.lines} lines"
    )
    print(f"blank lines inside functions       {counts.blank_share:.1f} %")
    for name in ("comments", "comprehensions", "conditionals"):
        rate = counts.per_thousand_lines(getattr(counts, name))
        print(f"{name:<20} per 1,000 lines {rate:.0f}")
    print(f"lines over {LONG} columns              {100 * counts.long_lines / code_lines:.1f} %")
    print(f"fmt: skip                          {counts.format_skips}")


if __name__ == "__main__":
    main()
