"""How a command says what went wrong: one readable line, and the traceback where there was work."""

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

from g2rl.cli.folder import OtherSettingsError, forget_attempt
from g2rl.cli.one_line import in_words
from g2rl.runs.inputs import OtherInputsError
from g2rl.runs.layout import RunFolder
from g2rl.runs.lock import LockError

USER_ERRORS = (ValueError, OSError, ImportError, RuntimeError, TypeError, InstantiationException)

OF_OTHERS = (LockError, OtherSettingsError, OtherInputsError)
"""Refusals that concern a folder in which another command has worked, or works."""


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
    """Print one readable line, which is returned.

    The traceback is kept where the command had begun its work, and for every arm of a sweep. A
    command that was refused before leaves no trace: neither a folder nor a file in another's.
    """
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        aside = f"traceback in {keep_traceback(error, run_dir)}"
    elif isinstance(error, OF_OTHERS) or forget_attempt(run_dir):
        aside = "nothing was written; hydra.verbose=true shows the traceback"
    else:
        aside = f"traceback in {keep_traceback(error, run_dir)}"

    # what the constructor said, without Hydra's account of where
    if isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__
    print(f"error: {in_words(error, 'hydra.run.dir=FOLDER')}\n({aside})", file=sys.stderr)
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
