"""Where something stands in a file, in the words of a message: lines and rows count from 1.

So a message names the line that an editor shows. Tables and data sets of the hub have no lines, and
their rows count from 1 too, which is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
"""How files begin that are written in UTF-16, as some editors do."""


@dataclass(slots=True, frozen=True)
class Origin:
    """Where rows come from, as messages name it."""

    name: str
    """File or hub id."""
    lines: Sequence[int] = ()
    """In which line each row begins, from 1; empty where rows are not lines of a text."""

    def __str__(self) -> str:
        return self.name


def why_no(kind: Literal["file", "folder"], path: Path) -> str | None:
    """What is wrong where a file, or a folder, was named; None where there is one.

    Args:
        kind: what is wanted.
        path: what was typed.
    """
    if path.is_file() if kind == "file" else path.is_dir():
        return None
    if not path.exists():
        return f"there is no {kind} {path} (seen from {Path.cwd()})"
    other = "folder" if path.is_dir() else "file"
    return f"{path} is a {other}, and a {kind} is wanted"


def at_line(file: object, line: int) -> str:
    """A line of a text file, counted from 1."""
    return f"{file}, line {line}"


def place_of(source: object, number: int) -> str:
    """A row in words: by the line that it begins in, else by its number from 1.

    Args:
        source: an `Origin`, or the name of a file or a data set without lines.
        number: of the row, from 0.
    """
    if isinstance(source, Origin) and source.lines:
        return at_line(source, source.lines[number])
    return f"{source}, row {number + 1} (the first is 1)"


def not_utf8(path: Path) -> str | None:
    """What is wrong with a text file that is not UTF-8, and what mends it; None for one that is.

    Args:
        path: of a file that can be read.
    """
    # no line end is part of another character, so each line can be looked at by itself
    with path.open("rb") as file:
        for line, content in enumerate(file, start=1):
            try:
                content.decode("utf-8")
            except UnicodeDecodeError as error:
                # an editor that writes UTF-16 says so in the first two bytes
                is_utf16 = line == 1 and content.startswith(UTF16_MARKS)
                encoding = "UTF-16" if is_utf16 else "LATIN1"
                return (
                    f"{at_line(path, line)}: byte {error.start + 1} of the line is "
                    f"0x{content[error.start]:02x}, which is not UTF-8; save the file as UTF-8, "
                    f"for example by iconv -f {encoding} -t UTF-8 {path.name}"
                )
    return None
