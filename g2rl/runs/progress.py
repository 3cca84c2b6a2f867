"""The progress bar of every command, and log messages beside it."""

from __future__ import annotations

import logging
import sys
from typing import TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text


def progress_bar(console: Console, width: int = 0) -> Progress:
    """A progress bar: description, bar, count, elapsed and remaining time.

    Args:
        console: where it is drawn. If that is not a terminal, nothing is drawn.
        width: characters to which descriptions are padded, so that bars stand below each other.
    """

    # rich fills these templates itself
    description = "{task.description}"
    if width:
        description = f"{{task.description:<{width}}}"
    columns = (
        TextColumn(description),
        BarColumn(),
        CountColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, disable=not console.is_terminal, transient=True)


class CountColumn(MofNCompleteColumn):
    """How much is done of how much; nothing where nobody knows how much there is."""

    def render(self, task: Task) -> Text:
        """``3/50``, or nothing."""
        return Text() if task.total is None else super().render(task)


class TerminalHandler(logging.StreamHandler):
    """Logs to what standard output is now.

    While a progress bar is on the terminal, that is a stand-in which writes above the bar.
    """

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        """Standard output at the moment of a message."""
        return sys.stdout
