"""g2rl-train: one training run, or a sweep with --multirun."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig

from g2rl.cli.config.launch import launch
from g2rl.cli.sweep.callback import end_sweep, launcher_of
from g2rl.cli.sweep.finished import finished_score
from g2rl.runs.interrupt import EXIT_INTERRUPTED, Interrupted, asked, hand_on


class ArmFailedError(RuntimeError):
    """One part of a sweep of evaluations failed; Hydra reports it after the others."""


USER_ERRORS = (ValueError, OSError, ImportError, RuntimeError, TypeError, InstantiationException)
NO_SCORE = math.nan  # of an arm of a sweep that did not finish; the sweep's end looks at the folders


def main() -> None:
    """Entry point of `g2rl-train`."""
    try:
        launch("train", run, ("hydra.run.dir", "hydra.sweep.dir", "data_dir"))
    finally:
        end_sweep()  # where Hydra left before its callback: on a signal, or when a launcher broke


def run(config: DictConfig) -> float:
    """One run in Hydra's output folder; returns the final held-out pass@1.

    An arm of a sweep that fails returns NaN, so that the others run; the sweep's exit code tells.
    """
    run_dir = Path(HydraConfig.get().runtime.output_dir)
    if config.resume == "auto" and (score := finished_score(config, run_dir)) is not None:
        (run_dir / "error.txt").unlink(missing_ok=True)  # of an attempt with other settings
        print(f"finished already: {run_dir} (held-out pass@1 {score:.3f}); resume=never starts over")
        return score
    if number := asked():  # before this arm began: the sweep stops, or its job is put back into the queue
        hand_on(number)
        return leave()
    from g2rl.cli.jobs.train import train  # torch is imported here, so that --help stays quick

    try:
        (run_dir / "error.txt").unlink(missing_ok=True)  # of an earlier attempt
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


def leave() -> float:
    """End an interrupted run: this process, or this arm where other processes run the sweep.

    An arm on Slurm ends its process without a result, so that a job that is requeued counts as unfinished.
    """
    launcher = launcher_of(HydraConfig.get())
    if HydraConfig.get().mode == RunMode.MULTIRUN and launcher not in ("basic", "submitit_slurm"):
        return NO_SCORE
    raise SystemExit(EXIT_INTERRUPTED)


def keep_traceback(error: BaseException, run_dir: Path) -> str:
    """Write the traceback into the run folder; says where it is."""
    import traceback

    place = run_dir / "error.txt"
    try:
        place.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    except OSError as full:  # perhaps the very error that is reported
        traceback.print_exception(error)
        return f"above; not in {place}: {full.strerror}"
    return str(place)


def report(error: BaseException, run_dir: Path) -> str:
    """Keep the traceback and print one readable line, which is returned."""
    place = keep_traceback(error, run_dir)
    if isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__  # what the constructor said, without Hydra's account of where
    print(f"error: {error}\n(traceback in {place})", file=sys.stderr)
    return str(error)


@contextmanager
def reported(folder: Path) -> Iterator[None]:
    """Say a user's error in one line, with the traceback in the folder; that of an earlier attempt goes."""
    try:
        yield
        (folder / "error.txt").unlink(missing_ok=True)
    except USER_ERRORS as error:
        if logging.getLogger().isEnabledFor(logging.DEBUG):  # hydra.verbose=true
            raise
        raise_cleanly(error, folder)


def raise_cleanly(error: BaseException, run_dir: Path) -> NoReturn:
    """Report an error and end; in a sweep with an exception, because an exit would end its other parts."""
    text = report(error, run_dir)
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        raise ArmFailedError(text) from None
    raise SystemExit(1) from None


if __name__ == "__main__":
    main()
