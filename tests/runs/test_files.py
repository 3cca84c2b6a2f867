"""Errors of writing are marked and name what the user knows; those of reading stay as they are."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from g2rl.analysis.bakeoff.rows import read_rows
from g2rl.analysis.figures.style import plt, save_figure
from g2rl.runs.files import atomic_folder, atomic_path, came_from_writing, read_yaml
from g2rl.runs.tracking import read_metrics
from tests.support import in_this_thread


def refused(*names: Path) -> PermissionError:
    """What the system raises where somebody may not; a rename has two names."""
    texts = [str(name) for name in names]
    error = PermissionError(errno.EACCES, "Permission denied", texts[0])
    if len(texts) == 2:
        error = PermissionError(errno.EACCES, "Permission denied", texts[0], None, texts[1])
    return error


def test_what_is_written_is_told_from_what_is_read(tmp_path: Path) -> None:
    target, source = tmp_path / "table", tmp_path / "source"
    for writer in (atomic_path, atomic_folder):
        with pytest.raises(PermissionError) as caught, writer(target) as aside:
            raise refused(aside / "weights" if writer is atomic_folder else aside)
        assert came_from_writing(caught.value)
        assert caught.value.filename == str(target)

        # a source, or the target itself, which may be read to be written anew
        for place in (source, target):
            with pytest.raises(PermissionError) as caught, writer(target):
                raise refused(place)
            assert not came_from_writing(caught.value)
            assert caught.value.filename == str(place)


@pytest.mark.parametrize("writer", [atomic_path, atomic_folder])
def test_steps_of_writing_are_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: Any
) -> None:
    target = tmp_path / "deep" / "target"

    # no folder can be made
    def refuse_folder(path: Path, *words: Any, **more: Any) -> None:
        raise refused(tmp_path / "deep")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", in_this_thread(Path.mkdir, refuse_folder))
        with pytest.raises(PermissionError) as caught, writer(target):
            pass
    assert came_from_writing(caught.value)
    assert caught.value.filename == str(tmp_path / "deep")

    # what is there cannot be replaced
    def refuse_rename(old: Path, new: Path) -> None:
        raise refused(old, new)

    if writer is atomic_folder:
        target.mkdir(parents=True)
    monkeypatch.setattr(os, "replace", in_this_thread(os.replace, refuse_rename))
    with pytest.raises(PermissionError) as caught, writer(target) as aside:
        (aside if writer is atomic_path else aside / "weights").write_text("ours")
    assert came_from_writing(caught.value)
    assert caught.value.filename == str(target)
    assert caught.value.filename2 is None


def test_a_figure_that_cannot_be_written_is_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figure = plt.figure()

    def refuse(path: Path, **more: Any) -> None:
        raise refused(path)

    monkeypatch.setattr(figure, "savefig", refuse)
    with pytest.raises(PermissionError) as caught:
        save_figure(figure, tmp_path / "curves.png")
    plt.close(figure)
    assert came_from_writing(caught.value)


def test_errors_without_a_file_pass(tmp_path: Path) -> None:
    for error in (OSError("plain"), PermissionError(errno.EACCES, "of a number", 5)):
        with pytest.raises(OSError) as caught, atomic_path(tmp_path / "x"):
            raise error
        assert caught.value is error
        assert not came_from_writing(error)


@pytest.mark.parametrize("reader", [read_yaml, read_metrics, lambda path: read_rows([path.parent])])
def test_a_text_that_is_not_utf8_names_line_and_byte(tmp_path: Path, reader: Any) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\n{caf\xe9}\n")
    with pytest.raises(ValueError, match=r"x\.jsonl, line 2: byte 5 of the line is 0xe9, which"):
        reader(path)
