"""Runs `python -m g2rl.cli.train` and kills it with SIGKILL at a chosen call: killed.py POINT N
OVERRIDES...

The process dies in the middle of what POINT names, at its N-th time (from 1) in this process.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import g2rl.cli.jobs.train
import g2rl.engines.transformers
import g2rl.policy.scoring
import g2rl.runs.checkpoints
import g2rl.runs.files
import g2rl.runs.tracking
import g2rl.tasks.grading.grader
import g2rl.training.stages
import g2rl.training.updater
import g2rl.training.validation

Calls = Callable[..., Any]
inside: list[str] = []
"""Phases under way; some points are counted within one only."""


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def phase(name: str, owner: Any, attribute: str) -> None:
    """Mark the calls of a function as a phase."""
    call = getattr(owner, attribute)

    def marked(*args: Any, **kwargs: Any) -> Any:
        inside.append(name)
        try:
            return call(*args, **kwargs)
        finally:
            inside.pop()

    setattr(owner, attribute, marked)


def at(
    owner: Any,
    attribute: str,
    act: Callable[[Calls, Any, Any], Any],
    where: str = "",
    first: Callable[[Any], bool] = lambda _: True,
) -> Calls:
    """Replace a function so that its N-th call (within a phase) is `act(call, args, kwargs)`, and
    death.

    Only calls whose first argument passes `first` are counted.
    """

    def install(number: int) -> None:
        call, count = getattr(owner, attribute), iter(range(1, 10**9))

        def counted(*args: Any, **kwargs: Any) -> Any:
            if (not where or where in inside) and first(args[0]) and next(count) == number:
                act(call, args, kwargs)
                die()
            return call(*args, **kwargs)

        setattr(owner, attribute, counted)

    return install


def before(call: Calls, args: Any, kwargs: Any) -> None:
    pass


def after(call: Calls, args: Any, kwargs: Any) -> None:
    call(*args, **kwargs)


def half_a_file(call: Calls, args: Any, kwargs: Any) -> None:
    """For a call whose second argument is the path that it writes."""
    call(*args, **kwargs)
    path = Path(args[1])
    os.truncate(path, path.stat().st_size // 2)


def half_a_row(call: Calls, args: Any, kwargs: Any) -> None:
    tracker, step, _ = args
    with tracker.path.open("a") as out:
        out.write(f'{{"step": {step}, "train/accu')
        out.flush()
        os.fsync(out.fileno())


def named(path: Path) -> bool:
    """A checkpoint under its own name, rather than one being written aside."""
    return path.name.startswith("step_")


def half_a_folder(call: Calls, args: Any, kwargs: Any) -> None:
    """For a call that removes the folder that is its first argument."""
    sorted(Path(args[0]).iterdir())[0].unlink()


POINTS = {
    "rollout": at(g2rl.engines.transformers, "next_tokens", before, "sample"),
    "scoring": at(g2rl.policy.scoring, "form_micro_batch", before, "score"),
    "grading": at(g2rl.tasks.grading.grader.Grader, "submit", after),
    "backward": at(g2rl.training.updater.Updater, "_accumulate_gradients", after),
    "update": at(g2rl.training.updater.Updater, "_update", after),
    "table": at(g2rl.runs.files, "sync_file", before, "table"),
    "row": at(g2rl.runs.tracking.Tracker, "log", half_a_row),
    "after_row": at(g2rl.runs.tracking.Tracker, "log", after),
    "checkpoint_weights": at(g2rl.runs.checkpoints, "save_file", half_a_file),
    "checkpoint_state": at(g2rl.runs.checkpoints, "_digest", before, "save"),
    "checkpoint_unnamed": at(g2rl.runs.files, "sync_folder", before, "save"),
    "checkpoint_named": at(g2rl.runs.files.os, "replace", after, "save"),
    "rotation": at(g2rl.runs.checkpoints, "remove", half_a_folder, "save", named),
    "evaluation": at(g2rl.engines.transformers, "next_tokens", before, "evaluate"),
    "evaluation_graded": at(g2rl.tasks.grading.grader.Grader, "grade", after, "evaluate"),
    "mending": at(g2rl.runs.files.os, "replace", before, "start"),
    "export": at(g2rl.runs.files.os, "replace", before, "export"),
    "summary": at(g2rl.cli.jobs.train, "plot_run", after),
}
PHASES = (
    ("sample", g2rl.training.stages.Sampler, "__call__"),
    ("score", g2rl.training.stages.Scorer, "_score"),
    ("table", g2rl.runs.tracking.Tracker, "table"),
    ("save", g2rl.runs.checkpoints.Checkpoints, "save"),
    ("evaluate", g2rl.training.validation.Validation, "__call__"),
    ("start", g2rl.runs.tracking.Tracker, "start"),
    ("export", g2rl.cli.jobs.train, "export_model"),
)

if __name__ == "__main__":
    point, number = sys.argv[1], int(sys.argv[2])
    POINTS[point](number)
    for name, owner, attribute in PHASES:
        phase(name, owner, attribute)
    sys.argv[1:] = sys.argv[3:]
    runpy.run_module("g2rl.cli.train", run_name="__main__")
