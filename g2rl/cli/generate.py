"""g2rl generate: print what a run's policy answers, with verdicts where the answer is known."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from g2rl.cli.config.words import as_flags
from g2rl.cli.one_line import errors_in_one_line
from g2rl.tasks.places import why_no

EPILOG = """examples
  g2rl generate runs/NAME --problems 3               three held-out problems, with verdicts
  g2rl generate runs/NAME --problems 3 --samples 4   four responses to each
  g2rl generate runs/NAME checkpoint=best --problems 3
  g2rl generate runs/NAME "use 3 5 7 make 22 :"      a prompt of your own; nothing grades it

Responses are drawn as the run's benchmark draws them; --temperature 0 takes the likeliest token."""
SETTINGS = ("checkpoint", "problems", "samples", "temperature", "seed")


def parser() -> argparse.ArgumentParser:
    """The command line of `g2rl generate`."""
    command_line = argparse.ArgumentParser(
        "g2rl generate",
        description="Print responses of a run's policy.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    # of which run; without prompts, held-out problems are asked
    command_line.add_argument("run", metavar="RUN", type=Path, nargs="?", help="folder of a run")
    command_line.add_argument("prompts", metavar="PROMPT", nargs="*", help="prompts of your own")

    # which policy, and what it is asked
    command_line.add_argument(
        "--checkpoint", help="best, newest or a step (default: the exported model, else newest)"
    )
    command_line.add_argument("--problems", type=int, default=0, help="held-out problems to ask")
    command_line.add_argument("--samples", type=int, default=1, help="responses to each (1)")
    command_line.add_argument("--temperature", type=float, help="default: the benchmark's")
    command_line.add_argument("--seed", type=int, default=0, help="of the samples (0)")
    command_line.add_argument(
        "--own-code",
        action="store_true",
        help="run reward functions and other code that the run's config.yaml names",
    )
    command_line.add_argument(
        "--config-dir",
        metavar="FOLDER",
        type=Path,
        action="append",
        default=[],
        help="with --own-code: look for that code in FOLDER, as in training",
    )
    return command_line


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `g2rl generate`."""
    words = sys.argv[1:] if argv is None else list(argv)
    command_line = parser()
    options = command_line.parse_args(as_flags(words, SETTINGS))
    if options.run is None:
        command_line.error(
            "name the folder of a run and what to ask it: g2rl generate runs/NAME --problems 3"
        )
    if not options.prompts and options.problems < 1:
        command_line.error(
            f"say what to ask {options.run}: a PROMPT, or --problems N for held-out problems"
        )
    if options.samples < 1:
        command_line.error(f"--samples must be at least 1, got {options.samples}")

    # a folder brings nothing in unless its code may run
    if options.config_dir and not options.own_code:
        command_line.error("--config-dir needs --own-code, which lets code from there run")
    for folder in options.config_dir:
        absent = why_no("folder", folder)
        if absent:
            command_line.error(f"--config-dir: {absent}")

    # torch is imported here, so that --help stays quick
    from g2rl.cli.jobs.generate import OwnCode, Question, generate

    # what the user can mend is one line
    question = Question(
        options.prompts, options.problems, options.samples, options.temperature, options.seed
    )
    own_code = OwnCode(options.own_code, options.config_dir)
    with errors_in_one_line(RuntimeError):
        generate(options.run, options.checkpoint, question, own_code)


if __name__ == "__main__":
    main()
