"""Memory of a run on a CPU that the C library keeps for the next step.

A step frees what its backward no longer needs. The GNU C library gives such memory back to the
system, which has to find and clear pages for the next micro-batch; where page faults are dear, as
in virtual machines, an update of a small model feels that (docs/cost.md).
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Mapping

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Names of settings in malloc.h."""
KEPT_BYTES = 1 << 30
"""Free memory that stays with the process."""
LARGE_BYTES = 32 << 20
"""Larger pieces come from the system and go back to it; the library accepts no larger bound."""
OWN_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
"""Variables by which a user settles this for the process."""


def keep_freed_memory(environment: Mapping[str, str] = os.environ) -> bool:
    """Let freed pieces of up to 32 MiB stay with this process, up to 1 GiB at a time.

    Args:
        environment: variables of the process. One of `OWN_SETTINGS` leaves everything as it is.

    Returns:
        Whether the C library took it; another one than GNU's is not asked.
    """
    if platform.libc_ver()[0] != "glibc" or any(name in environment for name in OWN_SETTINGS):
        return False
    library = ctypes.CDLL(None)

    # one without the other would turn off what the library adjusts by itself
    is_set = [
        library.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES),
        library.mallopt(M_MMAP_THRESHOLD, LARGE_BYTES),
    ]
    return all(is_set)
