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


def choices_of(words: argparse.Namespace) -> Choices:
    """What was typed behind the options of `add_choices`."""
    return Choices(words.by, words.metrics, words.against, words.family, words.partial)


def named_after(folders: Sequence[Path], by: Sequence[str] = ()) -> str:
    """Part of a file's name that tells which runs it is about.

    The same words have the same name. A hash ends it where folders lie elsewhere or names are long,
    because what is left of them could be that of others.

    Args:
        folders: of runs, or folders that hold runs.
        by: settings that tell arms apart.
    """
    # runs/signals is signals, and runs is runs
    names: list[str] = []
    here = Path.cwd()
    is_whole = True
    for folder in folders:
        place = folder.resolve()
        is_whole = is_whole and here in place.parents
        parts = place.relative_to(here).parts if here in place.parents else (place.name,)
        names.append("-".join(parts[1:] if len(parts) > 1 and parts[0] == "runs" else parts))

    # characters that every disk takes
    text = re.sub(r"[^A-Za-z0-9_.=+-]+", "-", "-".join([*names, *by]))
    if is_whole and len(text) <= NAME_LENGTH:
        return text
    words = repr(([str(folder.resolve()) for folder in folders], list(by)))
    more = f"-and-{len(folders) - 1}-more" if len(folders) > 1 else ""
    first = re.sub(r"[^A-Za-z0-9_.=+-]+", "-", names[0])[: NAME_LENGTH - 30]
    return f"{first}{more}-{hashlib.sha256(words.encode()).hexdigest()[:8]}"


def tell_left_out(runs: Sequence[Run]) -> None:
    """Say which runs have not finished, and so are in no table."""
    if not runs:
        return
    count = "1 run has" if len(runs) == 1 else f"{len(runs)} runs have"
    print(f"note: {count} not finished and is left out (--partial takes what is there):")
    for run in runs:
        print(f"  {run.folder}")
