"""What the user can mend, said in one line: for commands that do not start under Hydra."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def errors_in_one_line(*further_errors: type[Exception]) -> Iterator[None]:
    """End the command with one line and code 1 where bad input or a file was the reason.

    Args:
        further_errors: kinds that are the user's to mend as well, besides ValueError and OSError.

    Raises:
        SystemExit: in the place of such an error.
    """
    mendable: tuple[type[Exception], ...] = (ValueError, OSError, *further_errors)
    try:
        yield
    except mendable as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
