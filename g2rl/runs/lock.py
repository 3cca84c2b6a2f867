"""One process at a time in a folder that a command writes to. Imports no torch."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from g2rl.runs.files import errors_of
from g2rl.runs.layout import RunFolder
from g2rl.world import environment_rank, environment_size


class LockError(ValueError):
    """A command would write where, or what, another process writes already."""


@contextmanager
def alone_in(
    folder: Path, elsewhere: str = "hydra.run.dir=...", remove: bool = False
) -> Iterator[None]:
    """Hold the folder's lock, so that two commands never write there at once.

    The system frees the lock when the process ends. Under torchrun the first rank holds it for all.

    Args:
        folder: it is made where it does not exist.
        elsewhere: what to type to write elsewhere, for the message.
        remove: delete the lock's file in the end, where the folder is not g2rl's own.

    Raises:
        LockError: another process holds it, for example an orphan of a killed sweep.
    """
    # one lock a folder: the first rank holds it for all others
    if environment_rank() != 0:
        yield
        return

    # the file says nothing; only its lock says that somebody is at work
    place = RunFolder(folder).lock

    # who may not write here is told of the folder, not of a file that is ours
    with errors_of(folder, folder):
        folder.mkdir(parents=True, exist_ok=True)
        opened = place.open("a")
    with opened as handle:
        if not _locked(handle, place):
            raise LockError(
                f"another process is at work in {folder}: wait until it has ended and start the "
                f"same command again, or write elsewhere with {elsewhere}"
            )
        try:
            yield
        finally:
            if remove:
                place.unlink(missing_ok=True)


def _locked(handle: IO[str], place: Path) -> bool:
    """Take the lock of an open file; False if somebody else holds it."""
    try:
        # locks belong to the process: forked workers do not keep them
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)

        # whoever held it may have deleted the file after we opened it
        return os.path.samestat(os.fstat(handle.fileno()), place.stat())
    except OSError:
        return False


def refuse_torchrun(command: str) -> None:
    """Refuse a command of one process that several processes were told to run.

    Every one of them would do all of the work and write the same files.

    Args:
        command: as the user types it.

    Raises:
        LockError: WORLD_SIZE, which torchrun sets, is above 1.
    """
    if environment_size() > 1:
        raise LockError(
            f"WORLD_SIZE={environment_size()}: {command} is one process; start it without "
            "torchrun, or unset WORLD_SIZE"
        )


@contextmanager
def one_process_in(
    folder: Path, command: str, elsewhere: str = "hydra.run.dir=...", remove: bool = False
) -> Iterator[None]:
    """Hold the folder's lock for a command that never divides its work among processes.

    Args:
        folder, elsewhere, remove: see `alone_in`.
        command: as the user types it.

    Raises:
        LockError: torchrun started the command, or another process is at work in the folder.
    """
    refuse_torchrun(command)
    with alone_in(folder, elsewhere, remove):
        yield
