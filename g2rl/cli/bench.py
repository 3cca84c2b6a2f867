"""g2rl-bench: the bake-off of exploration signals."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from g2rl.cli.bakeoff.plan import Plan, read_plan
from g2rl.cli.config.launch import share_cores

EPILOG = """examples
  g2rl-bench run                                     the whole study; the same command goes on
  g2rl-bench run --tasks detour --stages rates       a part of it

Start it in a checkout: the plan and the stored rows are in experiments/bakeoff."""

HOME = Path("experiments/bakeoff")
"""The plan, the stored rows, the leaderboard."""


def parser() -> argparse.ArgumentParser:
    """The command line of `g2rl-bench`."""
    command_line = argparse.ArgumentParser(
        "g2rl-bench",
        description="Every signal on the tasks of the lab, at its best rate, under one protocol.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = command_line.add_subparsers(dest="verb", required=True)

    # the study
    run = verbs.add_parser("run", help="make every run of the plan that has no row yet")
    add_places(run)
    add_running(run)
    return command_line


def add_places(verb: argparse.ArgumentParser) -> None:
    """The options that say what is compared and where its rows are."""
    verb.add_argument(
        "--home", type=Path, default=HOME, help=f"folder of plan.yaml and rows/ ({HOME})"
    )
    verb.add_argument("--plan", type=Path, help="another plan (HOME/plan.yaml)")
    verb.add_argument("--rows", type=Path, nargs="+", default=[], help="folders with further rows")
    verb.add_argument("--tasks", nargs="+", help="of the plan; default: all")


def add_running(verb: argparse.ArgumentParser) -> None:
    """The options of verbs that train."""
    verb.add_argument(
        "--out", type=Path, default=Path("runs/bakeoff"), help="new rows and unfinished runs"
    )
    verb.add_argument("--workers", type=int, default=1, help="runs at a time, one thread each")
    verb.add_argument("--stages", nargs="+", choices=("rates", "seeds"), default=["rates", "seeds"])
    verb.add_argument(
        "--config-dir", type=Path, nargs="+", default=[], help="folders with your own YAML files"
    )


def main() -> None:
    """Entry point of `g2rl-bench`."""
    words = parser().parse_args()
    try:
        code = carry_out(words)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        code = 1
    raise SystemExit(code)


def carry_out(words: argparse.Namespace) -> int:
    """Do what was typed; returns the exit code."""
    plan = read_plan(words.plan or words.home / "plan.yaml")
    tasks = known_tasks(plan, words.tasks)
    return run(plan, tasks, words)


def known_tasks(plan: Plan, names: Sequence[str] | None) -> list[str]:
    """The tasks that were named, or all of the plan.

    Raises:
        ValueError: the plan has no task of that name.
    """
    tasks = list(names or plan.tasks)
    for name in tasks:
        if name not in plan.tasks:
            raise ValueError(f"the plan has no task {name!r}; it has {', '.join(plan.tasks)}")
    return tasks


def run(plan: Plan, tasks: Sequence[str], words: argparse.Namespace) -> int:
    """Make the missing runs; returns the exit code."""
    # one thread a run, decided before torch is imported; waiting threads sleep
    if words.workers < 1:
        raise ValueError(f"--workers must be 1 or more, got {words.workers}")
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    share_cores()

    from g2rl.cli.bakeoff.one_run import run_once
    from g2rl.cli.bakeoff.runner import Bench, carry_out

    # choices of the user's own name classes that lie beside them
    sys.path[:0] = [str(folder.resolve()) for folder in words.config_dir]
    bench = Bench(
        results=words.out / "rows",
        stored=[words.home / "rows", *words.rows],
        work=words.out / "runs",
        config_dirs=words.config_dir,
        workers=words.workers,
        train=run_once,
    )
    return carry_out(plan, tasks, words.stages, bench)


if __name__ == "__main__":
    main()
