"""What the user can mend, said in one line: for commands that do not start under Hydra."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from g2rl.cli.ctrl_c import EXIT_CTRL_C, work_begins
from g2rl.runs.files import came_from_writing

NOT_ALLOWED = (errno.EROFS, errno.EACCES, errno.EPERM)
"""Error numbers of the system for a place where this user, or nobody, may write."""


@contextmanager
def errors_in_one_line(*further_errors: type[Exception], code: int = 1) -> Iterator[None]:
    """End the command with one line and a code where bad input or a file was the reason.

    Ctrl-C ends it with one line and code 130.

    Args:
        further_errors: kinds that are the user's to mend as well, besides ValueError and OSError.
        code: of the exit.

    Raises:
        SystemExit: in the place of such an error.
    """
    work_begins()
    mendable: tuple[type[Exception], ...] = (ValueError, OSError, *further_errors)
    try:
        yield
    except mendable as error:
        print(f"error: {in_words(error)}", file=sys.stderr)
        raise SystemExit(code) from None
    except KeyboardInterrupt:
        # files appear whole or not at all, so there is nothing to mend
        print("\ninterrupted; the same command begins anew", file=sys.stderr)
        raise SystemExit(EXIT_CTRL_C) from None


def in_words(error: BaseException, elsewhere: str = "--out (of g2rl export out=)") -> str:
    """What an error says, without the number that the system gives it.

    Args:
        error: of any kind.
        elsewhere: the option that names another place to write, of the command that failed.
    """
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    if not isinstance(error.filename, (str, bytes)):
        return error.strerror

    # what is there is not what is wanted there
    name = os.fsdecode(error.filename)
    if isinstance(error, FileNotFoundError):
        return f"there is no file or folder {name} (seen from {os.getcwd()})"
    if isinstance(error, (FileExistsError, NotADirectoryError)) and os.path.isfile(name):
        return f"{name} is a file, and a folder is wanted"
    if isinstance(error, IsADirectoryError):
        return f"{name} is a folder, and a file is wanted"

    # to whoever may not read something, another place to write is no help
    text = f"{name}: {error.strerror}"
    if error.errno in NOT_ALLOWED and came_from_writing(error):
        return f"cannot write {text}; {elsewhere} names another place"
    return text
