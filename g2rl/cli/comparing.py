"""What commands that compare runs share: their options, the names of what they write, their notes.

They are `g2rl-analyze compare` and `g2rl-report`.
"""

from __future__ import annotations

import argparse
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from g2rl.analysis.comparison.choices import Choices

if TYPE_CHECKING:
    from g2rl.analysis.comparison.runs import Run

NAME_LENGTH = 80
"""Longest name that is made of the names of folders."""


def add_choices(command_line: argparse.ArgumentParser) -> None:
    """Add the options that say how runs are compared; `choices_of` reads them."""
    # which runs make an arm
    command_line.add_argument(
        "--by",
        metavar="KEY",
        nargs="+",
        default=[],
        action="extend",
        help=(
            "settings that tell arms apart; exploration.name is the signal (default: what differs)"
        ),
    )
    command_line.add_argument(
        "--partial", action="store_true", help="also take unfinished runs as far as they are"
    )

    # what is shown and tested
    command_line.add_argument(
        "--metrics",
        metavar="NAME",
        nargs="+",
        default=[],
        action="extend",
        help="columns of the table, * stands for anything (default: accuracies, length, geometry)",
    )
    command_line.add_argument(
        "--against",
        metavar="ARM",
        help="the arm that is subtracted, seed by seed (default: none, or else the first)",
    )
    command_line.add_argument(
        "--family",
        metavar="NAME",
        nargs="+",
        default=[],
        action="extend",
        help="metrics whose contrasts are one family of tests (default: all of the table)",
    )


CHOICES = ("by", "metrics", "against", "family", "out")
"""Options of these commands that may be typed as settings, ``against=g2rl``."""


def choices_of(words: argparse.Namespace) -> Choices:
    """What was typed behind the options of `add_choices`."""
    return Choices(words.by, words.metrics, words.against, words.family, words.partial)


def named_after(folders: Sequence[Path], by: Sequence[str] = ()) -> str:
    """Part of a file's name that tells which runs it is about.

    The same words have the same name, and other words have another one: a hash ends it, unless it
    is one folder that lies in runs/ or is runs/ itself, by its whole name.

    Args:
        folders: of runs, or folders that hold runs.
        by: settings that tell arms apart.
    """
    places = [folder.resolve() for folder in folders]
    home = Path.cwd().resolve() / "runs"
    is_plain = len(places) == 1 and not by
    is_plain = is_plain and (places[0] == home or places[0].parent == home)
    is_plain = is_plain and places[0] != home / home.name

    # of two the names, of more the first name and a number
    names = [place.name for place in places]
    if len(names) > 2:
        names = [names[0], f"and-{len(names) - 1}-more"]
    text = "-".join([*names, *by])
    words = repr(([str(place) for place in places], list(by)))
    return safe_name(text, words, always=not is_plain)


def safe_name(text: str, meaning: str, always: bool = False) -> str:
    """Part of a file's name that every disk takes and that leads to no other folder.

    Args:
        text: what it shall say. It may come out of a run's files, so it may be anything.
        meaning: what the name stands for; a hash of it ends the name where the text is not whole.
        always: let the hash stand there in any case.
    """
    # no dot at its beginning: ".." is another folder, and such files are hidden
    name = re.sub(r"[^A-Za-z0-9_.=+-]+", "-", text).lstrip(".-")
    if name == text and len(name) <= NAME_LENGTH and name and not always:
        return name
    short_hash = hashlib.sha256(meaning.encode()).hexdigest()[:8]
    return f"{name[: NAME_LENGTH - 9]}-{short_hash}".lstrip("-")


def tell_left_out(runs: Sequence[Run]) -> None:
    """Say which runs have not finished, and so are in no table."""
    if not runs:
        return
    count = "1 run has" if len(runs) == 1 else f"{len(runs)} runs have"
    print(f"note: {count} not finished and is left out (--partial takes what is there):")
    for run in runs:
        print(f"  {run.folder}")
