"""Checkpoints: whole or absent, damage named and skipped, retention, tied weights."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from g2rl.runs.checkpoints import CheckpointError, Checkpoints
from g2rl.runs.files import atomic_folder, atomic_path


class Tied(nn.Module):
    """Embedding and head share one weight, as in small language models."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight
        nn.init.constant_(self.head.weight, value)


STATE = {"updater": {"updates": 3, "moments": [torch.arange(3.0)]}, "signal": {}}


def test_round_trip_keeps_weights_and_state(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(7, Tied(1.5), STATE)
    model = Tied(0.0)
    state = checkpoints.load_newest(model)
    assert state is not None
    assert state["step"] == 7
    assert torch.equal(state["updater"]["moments"][0], torch.arange(3.0))
    assert (model.embed.weight == 1.5).all()
    assert model.head.weight is model.embed.weight


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_weights_may_be_read_by_whom_the_umask_lets(tmp_path: Path, umask: int, mode: int) -> None:
    # safetensors lets only the owner read its files, whatever the umask says
    before = os.umask(umask)
    try:
        folder = Checkpoints(tmp_path).save(1, Tied(1.0), STATE)
    finally:
        os.umask(before)
    for path in folder.iterdir():
        assert path.stat().st_mode & 0o777 == mode, path.name


def test_a_file_behind_a_link_keeps_its_mode(tmp_path: Path) -> None:
    elsewhere = tmp_path / "mine"
    elsewhere.write_text("mine")
    elsewhere.chmod(0o600)
    with atomic_folder(tmp_path / "folder") as aside:
        (aside / "link").symlink_to(elsewhere)
    assert elsewhere.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("writer", [atomic_path, atomic_folder])
def test_an_error_names_the_target_and_not_the_file_beside_it(tmp_path: Path, writer: Any) -> None:
    with pytest.raises(PermissionError) as caught, writer(tmp_path / "page.html") as aside:
        raise PermissionError(errno.EACCES, "Permission denied", str(aside))
    assert caught.value.filename == str(tmp_path / "page.html")

    # another file is named as it is
    other = str(tmp_path / "other")
    with pytest.raises(FileNotFoundError) as caught_other, writer(tmp_path / "page.html"):
        raise FileNotFoundError(errno.ENOENT, "No such file", other)
    assert caught_other.value.filename == other


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3):
        checkpoints.save(step, Tied(step), STATE)
    assert checkpoints.steps() == [2, 3]


