"""g2rl-report: one HTML page about a run, or one that compares several."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from g2rl.cli.comparing import CHOICES, add_choices, choices_of
from g2rl.cli.config.words import as_flags
from g2rl.cli.one_line import errors_in_one_line

EPILOG = """examples
  g2rl-report runs/NAME                     report.html in the folder of the run
  g2rl-report runs/A runs/B                 the comparison, in evals/
  g2rl-report runs/signals --against g2rl   every run below a folder; differences to this arm
  g2rl-report runs/NAME --responses 50000   more of the responses

Several runs are compared as by g2rl-analyze compare, with the same choices and numbers.
The page needs no network and nothing beside it: send it to somebody, open it from a disk, print it.
g2rl-train writes one at the end of every run (report=false: never). More in docs/report.md."""


def parser() -> argparse.ArgumentParser:
    """The command line of `g2rl-report`."""
    command_line = argparse.ArgumentParser(
        "g2rl-report",
        description="Write one HTML page about a run, or one that compares several.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )

    # which runs, and where the page goes
    command_line.add_argument(
        "runs", metavar="RUN", nargs="+", type=Path, help="folder of a run, or one that holds runs"
    )
    command_line.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        help="where to write (default: report.html in the folder, or evals/ for several)",
    )

    # how much of the responses
    command_line.add_argument(
        "--responses",
        metavar="N",
        type=int,
        default=20_000,
        help="the most responses in the page (default: 20000)",
    )
    command_line.add_argument(
        "--characters",
        metavar="N",
        type=int,
        default=4_000,
        help="the most characters of a response (default: 4000); the middle of a longer one is "
        "left out",
    )

    # how several runs are compared, as in g2rl-analyze compare
    add_choices(command_line)
    return command_line


def main() -> None:
    """Entry point of `g2rl-report`."""
    typed = as_flags(sys.argv[1:], (*CHOICES, "responses", "characters"))
    words = parser().parse_args(typed)

    # what draws is imported here, so that --help stays quick
    from g2rl.analysis.report.responses import Budget
    from g2rl.cli.jobs.report import report

    with errors_in_one_line():
        budget = Budget(words.responses, words.characters)
        written = report(words.runs, words.out, budget, choices_of(words))
    megabytes = written.stat().st_size / 1e6
    print(f"written: {written} ({megabytes:.1f} MB)")


if __name__ == "__main__":
    main()
