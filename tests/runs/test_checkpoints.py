"""Checkpoints: whole or absent, damage named and skipped, retention, tied weights."""

from __future__ import annotations

import logging
from pathlib import Path

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