def test_the_best_is_kept_however_old(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    scores = {1: 0.3, 2: 0.5, 3: None, 4: 0.5, 5: 0.4, 6: 0.4}
    for step, score in scores.items():
        checkpoints.save(step, Tied(step), STATE, score)
    assert checkpoints.best() == 2, "the first among equals"
    assert checkpoints.steps() == [2, 5, 6]
    assert Checkpoints(tmp_path).load_newest(Tied(0.0))["step"] == 6  # type: ignore[index]
    checkpoints.save(7, Tied(7), STATE, 0.6)
    assert (checkpoints.best(), checkpoints.steps()) == (7, [6, 7])


def test_the_best_is_not_kept_when_nobody_asks(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1, keep_best=False)
    for step, score in ((1, 0.9), (2, 0.1)):
        checkpoints.save(step, Tied(step), STATE, score)
    assert checkpoints.steps() == [2]


def test_a_damaged_later_checkpoint_does_not_push_an_intact_one_out(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(2, Tied(2.0), STATE)
    checkpoints.save(4, Tied(4.0), STATE)
    (checkpoints.path(4) / "model.safetensors").write_bytes(b"half")
    checkpoints.save(3, Tied(3.0), STATE)  # back at 2, on the way to 4 again
    assert checkpoints.load_newest(Tied(0.0))["step"] == 3  # type: ignore[index]
    checkpoints.save(4, Tied(4.0), STATE)
    assert checkpoints.steps() == [4]
    assert checkpoints.damage(4) is None


@pytest.mark.parametrize("name", ["model.safetensors", "training.pt", "manifest.json"])
@pytest.mark.parametrize("fault", ["truncated", "flipped", "missing"])
def test_a_damaged_checkpoint_is_named_and_skipped(
    tmp_path: Path, name: str, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, Tied(1.0), STATE)
    checkpoints.save(2, Tied(2.0), STATE)
    victim = checkpoints.path(2) / name
    content = bytearray(victim.read_bytes())
    if fault == "truncated":
        victim.write_bytes(content[: len(content) // 2])
    elif fault == "flipped":
        content[len(content) // 2] ^= 0x41
        victim.write_bytes(content)
    else:
        victim.unlink()
    model = Tied(0.0)
    with caplog.at_level(logging.WARNING):
        state = checkpoints.load_newest(model)
    assert state is not None
    assert state["step"] == 1
    assert (model.head.weight == 1.0).all()
    assert "step_000002 is damaged" in caplog.text


def test_nothing_intact_is_an_error_and_nothing_at_all_is_a_fresh_start(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.load_newest(Tied(0.0)) is None
    checkpoints.save(1, Tied(1.0), STATE)
    (checkpoints.path(1) / "training.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match="no intact checkpoint"):
        checkpoints.load_newest(Tied(0.0))


NO_MANIFEST: list[object] = [
    "[" * 100_000,
    '{"files":' * 100_000,
    "3",
    "null",
    {"files": {}},
    {"files": {"training.pt": 1}},
    {"score": "high"},
    {"score": [1]},
    {"score": float("nan")},
    {"score": float("inf")},
]


@pytest.mark.parametrize("change", NO_MANIFEST)
def test_whatever_a_manifest_says_is_damage_or_passed_over(change: object, tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=5)
    checkpoints.save(1, Tied(1.0), STATE, score=0.5)
    checkpoints.save(2, Tied(2.0), STATE, score=0.4)
    place = checkpoints.path(2) / "manifest.json"
    manifest = json.loads(place.read_text())
    text = change if isinstance(change, str) else json.dumps({**manifest, **change})  # type: ignore[dict-item]
    place.write_text(text)
    assert checkpoints.best() == 1
    state = checkpoints.load_newest(Tied(0.0))
    assert state is not None
    assert state["step"] == (2 if "score" in str(change) else 1)
    checkpoints.save(3, Tied(3.0), STATE, score=0.1)


def test_weights_must_be_in_the_manifest_and_the_state_of_its_step(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=5)
    checkpoints.save(1, Tied(1.0), STATE)
    checkpoints.save(2, Tied(2.0), STATE)
    place = checkpoints.path(2) / "manifest.json"
    manifest = json.loads(place.read_text())
    del manifest["files"]["model.safetensors"]
    place.write_text(json.dumps(manifest))
    assert checkpoints.damage(2) == "manifest.json names no weights"

    # a whole checkpoint under the name of another step
    shutil.rmtree(checkpoints.path(2))
    shutil.copytree(checkpoints.path(1), checkpoints.path(2))
    with pytest.raises(CheckpointError, match="of another step, 1"):
        checkpoints.load_newest(Tied(0.0))


def test_of_a_link_only_the_link_goes(tmp_path: Path) -> None:
    # a user may keep checkpoints elsewhere, and a planted link must not be followed
    elsewhere = tmp_path / "elsewhere"
    checkpoints = Checkpoints(tmp_path / "run", keep=1, keep_best=False)
    checkpoints.save(1, Tied(1.0), STATE)
    shutil.move(checkpoints.path(1), elsewhere)
    checkpoints.path(1).symlink_to(elsewhere)
    assert checkpoints.load_newest(Tied(0.0)) is not None
    checkpoints.save(2, Tied(2.0), STATE)
    assert checkpoints.steps() == [2]
    assert (elsewhere / "training.pt").is_file()

    # what is written aside of a file or a folder
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (tmp_path / ".file.partial").symlink_to(precious)
    (tmp_path / ".folder.partial").symlink_to(elsewhere)
    with atomic_path(tmp_path / "file") as aside:
        aside.write_text("new")
    with atomic_folder(tmp_path / "folder") as aside:
        (aside / "a").write_text("new")
    assert precious.read_text() == "mine"
    assert not (elsewhere / "a").exists()
    assert (tmp_path / "folder" / "a").read_text() == (tmp_path / "file").read_text() == "new"
    assert not (tmp_path / "file").is_symlink()


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, nn.Linear(2, 2), STATE)
    with pytest.raises(CheckpointError, match="another model"):
        checkpoints.load_newest(Tied(0.0))


def test_a_failed_write_leaves_the_old_file_and_no_trace(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    for writer in (fail_in_a_file, fail_in_a_folder):
        with pytest.raises(RuntimeError, match="disk"):
            writer(tmp_path)
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def fail_in_a_file(folder: Path) -> None:
    with atomic_path(folder / "file") as aside:
        aside.write_text("half of the n")
        raise RuntimeError("disk")


def fail_in_a_folder(folder: Path) -> None:
    with atomic_folder(folder / "folder") as aside:
        (aside / "part").write_text("x")
        raise RuntimeError("disk")


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    for text in ("one", "two"):
        with atomic_folder(tmp_path / "folder") as aside:
            (aside / text).write_text(text)
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["two"]
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_what_a_killed_process_left_aside_is_cleared(tmp_path: Path) -> None:
    for left in (".folder.partial", ".folder.old"):
        (tmp_path / left).mkdir()
        (tmp_path / left / "part").write_text("x")
    with atomic_folder(tmp_path / "folder") as aside:
        (aside / "new").write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
