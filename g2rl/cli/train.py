"""g2rl-train: one training run, or a sweep with --multirun."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import NoReturn

from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig

from g2rl.cli.config import launch
from g2rl.interrupt import EXIT_INTERRUPTED, Interrupted


class ArmFailedError(RuntimeError):
    """One run of a sweep failed; Hydra reports it after the others."""


USER_ERRORS = (ValueError, OSError, ImportError, RuntimeError, TypeError, InstantiationException)


def main() -> None:
    """Entry point of `g2rl-train`."""
    launch("train", run, ("hydra.run.dir", "hydra.sweep.dir", "data_dir"))


def run(config: DictConfig) -> float:
    """One run in Hydra's output folder; returns the final held-out pass@1."""
    run_dir = Path(HydraConfig.get().runtime.output_dir)
    from g2rl.cli.job import train  # torch is imported here, so that --help stays quick

    try:
        found = train(config, run_dir)
        (run_dir / "error.txt").unlink(missing_ok=True)  # of an earlier attempt
        return found
    except Interrupted as stop:
        print(f"{stop}: {run_dir}", file=sys.stderr)
        raise SystemExit(EXIT_INTERRUPTED) from None
    except USER_ERRORS as error:
        if logging.getLogger().isEnabledFor(logging.DEBUG):  # hydra.verbose=true
            raise
        raise_cleanly(error, run_dir)


def raise_cleanly(error: BaseException, run_dir: Path) -> NoReturn:
    """Write the traceback into the run folder and end with one readable line."""
    import traceback

    place: Path | str = run_dir / "error.txt"
    try:
        Path(place).write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    except OSError as full:  # perhaps the very error that is reported
        traceback.print_exception(error)
        place = f"above; not in {place}: {full.strerror}"
    if isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__  # what the constructor said, without Hydra's account of where
    print(f"error: {error}\n(traceback in {place})", file=sys.stderr)
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        raise ArmFailedError(str(error)) from None  # an exit would end the sweep; its other arms shall run
    raise SystemExit(1) from None


if __name__ == "__main__":
    main()
