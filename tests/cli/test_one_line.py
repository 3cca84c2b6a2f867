"""Errors of commands that do not start under Hydra: one line without the system's numbers."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from g2rl.cli.one_line import errors_in_one_line, in_words


def test_a_file_that_may_not_be_written_is_named_with_what_helps(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as end, errors_in_one_line():
        raise OSError(errno.EROFS, "Read-only file system", "theirs/report.html")
    assert end.value.code == 1
    told = capsys.readouterr().err
    assert told.startswith("error: cannot write theirs/report.html: Read-only file system; --out")


def test_numbers_of_the_system_are_left_out(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.write_text("")

    # to a reader another place to write is no help
    unreadable = PermissionError(errno.EACCES, "Permission denied", str(there))
    assert in_words(unreadable) == f"{there}: Permission denied"
    absent = PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "absent"))
    assert "cannot write" in in_words(absent)
    assert in_words(OSError(errno.ENOSPC, "no room in runs")) == "no room in runs"
    assert in_words(ValueError("bad")) == "bad"
