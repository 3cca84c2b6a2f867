"""Tables on a terminal: what does not fit beside each other stands below each other.

A table is rows of cells, the headings first, as `g2rl.analysis.tables` makes them for Markdown too.
Numbers are never cut or broken: columns that do not fit the terminal go into a further table, which
repeats the labels.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

Rows = Sequence[Sequence[str]]
"""Cells of a table, the headings first."""
Part = str | Rows
"""A paragraph of a page, or a table."""

FILE_WIDTH = 200
"""Columns of what is printed to a file, where little need be broken."""
BESIDE_COLUMN = 2
"""Characters that a column takes beside its cells."""
LABEL_SHARE = 3
"""Labels may take one part in so many of the width; longer ones are broken."""
LEAST_LABEL = 18

_MARKED = re.compile(r"\*\*(.+?)\*\*|(?<![\w*/])\*(?=\S)([^*]+)(?<=\S)\*(?![\w*/])", re.DOTALL)


def output(file_width: int = FILE_WIDTH) -> Console:
    """Standard output; as wide as the terminal, or `file_width` for a file."""
    console = Console(highlight=False)
    return console if has_width(console) else Console(highlight=False, width=file_width)


def has_width(console: Console) -> bool:
    """Whether lines have to end somewhere: on a terminal, and where COLUMNS says so in a pipe."""
    # COLUMNS speaks for a terminal that a pipe hides
    return console.is_terminal or "COLUMNS" in os.environ


def print_parts(console: Console, parts: Sequence[Part]) -> None:
    """Print paragraphs and tables, an empty line between them."""
    for part in parts:
        if isinstance(part, str):
            console.print(styled(part.removeprefix("## ")))
            console.print()
        else:
            print_table(console, part)


def print_table(console: Console, rows: Rows, title: str = "", labels: int = 1) -> None:
    """Print a table, in several if it is too wide for the console.

    Args:
        console: where it is printed.
        rows: cells, the headings first.
        title: stands above.
        labels: columns at the left that tell the rows apart; further tables repeat them.
    """
    # the interval of a cell on a line of its own, the heading broken at its slashes
    broken = [[broken_heading(text) for text in rows[0]]]
    for row in rows[1:]:
        broken.append([broken_cell(text) for text in row])
    widths = [column_width(broken, place) for place in range(len(rows[0]))]
    most = max(LEAST_LABEL, console.width // LABEL_SHARE)
    for place in range(labels):
        widths[place] = min(widths[place], most)

    if title:
        console.print(Text(title, style="italic"))
    for places in divided(widths, console.width, labels):
        console.print(table_of(broken, widths, places, labels))


def divided(widths: Sequence[int], width: int, labels: int = 1) -> list[list[int]]:
    """Which columns stand beside each other: as many as fit, labels first in every table.

    Args:
        widths: of the columns.
        width: of the terminal.
        labels: number of columns that every table repeats.
    """
    shared = list(range(labels))
    taken = sum(widths[place] + BESIDE_COLUMN for place in shared) + 1
    tables: list[list[int]] = [list(shared)]
    used = taken
    for place in range(labels, len(widths)):
        needed = widths[place] + BESIDE_COLUMN

        # a column that is too wide by itself has a table all the same
        if used + needed > width and len(tables[-1]) > labels:
            tables.append(list(shared))
            used = taken
        tables[-1].append(place)
        used += needed
    return tables


def table_of(rows: Rows, widths: Sequence[int], places: Sequence[int], labels: int) -> Table:
    """Some columns as rich's table; labels stand at the left, numbers at the right."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for place in places:
        table.add_column(
            styled(rows[0][place]),
            justify="left" if place < labels else "right",
            width=widths[place],
            overflow="fold",
        )
    for row in rows[1:]:
        table.add_row(*(styled(row[place]) for place in places))
    return table


def broken_heading(text: str) -> str:
    """A heading with a line for each part: cut to one width, two metrics would read the same."""
    return text.replace("/", "/\n")


def broken_cell(text: str) -> str:
    """A cell whose interval, and what follows it, stand on lines of their own."""
    return text.replace(" [", "\n[").replace("], ", "],\n").replace("]** ", "]**\n")


def column_width(rows: Rows, place: int) -> int:
    """Characters that the cells of a column need; its heading may be broken between words."""
    longest_word = max((len(word) for word in rows[0][place].split()), default=0)
    longest_line = 0
    for row in rows[1:]:
        for line in styled(row[place]).plain.split("\n"):
            longest_line = max(longest_line, len(line))
    return max(longest_word, longest_line, 1)


def styled(text: str) -> Text:
    """A text in which **words** of Markdown are bold and *words* italic; all else is as it is."""
    out = Text()
    end = 0
    for found in _MARKED.finditer(text):
        out.append(text[end : found.start()])
        out.append(found[1] or found[2], style="bold" if found[1] else "italic")
        end = found.end()
    out.append(text[end:])
    return out
