"""g2rl export: a checkpoint of a run as a folder that transformers loads, with a model card."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from g2rl.cli.config.words import as_flags
from g2rl.cli.one_line import errors_in_one_line

EPILOG = """examples
  g2rl export runs/NAME out=exported                   the newest checkpoint
  g2rl export runs/NAME checkpoint=best out=exported   the one with the best held-out pass@1
  g2rl export runs/NAME checkpoint=40 out=exported     that of step 40

The folder holds weights (safetensors), configuration, tokenizer and README.md, a model card.
AutoModelForCausalLM.from_pretrained("exported") loads it, without network and without g2rl."""


def parser() -> argparse.ArgumentParser:
    """The command line of `g2rl export`."""
    command_line = argparse.ArgumentParser(
        "g2rl export",
        description="Write a checkpoint of a run in Hugging Face format.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    # which policy, and where it goes
    command_line.add_argument("run", metavar="RUN", type=Path, help="folder of a run")
    command_line.add_argument(
        "--checkpoint",
        default="newest",
        help="best, newest or a step; also as checkpoint=best (default: newest)",
    )
    command_line.add_argument(
        "--out", type=Path, required=True, help="folder to make; also as out=FOLDER"
    )
    return command_line


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `g2rl export`."""
    words = sys.argv[1:] if argv is None else list(argv)
    options = parser().parse_args(as_flags(words, ("checkpoint", "out")))

    # torch is imported here, so that --help stays quick
    from g2rl.cli.jobs.export import export_run

    # what the user can mend is one line
    with errors_in_one_line(RuntimeError):
        card = export_run(options.run, options.checkpoint, options.out)
    print(f"written: {options.out}  (model card: {card})")


if __name__ == "__main__":
    main()
