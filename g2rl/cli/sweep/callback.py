"""Hydra's callback for sweeps: arms planned first, one stop for all of them, tables at the end."""

from __future__ import annotations

import os
import socket
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from g2rl.cli.config.launch import register_resolvers
from g2rl.cli.sweep.arms import PlannedArm, pin_folder, plan_arms, status, status_now, written
from g2rl.cli.sweep.plugins import launcher_of
from g2rl.cli.sweep.worker import Home, begin_arm, end_arm, take_turn
from g2rl.runs.interrupt import EXIT_INTERRUPTED, StopRequest, asked

# A worker process unpickles `Sweep`, and so imports this file, before it resolves or composes
# anything.
register_resolvers()
# conf/hydra/launcher/ has files of the plugins' names, and that their keys are checked is wanted.
warnings.filterwarnings(
    "ignore", message=r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema"
)
BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


class SweepStop(StopRequest):
    """A stop request of a sweep's process, which also tells its workers.

    Asked to stop, the process writes a file that its workers look for, and waits until they have
    saved.
    """

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file
        self.file.unlink(missing_ok=True)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        super()._on_signal(number, frame)
        self.file.write_text(str(number), encoding="utf-8")


class Sweep(Callback):
    """Hydra callback of `g2rl-train`; does nothing in a single run.

    Launchers pickle it into their worker processes, so it holds only what those need.

    Args:
        local_arms: how many arms work at a time under submitit_local.
    """

    def __init__(self, local_arms: int = 2) -> None:
        self.local_arms = local_arms
        self.home: Home | None = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        folder, launcher = Path(os.path.abspath(config.hydra.sweep.dir)), launcher_of(config.hydra)
        self.home = Home(os.getpid(), socket.gethostname(), launcher, folder)
        pin_folder(config)
        begin_sweep(config, self.home)

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        # a single run, or an arm in the sweep's own process
        if self.home is None or self.home.is_here():
            return

        # an arm in a worker process
        begin_arm(self.home)
        if self.home.launcher == "submitit_local":
            take_turn(self.home.folder, self.local_arms)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        end_arm()

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        end_sweep()


# --- beginning and end, in the process that the user started


@dataclass(slots=True, frozen=True)
class OpenSweep:
    """A sweep that has begun and has no tables yet."""

    folder: Path
    arms: list[PlannedArm]
    stale: dict[Path, int]
    """Results from before that are to be made anew; see `status_now`."""


_open_sweeps: list[OpenSweep] = []
"""One at most, in the process that the user started. Hydra may leave without its callback, so the
command closes it too."""


def begin_sweep(config: DictConfig, home: Home) -> None:
    """Plan the arms, say how many are left, and catch stop signals for all of them."""
    if config.hydra.sweeper._target_ != BASIC_SWEEPER:
        print(
            f"sweeper {config.hydra.sweeper._target_} chooses its arms itself: no sweep.parquet, "
            "no table.md"
        )
        return

    # every arm, before the first one runs
    try:
        arms = plan_arms(config)
    except (HydraException, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None

    # with resume=never what lies there is no result of this sweep until an arm has made it anew
    finished_arms = [arm for arm in arms if status(arm) == "finished"]
    done = 0
    stale: dict[Path, int] = {}
    if config.resume == "auto":
        done = len(finished_arms)
    else:
        stale = {arm.folder: written(arm) for arm in finished_arms}
    print(
        f"sweep of {len(arms)} runs in {home.folder}: {done} finished already, "
        f"{len(arms) - done} to do"
    )
    _open_sweeps.append(OpenSweep(home.folder, arms, stale))

    # stop signals reach all arms
    if home.launcher != "submitit_slurm":  # whose jobs outlive this process
        SweepStop(home.stop_file).__enter__()  # until the process ends


def end_sweep() -> None:
    """Write and print the tables of the sweep that is open, if any.

    Raises:
        SystemExit: with 75 after a stop signal, else 1, unless every arm has finished.
    """
    if not _open_sweeps:
        return
    sweep = _open_sweeps.pop()
    statuses = [status_now(arm, sweep.stale) for arm in sweep.arms]
    write_tables(sweep, statuses)

    # a sweep that is not whole ends with an exit code of its own
    left = counts([word for word in statuses if word != "finished"])
    if left:
        again = "begins again with every run"
        if sweep.arms[0].config.resume == "auto":
            again = "runs only these"
        print(f"not finished: {left}; the same command {again}", file=sys.stderr)
        raise SystemExit(EXIT_INTERRUPTED if asked() else 1)


def write_tables(sweep: OpenSweep, statuses: Sequence[str]) -> None:
    """Write sweep.parquet and table.md, and print the table.

    Raises:
        SystemExit: with 1 when they cannot be written.
    """
    # slow, needed at the end only
    from g2rl.analysis.comparison.sweep import Arm, sweep_rows, unfinished, write_sweep
    from g2rl.runs.terminal import output, print_table

    # what became of each arm
    arms: list[Arm] = []
    for arm, word in zip(sweep.arms, statuses, strict=True):
        arms.append(Arm(arm.label, int(arm.config.seed), arm.settings, arm.folder, word))

    folder = sweep.folder
    try:
        frame = write_sweep(arms, folder)
    except (OSError, ValueError) as error:
        print(f"error: the tables of the sweep could not be written: {error}", file=sys.stderr)
        raise SystemExit(1) from None

    # the same table on the terminal
    print()
    print_table(output(), sweep_rows(frame), "mean over seeds after training, 95 % t-interval")
    for line in unfinished(frame):
        print(line)
    print(f"sweep: {folder / 'sweep.parquet'}, {folder / 'table.md'}")


def counts(words: Sequence[str]) -> str:
    """["failed", "missing", "failed"] -> "2 failed, 1 missing"."""
    return ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words))
