"""Memory of a run on a CPU that the C library keeps for the next step.

A step frees tensors that its backward no longer needs. The GNU C library gives their memory back
to the system, which has to find and clear pages again for the next micro-batch. In virtual machines
such page faults are slow, and an update of a small model takes longer for them (docs/cost.md).

Large pages help as well: a matrix product that walks through a tensor in pages of 4 KiB waits for
the processor to look them up. Linux gives pages of 2 MiB to memory that asks for them.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import platform
import resource
from collections.abc import Mapping
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Names of settings in malloc.h."""
KEPT_BYTES = 1 << 30
"""Free memory that stays with the process."""
LARGE_BYTES = 32 << 20
"""Pieces that are larger still go back to the system; the library accepts no larger bound."""
PAGE_BYTES = 2 << 20
"""A large page."""
FILLED = "MALLOC_PERTURB_"
"""Variable that lets the C library write into all memory that it hands out and takes back."""
OWN_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
"""Variables by which a user settles this for the process."""


def keep_freed_memory(environment: Mapping[str, str] = os.environ) -> bool:
    """Let freed pieces of up to 32 MiB stay with this process, up to 1 GiB at a time, and ask for
    large pages under them, see `large_pages`.

    Args:
        environment: variables of the process. One of `OWN_SETTINGS` leaves everything as it is.

    Returns:
        Whether the C library accepted it; only GNU's is asked.
    """
    if platform.libc_ver()[0] != "glibc" or any(name in environment for name in OWN_SETTINGS):
        return False
    library = _memory_functions()

    # setting one of the two stops the library from adjusting either, so both are set
    is_set = [
        library.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES),
        library.mallopt(M_MMAP_THRESHOLD, LARGE_BYTES),
    ]
    if not all(is_set):
        return False
    if _may_reserve(environment):
        large_pages()
    return True


def _may_reserve(environment: Mapping[str, str]) -> bool:
    """Whether this process may take memory in hand that it does not use yet.

    Under a limit of its size, what the heap holds is missing to stacks of threads and to files that
    are mapped; and where the library fills what it hands out, all of it is used.
    """
    limits = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
    is_limited = any(limit != resource.RLIM_INFINITY for limit in limits)
    return not is_limited and FILLED not in environment


@functools.cache
def large_pages() -> int:
    """Ask for large pages under the pieces that the C library will hand out next, once a process.

    The library's heap is made as large as what it may keep, which takes no memory before it is
    used.

    Returns:
        Bytes that were asked for, 0 where Linux or the C library has no such memory.
    """
    # pieces just small enough to lie in the heap, nearly as many as stay when they are freed
    library = _memory_functions()
    piece_bytes = LARGE_BYTES - PAGE_BYTES
    pieces: list[int] = []
    for _ in range((KEPT_BYTES - 2 * LARGE_BYTES) // piece_bytes):
        piece = library.malloc(piece_bytes)
        if piece:
            pieces.append(piece)

    # those of them that do, in whole pages
    try:
        low, high = _heap_range()
        inside = [piece for piece in pieces if low <= piece and piece + piece_bytes <= high]
        start = -(-min(inside, default=low) // PAGE_BYTES) * PAGE_BYTES
        end = (max(inside, default=low) + piece_bytes) // PAGE_BYTES * PAGE_BYTES
        if not inside or library.madvise(start, end - start, mmap.MADV_HUGEPAGE) != 0:
            return 0
        return end - start
    finally:
        for piece in reversed(pieces):
            library.free(piece)


def _memory_functions() -> ctypes.CDLL:
    """Functions of the C library, with the types of their arguments."""
    library = ctypes.CDLL(None)
    library.malloc.argtypes, library.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
    library.free.argtypes, library.free.restype = [ctypes.c_void_p], None
    library.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return library


def _heap_range() -> tuple[int, int]:
    """Addresses of the first byte of this process's heap and of that behind its last; (0, 0) where
    Linux does not say."""
    try:
        text = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0, 0
    bounds: list[int] = []
    for line in text.splitlines():
        if line.endswith("[heap]"):
            bounds += [int(bound, 16) for bound in line.split()[0].split("-")]
    return (min(bounds), max(bounds)) if bounds else (0, 0)
