"""g2rl-bench: the bake-off of exploration signals, and your own signal beside its rows."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from g2rl.cli.bakeoff.plan import STAGES, Plan, PlannedTask, read_plan, shown_plan
from g2rl.cli.config.launch import register_resolvers, share_cores
from g2rl.cli.ctrl_c import quiet_ctrl_c
from g2rl.cli.one_line import errors_in_one_line
from g2rl.tasks.places import why_no

EPILOG = """examples
  g2rl-bench run                                     the whole study; the same command goes on
  g2rl-bench run --tasks detour --stages rates       a part of it
  g2rl-bench run --again --arms maxrl                one arm anew, whatever is stored in --home
  g2rl-bench add mine exploration=mine               your own signal by the same protocol
  g2rl-bench table --write                           leaderboard and figures from stored rows

Start it in a checkout: the plan and the stored rows are in experiments/bakeoff. More in
docs/bakeoff.md."""

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
    run.add_argument("--arms", nargs="+", help="of the plan; default: all")
    run.add_argument(
        "--again",
        action="store_true",
        help="also what is stored in --home and --rows; rows in --out count, so that it can go on",
    )
    add_places(run)
    add_running(run)

    # somebody's own arm
    add = verbs.add_parser("add", help="run an arm of your own and show it beside the stored rows")
    add.add_argument("name", help="what the arm is called in the table")
    add.add_argument("overrides", nargs="+", help="what you would type after g2rl-train")
    add_places(add)
    add_running(add)

    # tables and figures
    table = verbs.add_parser("table", help="make tables and figures from stored rows")
    table.add_argument(
        "--write",
        action="store_true",
        help="store the rows, the README and the figures in --home, by the plan that it shows",
    )
    add_places(table)
    return command_line


def add_places(verb: argparse.ArgumentParser) -> None:
    """The options that say what is compared and where its rows are."""
    verb.add_argument(
        "--home", type=Path, default=HOME, help=f"folder of the plans and rows/ ({HOME})"
    )
    verb.add_argument(
        "--plan", type=Path, help="another plan than the shown one (HOME/published.yaml)"
    )
    verb.add_argument("--rows", type=Path, nargs="+", default=[], help="folders with further rows")
    verb.add_argument("--tasks", nargs="+", help="of the plan; default: all")
    verb.add_argument(
        "--config-dir", type=Path, nargs="+", default=[], help="folders with your own YAML files"
    )


def add_running(verb: argparse.ArgumentParser) -> None:
    """The options of verbs that train."""
    verb.add_argument(
        "--out", type=Path, default=Path("runs/bakeoff"), help="new rows and unfinished runs"
    )
    verb.add_argument("--workers", type=int, default=1, help="runs at a time, one thread each")
    verb.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    verb.add_argument(
        "--first", nargs="+", default=[], help="arms that go through all stages before the others"
    )


def main() -> None:
    """Entry point of `g2rl-bench`."""
    # what the user can mend is one line
    words = parser().parse_args()
    with errors_in_one_line():
        code = carry_out(words)
    raise SystemExit(code)


def carry_out(words: argparse.Namespace) -> int:
    """Do what was typed; returns the exit code."""
    # what was typed, as far as it can be looked up
    from g2rl.cli.config.mistakes import missing_folder

    problem = missing_folder(words.config_dir)
    for folder in words.rows:
        absent = why_no("folder", folder)
        problem = problem or (absent and f"--rows: {absent}")
    if problem:
        raise ValueError(problem)
    plan = read_plan(words.plan or shown_plan(words.home), words.config_dir)
    tasks = known_tasks(plan, words.tasks)
    stored = [words.home / "rows", *words.rows]

    # from rows alone, or with runs
    if words.verb == "table":
        tables(plan, tasks, stored, words)
        return 0
    if words.verb == "run":
        chosen = plan.only(words.arms or list(plan.arms))
        return run(chosen, tasks, [] if words.again else stored, words)

    # an own arm runs alone and is shown among the others
    plan = plan.with_own_arm(words.name, words.overrides)
    everything = [*stored, words.out / "rows"]
    check_spelling(plan, plan.tasks[tasks[0]], words)
    check_baseline(plan, tasks, everything)
    code = run(plan.only([words.name]), tasks, stored, words)
    if code == 0:
        show(plan, tasks, everything)
    return code


def check_spelling(plan: Plan, task: PlannedTask, words: argparse.Namespace) -> None:
    """Refuse an own arm whose overrides cannot be composed, before anything runs.

    Raises:
        ValueError: a choice or a setting that there is not, with what was probably meant.
    """
    from g2rl.cli.config.mistakes import explain_mistakes
    from g2rl.cli.config.several import explain_several

    # one run stands for all, which differ in rate and seed alone
    register_resolvers()
    run = plan.run(task, words.name, task.rates[0], plan.rates_seed)
    problem = explain_mistakes(run.words, "train", words.config_dir) or explain_several(
        run.words, "train", words.config_dir, "add an arm for each, under names of their own"
    )
    if problem:
        raise ValueError(problem)


def check_baseline(plan: Plan, tasks: Sequence[str], folders: Sequence[Path]) -> None:
    """Refuse to train an arm that nothing could be compared with.

    Raises:
        ValueError: the baseline has no reported row on a task.
    """
    from g2rl.analysis.bakeoff.rows import read_rows

    rows = read_rows(folders)
    for name in tasks:
        if plan.baseline not in plan.study(plan.tasks[name]).reported(rows):
            raise ValueError(
                f"there is nothing to compare with on {name}: {plan.baseline} has no reported row "
                f"by this plan. Make it with g2rl-bench run --arms {plan.baseline} --tasks {name}, "
                "or name other --tasks or another --plan"
            )


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


def run(plan: Plan, tasks: Sequence[str], stored: Sequence[Path], words: argparse.Namespace) -> int:
    """Make the runs that have no stored row; returns the exit code."""
    # one thread a run, decided before torch is imported; waiting threads sleep
    if words.workers < 1:
        raise ValueError(f"--workers must be 1 or more, got {words.workers}")
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    share_cores()

    with quiet_ctrl_c():
        from g2rl.cli.bakeoff.one_run import run_once
        from g2rl.cli.bakeoff.runner import Bench, carry_out

    bench = Bench(
        results=words.out / "rows",
        stored=stored,
        work=words.out / "runs",
        config_dirs=words.config_dir,
        workers=words.workers,
        train=run_once,
    )
    return carry_out(plan, tasks, words.stages, bench, words.first)


def show(plan: Plan, tasks: Sequence[str], folders: Sequence[Path]) -> None:
    """Print the tables of some tasks."""
    from g2rl.analysis.bakeoff.leaderboard import leaderboard_parts
    from g2rl.analysis.bakeoff.rows import read_rows
    from g2rl.runs.terminal import output, print_parts

    # what stands on the page, without figures
    studies = [plan.study(plan.tasks[name]) for name in tasks]
    print_parts(output(), leaderboard_parts(studies, read_rows(folders), {}))


def tables(
    plan: Plan, tasks: Sequence[str], folders: Sequence[Path], words: argparse.Namespace
) -> None:
    """Print the tables, or store rows, README and figures.

    Raises:
        ValueError: a page is to be written that would show another plan, or a part of it.
    """
    if not words.write:
        show(plan, tasks, folders)
        return

    # a page of fewer runs would take the place of one with more
    if words.plan or words.tasks:
        raise ValueError(
            f"--write stores all that {shown_plan(words.home)} plans, so it goes with neither "
            "--plan nor --tasks: to show another plan on the page, change that file"
        )
    from g2rl.cli.bakeoff.publish import publish

    for path in publish(plan, words.home, words.rows):
        print(f"written: {path}")


if __name__ == "__main__":
    main()
