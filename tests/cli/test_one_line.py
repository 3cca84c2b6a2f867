"""Errors of commands that do not start under Hydra: one line without the system's numbers."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from g2rl.cli.one_line import errors_in_one_line, in_words
from g2rl.runs.files import atomic_path
from g2rl.runs.lock import alone_in
from tests.support import in_this_thread


def test_a_file_that_may_not_be_written_is_named_with_what_helps(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as end, errors_in_one_line():
        raise OSError(errno.EROFS, "Read-only file system", "theirs/report.html")
    assert end.value.code == 1
    told = capsys.readouterr().err
    assert told.startswith("error: cannot write theirs/report.html: Read-only file system; --out")


def test_ctrl_c_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end, errors_in_one_line():
        raise KeyboardInterrupt
    assert end.value.code == 130
    assert capsys.readouterr().err == "\ninterrupted; the same command begins anew\n"


def test_numbers_of_the_system_are_left_out(tmp_path: Path) -> None:
    # to a reader another place to write is no help, whether the file is seen or hidden by a folder
    there = tmp_path / "there"
    there.write_text("")
    for place in (there, tmp_path / "hidden" / "config.yaml"):
        unreadable = PermissionError(errno.EACCES, "Permission denied", str(place))
        assert in_words(unreadable) == f"{place}: Permission denied"
    # what is there is not what is wanted there
    for kind, place, told in (
        (FileNotFoundError(errno.ENOENT, "No such", "gone"), "", "there is no file or folder gone"),
        (FileExistsError(errno.EEXIST, "File exists", str(there)), there, "is a file, and a fo"),
        (NotADirectoryError(errno.ENOTDIR, "Not a", str(there)), there, "is a file, and a folder"),
        (IsADirectoryError(errno.EISDIR, "Is a", str(tmp_path)), tmp_path, "is a folder, and a "),
    ):
        assert f"{place} {told}".strip() in in_words(kind)
    assert in_words(OSError(errno.ENOSPC, "no room in runs")) == "no room in runs"
    assert in_words(OSError(errno.EBADF, "Bad file descriptor", 5)) == "Bad file descriptor"
    assert in_words(ValueError("bad")) == "bad"


@pytest.mark.parametrize("is_there", [False, True])
def test_a_folder_of_somebody_else_is_named_with_what_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_there: bool
) -> None:
    # the tests may run as root, to whom no folder is closed
    def refuse(path: Path, *words: Any, **more: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    page = tmp_path / "report.html"
    if is_there:
        page.write_text("theirs")
    monkeypatch.setattr(Path, "open", in_this_thread(Path.open, refuse))
    with pytest.raises(PermissionError) as refused, atomic_path(page) as aside:
        aside.open("w")
    assert in_words(refused.value) == (
        f"cannot write {page}: Permission denied; --out (of g2rl export out=) names another place"
    )

    # a lock is no file that the user knows
    with pytest.raises(PermissionError) as refused, alone_in(tmp_path / "new"):
        pass
    assert in_words(refused.value).startswith(f"cannot write {tmp_path / 'new'}: Permission")
