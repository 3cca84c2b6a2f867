"""Files that appear whole or not at all: write aside, fsync, rename. A full disk is named."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FULL_BYTES = 1 << 20
"""With less free than this after a failed write, the disk counts as full whatever the writer
said."""


class DiskFullError(OSError):
    """There is no room for what must be written."""


@contextmanager
def room_in(folder: Path) -> Iterator[None]:
    """Turn a failure to write under `folder` for want of room into a `DiskFullError` that names it.

    Other libraries report a full disk in their own words, so we search the chain of exceptions and
    look at the free space.
    """
    try:
        yield
    except DiskFullError:
        raise
    except Exception as error:
        if _means_full(error) or shutil.disk_usage(folder).free < FULL_BYTES:
            raise DiskFullError(
                errno.ENOSPC,
                f"no room in {folder} ({error}). What was complete stays: free some, or raise the quota, and "
                "start the same command again",
            ) from error
        raise


def _means_full(error: BaseException | None) -> bool:
    """Whether an error, or one that led to it, says that there is no room (safetensors: "(os error
    28)")."""
    while error is not None:
        has_number = getattr(error, "errno", None) in FULL
        tells_number = any(f"(os error {number})" in str(error) for number in FULL)
        if has_number or tells_number:
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a path aside of `target`; on success it is synced and renamed over it."""
    target.parent.mkdir(parents=True, exist_ok=True)

    # write aside
    aside = target.with_name(f".{target.name}.partial")

    # fill and sync the folder, then let it take the name
    try:
        with room_in(target.parent):
            yield aside
            sync_file(aside)
        os.replace(aside, target)
        sync_folder(target.parent)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder aside of `target`; on success its files are synced and it takes the
    name."""
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.partial")
    old = target.with_name(f".{target.name}.old")
    for leftover in (aside, old):  # of a process that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        with room_in(target.parent):
            aside.mkdir()
            yield aside
            for path in aside.rglob("*"):
                if path.is_file():
                    sync_file(path)
            sync_folder(aside)

        if target.exists():  # a directory cannot be renamed over: set the old one aside first
            os.replace(target, old)
            os.replace(aside, target)
            shutil.rmtree(old)
        else:
            os.replace(aside, target)
        sync_folder(target.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Write plain data as JSON with sorted keys; the file is complete or as it was."""
    with atomic_path(path) as aside:
        aside.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def sync_file(path: Path) -> None:
    """Make the content of a file durable."""
    with path.open("rb") as handle:
        os.fsync(handle.fileno())


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
