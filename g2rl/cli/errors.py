"""How a command says what went wrong: one readable line, and the traceback in the run's folder."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode

from g2rl.runs.layout import RunFolder

USER_ERRORS = (ValueError, OSError, ImportError, RuntimeError, TypeError, InstantiationException)


class ArmFailedError(RuntimeError):
    """One part of a sweep of evaluations or analyses failed; Hydra reports it after the others."""


def keep_traceback(error: BaseException, run_dir: Path) -> str:
    """Write the traceback into the run folder; returns where it is, in words for the user."""
    import traceback  # here, because nothing has gone wrong in most commands

    place = RunFolder(run_dir).error
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
    """Report what the user can mend in one line, with the traceback in the folder.

    Once all went well, the traceback of an earlier attempt is deleted.
    """
    try:
        yield
        RunFolder(folder).error.unlink(missing_ok=True)
    except USER_ERRORS as error:
        if logging.getLogger().isEnabledFor(logging.DEBUG):  # hydra.verbose=true
            raise
        raise_cleanly(error, folder)


def raise_cleanly(error: BaseException, run_dir: Path) -> NoReturn:
    """Report an error and end the command.

    In a sweep this is an exception, because an exit would end the sweep's other parts too.
    """
    text = report(error, run_dir)
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        raise ArmFailedError(text) from None
    raise SystemExit(1) from None
