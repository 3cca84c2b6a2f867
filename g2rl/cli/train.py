"""g2rl-train: one training run, or a sweep with --multirun."""

from __future__ import annotations

import logging
import math
import sys
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from g2rl.cli.config.launch import launch, look_ahead
from g2rl.cli.config.words import DRY_RUN
from g2rl.cli.ctrl_c import work_begins
from g2rl.cli.door import check
from g2rl.cli.errors import USER_ERRORS, keep_traceback, report
from g2rl.cli.sweep.callback import end_sweep, launcher_of
from g2rl.cli.sweep.finished import finished_score
from g2rl.runs.interrupt import EXIT_INTERRUPTED, Interrupted, asked, hand_on
from g2rl.runs.layout import RunFolder

NO_SCORE = math.nan
"""What an arm of a sweep returns that did not finish; the sweep's end looks at the folders."""


def main() -> None:
    """Entry point of `g2rl-train`."""
    if DRY_RUN in sys.argv[1:]:
        sys.argv.remove(DRY_RUN)
        look_ahead("train", ("hydra.run.dir", "hydra.sweep.dir", "data_dir"), plan)
        return
    try:
        launch("train", run, ("hydra.run.dir", "hydra.sweep.dir", "data_dir"))
    finally:
        end_sweep()  # where Hydra left before its callback: on a signal, or when a launcher broke


def plan(config: DictConfig, folder: Path) -> None:
    """`--dry-run`: say what a run would do, and write nothing."""
    from g2rl.cli.jobs.dry_run import dry_run

    work_begins()
    check("train", config, folder)
    dry_run(config, folder)


def run(config: DictConfig) -> float:
    """One run in Hydra's output folder; returns the final held-out pass@1.

    An arm of a sweep that fails returns NaN, so that the others run; the sweep's exit code tells.
    """
    run_dir = Path(HydraConfig.get().runtime.output_dir)

    # a finished run is passed over without loading torch
    score = score_from_before(config, run_dir)
    if score is not None:
        return score

    # asked to stop before this arm began: the sweep stops, or its job goes back into the queue
    stop_signal = asked()
    if stop_signal is not None:
        hand_on(stop_signal)
        return leave()

    # torch is imported here, so that --help stays quick
    from g2rl.cli.jobs.train import train

    # what Ctrl-C stops from here on is saved first
    work_begins()
    try:
        RunFolder(run_dir).error.unlink(missing_ok=True)  # of an earlier attempt
        return train(config, run_dir)
    except Interrupted as stop:
        print(f"{stop}: {run_dir}", file=sys.stderr)
        hand_on(stop.number)
        return leave()
    except USER_ERRORS as error:
        if logging.getLogger().isEnabledFor(logging.DEBUG):  # hydra.verbose=true
            raise
        report(error, run_dir)
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            return NO_SCORE
        raise SystemExit(1) from None
    except Exception as error:  # a defect of ours: Hydra shows it
        keep_traceback(error, run_dir)
        raise


def score_from_before(config: DictConfig, run_dir: Path) -> float | None:
    """The result of a run that has finished before, which is said; None where one has to train."""
    score = finished_score(config, run_dir) if config.resume == "auto" else None
    if score is None:
        return None

    # what an attempt with other settings has left
    RunFolder(run_dir).error.unlink(missing_ok=True)
    print(f"finished already: {run_dir} (held-out pass@1 {score:.3f}); resume=never starts over")
    return score


def leave() -> float:
    """End an interrupted run: this process, or this arm where other processes run the sweep.

    An arm on Slurm ends its process without a result, so that a job that is requeued counts as
    unfinished.
    """
    launcher = launcher_of(HydraConfig.get())
    if HydraConfig.get().mode == RunMode.MULTIRUN and launcher not in ("basic", "submitit_slurm"):
        return NO_SCORE
    raise SystemExit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    main()
