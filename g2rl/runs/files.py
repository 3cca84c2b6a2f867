"""Files that appear whole or not at all: write aside, fsync, rename. A full disk is named.

A name with the ending ``.partial`` or ``.old`` that is left behind belongs to a process that was
killed; the next writer of the same target removes it.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from g2rl.tasks.places import not_utf8

YAML_FAULTS = (yaml.YAMLError, ValueError, RecursionError)
"""What reading a YAML file raises that is damaged, nests too deep or is no text."""
FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "a file would be larger than the system allows",
}
"""Error numbers of the system that say that there is no room, in words."""
NOT_WRITTEN = "this happened while a file or a folder was written"
"""Note on an error: it came from writing. Its number is the same where a file may not be read."""
FULL_BYTES = 1 << 20
"""If fewer bytes than this are free after a failed write, the disk counts as full, whatever the
writer said."""


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
        raise  # an inner `room_in` has named its folder already
    except Exception as error:
        if _means_full(error) or shutil.disk_usage(folder).free < FULL_BYTES:
            raise DiskFullError(
                errno.ENOSPC,
                f"no room in {folder}: {_why_full(error)}. What was complete stays: free some "
                "room, or raise the quota, and start the same command again",
            ) from error
        raise


@contextmanager
def errors_of(target: Path, *asides: Path) -> Iterator[None]:
    """Mark errors of writing with the note `NOT_WRITTEN`, and let them name what the user knows.

    An error at one of `asides`, or below one, is raised again under the name of the target, with
    the note. An error at a folder that the target lies in keeps its name and gets the note. Every
    other error came from reading what the target is made of, and stays as it is.

    Args:
        target: what is to be written.
        asides: paths that are written for it; the target itself where it is written directly.

    Raises:
        OSError: of the same kind and number.
    """
    try:
        yield
    except OSError as error:
        # a rename has two names
        names: list[Path] = []
        for name in (error.filename, error.filename2):
            if isinstance(name, (str, bytes)):
                names.append(Path(os.fsdecode(name)))

        # in the place of a name that is ours, the one that was asked for
        if any(name.is_relative_to(aside) for name in names for aside in asides):
            told = OSError(error.errno, error.strerror, str(target))
            told.add_note(NOT_WRITTEN)
            raise told from error

        # a source may lie in the same folder, but no reader of it is refused by that folder's name
        if any(name in target.parents for name in names):
            error.add_note(NOT_WRITTEN)
        raise


def came_from_writing(error: OSError) -> bool:
    """Whether an error says that something could not be written, as `errors_of` has marked it."""
    return error.errno == errno.EROFS or NOT_WRITTEN in getattr(error, "__notes__", ())


def _means_full(error: BaseException) -> bool:
    """Whether an error, or one of those that led to it, says that there is no room."""
    return _number_of(error) is not None


def _why_full(error: BaseException) -> str:
    """Why there is no room, in our own words; what a library said is the error's cause."""
    # where no number tells, the free space did
    number = _number_of(error)
    return "less than a megabyte is left there" if number is None else FULL[number]


def _number_of(error: BaseException | None) -> int | None:
    """The number of `FULL` that an error, or one of those that led to it, tells; None for none."""
    while error is not None:
        # safetensors has no error number, it writes "(os error 28)"
        for number in FULL:
            if getattr(error, "errno", None) == number or f"(os error {number})" in str(error):
                return number
        error = error.__cause__ or error.__context__
    return None


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a path beside `target` to write to; on success that file takes the target's name.

    Raises:
        DiskFullError: there is no room; the target is as it was.
    """
    aside = target.with_name(f".{target.name}.partial")

    with errors_of(target, aside):
        target.parent.mkdir(parents=True, exist_ok=True)

        # left behind by a process that was killed; through a link another file would be written
        remove(aside)

        try:
            # the content must be on the disk before the name points to it
            with room_in(target.parent):
                yield aside
                sync_file(aside)

            os.replace(aside, target)
            sync_folder(target.parent)
        finally:
            aside.unlink(missing_ok=True)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside `target` to fill; on success it takes the target's name.

    Raises:
        DiskFullError: there is no room; the target is as it was.
    """
    aside = target.with_name(f".{target.name}.partial")
    old = target.with_name(f".{target.name}.old")

    with errors_of(target, aside, old):
        target.parent.mkdir(parents=True, exist_ok=True)

        # left behind by a process that was killed
        for leftover in (aside, old):
            remove(leftover)

        try:
            # the content must be on the disk before the name points to it
            with room_in(target.parent):
                aside.mkdir()
                yield aside
                for path in aside.rglob("*"):
                    if path.is_file():
                        allow_like(path, aside)
                        sync_file(path)
                sync_folder(aside)

            # no folder can be renamed over another one, so the old one steps aside first
            if target.exists():
                os.replace(target, old)
                os.replace(aside, target)
                remove(old)
            else:
                os.replace(aside, target)
            sync_folder(target.parent)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def remove(path: Path) -> None:
    """Delete a file, a folder with all that is in it, or nothing where there is nothing.

    Of a link only the link goes, be it to a folder: what lies elsewhere is not ours.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def read_yaml(path: Path) -> Any:
    """What a YAML file holds, as plain data.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is damaged; the message names it.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except YAML_FAULTS as error:
        raise ValueError(why_no_yaml(path, error)) from error


def why_no_yaml(path: Path, error: Exception) -> str:
    """Why a file cannot be read as YAML, in one line that names it.

    Args:
        path: of the file.
        error: one of `YAML_FAULTS`, raised while it was read.
    """
    # errors of YAML name line and column, on lines of their own
    if isinstance(error, UnicodeDecodeError):
        return not_utf8(path) or str(error)
    reason = " ".join(str(error).split())
    if isinstance(error, RecursionError):
        reason = "its lists or groups nest too deep; make it flatter"
    return f"{path} cannot be read as YAML: {reason}"


def read_lines(path: Path) -> list[str]:
    """The lines of a text file without their ends; the last is empty where the file ends with one.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is not UTF-8; the message names the line.
    """
    # other ends of lines than this one may stand in a text
    try:
        return path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(not_utf8(path)) from error


def write_json(path: Path, value: Any) -> None:
    """Write plain data as JSON with sorted keys, whole or not at all."""
    with atomic_path(path) as aside:
        aside.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def allow_like(path: Path, folder: Path) -> None:
    """Let those read and write a file who may read and write its folder, as new files are made.

    safetensors lets only the owner read its files, whatever the umask says. So weights in a folder
    that is shared could not be read beside their own configuration.
    """
    # a file behind a link is not ours
    if not path.is_symlink():
        path.chmod(folder.stat().st_mode & 0o666)


def sync_file(path: Path) -> None:
    """Wait until the content of a file is on the disk."""
    with path.open("rb") as handle:
        os.fsync(handle.fileno())


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk, such as that of a file just renamed."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
