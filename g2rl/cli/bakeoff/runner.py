"""Make the missing runs of a bake-off, one or two at a time.

Every run is a process that this one forks after it has loaded everything, so that a run of half a
minute does not begin with seven seconds of imports, and takes nothing over from the run before.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

from g2rl.analysis.bakeoff.rows import Row, add_row, read_rows
from g2rl.cli.bakeoff.plan import Plan, PlannedRun, PlannedTask
from g2rl.runs.interrupt import EXIT_INTERRUPTED, Interrupted, StopRequest
from g2rl.runs.layout import RunFolder
from g2rl.tasks.grading.code_files import words_of

POLL_SECONDS = 0.2
"""How often a running arm is looked at."""


@dataclass(slots=True)
class Bench:
    """Where a bake-off works, and how.

    Args:
        results: folder of the rows that it adds.
        stored: folders with further rows; what they hold need not be run again.
        work: folder of unfinished runs.
        config_dirs: folders with choices of the user's own.
        workers: runs at a time.
        train: makes one run and returns its row.
    """

    results: Path
    stored: Sequence[Path]
    work: Path
    config_dirs: Sequence[Path]
    workers: int
    train: Callable[[PlannedRun, Path, Sequence[Path]], Row]
    failed: list[str] = field(default_factory=list)
    """Runs that ended with an error, by their folders."""


def carry_out(
    plan: Plan,
    tasks: Sequence[str],
    stages: Sequence[str],
    bench: Bench,
    first: Sequence[str] = (),
) -> int:
    """Make every run of the plan that is missing; returns the exit code.

    Args:
        plan: what is compared.
        tasks: names of its tasks, in their order.
        stages: of `STAGES`, in their order.
        bench: where it works.
        first: arms that go through all stages before the others do, after the first stage of all.

    Returns:
        0 when nothing is missing, 75 after a stop signal, 1 if a run failed.
    """
    gc.freeze()  # what is loaded by now is shared with the forked runs
    with StopRequest() as stop:
        for name in tasks:
            for part, stage in order_of(plan, stages, first):
                complete(part, plan.tasks[name], stage, bench, stop)
                if stop():
                    print("stopped; the same command goes on", flush=True)
                    return EXIT_INTERRUPTED

    # each reason, and where all of it lies
    for folder in dict.fromkeys(bench.failed):
        place = RunFolder(bench.work / folder).error
        if place.is_file():
            reason = place.read_text(encoding="utf-8").partition("\n")[0]
        else:
            reason, place = "ended without a word", bench.work / folder
        print(f"failed: {reason} ({place})", file=sys.stderr)
    return 1 if bench.failed else 0


def order_of(plan: Plan, stages: Sequence[str], first: Sequence[str]) -> list[tuple[Plan, str]]:
    """Which arms go through which stage, one after the other."""
    # all arms begin, then the chosen ones run ahead
    order = [(plan, stage) for stage in stages]
    if first:
        some = plan.only(first)
        order[1:1] = [(some, stage) for stage in stages[1:]]
    return order


def complete(plan: Plan, task: PlannedTask, stage: str, bench: Bench, stop: StopRequest) -> None:
    """Make the missing runs of one stage of one task."""
    # what is to be done, and what has been
    rows = read_rows([*bench.stored, bench.results])
    runs = plan.runs_of(task, stage, rows)
    missing_runs = [run for run in runs if rows.find(run.identity) is None]
    done = len(runs) - len(missing_runs)
    print(f"{task.name}, {stage}: {len(runs)} runs, {done} of them stored", flush=True)

    # as many at a time as asked for
    queue = list(missing_runs)
    active: dict[BaseProcess, PlannedRun] = {}
    while (queue and not stop()) or active:
        # fill the free places
        while queue and len(active) < bench.workers and not stop():
            run = queue.pop(0)
            active[begin(run, bench)] = run
        # a stop is handed on to the runs, which finish their step
        for process in list(active):
            if process.is_alive() and stop():
                process.terminate()
                process.join()
            if not process.is_alive():
                done += conclude(process, active.pop(process), bench)
                print(f"  {done} of {len(runs)}", flush=True)
        time.sleep(POLL_SECONDS)


def begin(run: PlannedRun, bench: Bench) -> BaseProcess:
    """Start one run in a process of its own."""
    process = multiprocessing.get_context("fork").Process(target=in_child, args=(run, bench))
    process.start()
    return process


def in_child(run: PlannedRun, bench: Bench) -> None:
    """Make one run and store its row; ends the process."""
    folder = bench.work / run.folder
    try:
        # one thread, said here once: a forked process repairs torch's thread pool at its first use,
        # and the threads in which transformers reads weights would do so all at once
        import torch

        torch.set_num_threads(1)
        RunFolder(folder).error.unlink(missing_ok=True)
        row = bench.train(run, bench.work, bench.config_dirs)
        add_row(bench.results, row)
        tell(row)
        code = 0
    except Interrupted as stopped:
        print(f"{stopped}: {folder}", file=sys.stderr, flush=True)
        code = EXIT_INTERRUPTED
    except BaseException as error:
        # whatever it is, the other arms go on; the reason in one line, and all of it
        folder.mkdir(parents=True, exist_ok=True)
        text = f"{words_of(error)}\n\n{traceback.format_exc()}"
        RunFolder(folder).error.write_text(text, encoding="utf-8", errors="backslashreplace")
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    os._exit(code)


def conclude(process: BaseProcess, run: PlannedRun, bench: Bench) -> int:
    """Take note of how a run has ended; returns 1 if it has finished, else 0."""
    # a run that was stopped is neither finished nor failed
    process.join()
    if process.exitcode == 0:
        return 1
    if process.exitcode != EXIT_INTERRUPTED:
        bench.failed.append(str(run.folder))
    return 0


def tell(row: Row) -> None:
    """One line about a finished run."""
    # what every task reports
    first, last = row["curve"][0], row["curve"][-1]
    changes: list[str] = []
    for name in ("pass@1", "pass@32", "distinct"):
        if name in first and name in last:
            changes.append(f"{name} {first[name]:.3f} -> {last[name]:.3f}")
    print(
        f"{row['task']} {row['arm']} lr={row['rate']} seed={row['seed']}: {', '.join(changes)}; "
        f"{row['cpu_seconds']:.0f} CPU seconds",
        flush=True,
    )
