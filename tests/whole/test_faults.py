"""Faults inside a run: full disk, unwritable folder, encoder that dies, numbers that go bad, odd
groups."""

from __future__ import annotations

import errno
import functools
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from g2rl.cli.errors import raise_cleanly
from g2rl.cli.folder import refuse_unwritable
from g2rl.cli.jobs.train import train
from g2rl.cli.one_line import in_words
from g2rl.engines.rollouts import Rollouts
from g2rl.exploration.encoders.ngram import NgramHashing
from g2rl.policy.loading import load
from g2rl.policy.scoring import Scores
from g2rl.runs.checkpoints import Checkpoints
from g2rl.runs.files import DiskFullError, atomic_folder, atomic_path
from g2rl.runs.tracking import Tracker
from g2rl.training import stages as loop
from g2rl.training.bad_numbers import NonFiniteError
from g2rl.training.step_metrics import train_metrics
from g2rl.training.updater import UpdateError
from g2rl.types import Completion, GroupBatch, Problem, Shaped
from tests.support import NO_EVALUATION, SMOKE, composed, in_this_thread, metric_rows


def run(folder: Path, *overrides: str) -> float:
    common = [
        *SMOKE,
        *NO_EVALUATION,
    ]
    return train(composed(*common, *overrides), folder)


# --- disks


def no_room(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_named_and_the_file_before_stays(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    for writer in (atomic_path, atomic_folder):
        with (
            pytest.raises(DiskFullError, match=f"no room in {tmp_path}"),
            writer(tmp_path / "file"),
        ):
            no_room()
    assert (tmp_path / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_torch_says_of_a_full_disk_is_the_cause_and_not_the_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # torch and safetensors have no error number of their own
    words = {
        errno.EDQUOT: "the quota is used up",
        errno.EFBIG: "a file would be larger than the system allows",
        errno.ENOSPC: "the disk is full",
        None: "less than a megabyte is left there",
    }
    for number, told in words.items():
        said = RuntimeError(f"PytorchStreamWriter failed writing file data/2 (os error {number})")
        usage = SimpleNamespace(free=0 if number is None else 1 << 40)
        disk_usage = shutil.disk_usage
        with monkeypatch.context() as patch:
            stand_in = functools.partial(lambda found, place: found, usage)
            patch.setattr(shutil, "disk_usage", in_this_thread(disk_usage, stand_in))
            with pytest.raises(DiskFullError) as full, atomic_path(tmp_path / "file"):
                raise said
        assert full.value.__cause__ is said
        assert str(full.value) == (
            f"[Errno {errno.ENOSPC}] no room in {tmp_path}: {told}. What was complete stays: free "
            "some room, or raise the quota, and start the same command again"
        )
        assert in_words(full.value).startswith(f"no room in {tmp_path}: {told}. What")


def test_other_errors_pass_unchanged(tmp_path: Path) -> None:
    with pytest.raises(KeyError), atomic_path(tmp_path / "file"):
        raise KeyError("not about disks")


def test_a_row_that_does_not_fit_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = Tracker(tmp_path)
    tracker.start(None, {})
    monkeypatch.setattr(os, "fsync", in_this_thread(os.fsync, no_room))
    with pytest.raises(DiskFullError, match=str(tmp_path)):
        tracker.log(1, {"x": 1.0})


def test_a_checkpoint_that_does_not_fit_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints, model = Checkpoints(tmp_path), torch.nn.Linear(2, 2)
    checkpoints.save(1, model, {})
    monkeypatch.setattr("g2rl.runs.checkpoints.torch.save", no_room)
    with pytest.raises(DiskFullError):
        checkpoints.save(2, model, {})
    assert checkpoints.steps() == [1]
    assert checkpoints.damage(1) is None


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB, which holds two checkpoints of the tiny policy but no third."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", place], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("a tmpfs cannot be mounted here (needs root)")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_run_on_a_full_disk_stops_and_continues_when_there_is_room(small_disk: Path) -> None:
    folder = small_disk / "run"
    with pytest.raises(DiskFullError, match=f"no room in {folder}"):
        run(folder, "trainer.steps=4")
    checkpoints = Checkpoints(folder / "checkpoints")
    assert checkpoints.steps()
    assert all(checkpoints.damage(step) is None for step in checkpoints.steps())
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    run(folder, "trainer.steps=4")
    assert [row["step"] for row in metric_rows(folder)] == [0, 1, 2, 3, 4]
    assert not [path for path in folder.rglob(".*") if "partial" in path.name]


def test_a_read_only_disk_is_refused(small_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(SystemExit) as end:
        refuse_unwritable(small_disk / "run")
    assert end.value.code == 1
    assert "Read-only file system" in capsys.readouterr().err


def test_a_folder_that_cannot_be_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit):
        refuse_unwritable(tmp_path / "file" / "run")
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: cannot write in {tmp_path / 'file' / 'run'}: Not a directory")


def test_an_error_is_reported_even_where_its_traceback_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("g2rl.cli.errors.HydraConfig.get", lambda: SimpleNamespace(mode=None))
    with pytest.raises(SystemExit):
        raise_cleanly(ValueError("what went wrong"), tmp_path / "gone")
    assert "error: what went wrong" in capsys.readouterr().err


# --- an encoder that dies


def test_a_run_whose_encoder_died_continues_as_if_it_had_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "well", "exploration=evol")
    encode, calls = NgramHashing.encode, iter(range(99))

    def dying(self: NgramHashing, texts: list[str]) -> torch.Tensor:
        if next(calls) == 1:
            raise RuntimeError("the encoder is gone")
        return encode(self, texts)

    monkeypatch.setattr(NgramHashing, "encode", dying)
    with pytest.raises(RuntimeError, match="encoder is gone"):
        run(tmp_path / "ill", "exploration=evol")
    assert [row["step"] for row in metric_rows(tmp_path / "ill")] == [0, 1]
    run(tmp_path / "ill", "exploration=evol")
    place = "checkpoints/step_000002/model.safetensors"
    assert (tmp_path / "well" / place).read_bytes() == (tmp_path / "ill" / place).read_bytes()


# --- numbers that go bad


def with_nan_features(monkeypatch: pytest.MonkeyPatch, calls: set[int]) -> None:
    """Response 5 of the scoring passes with these numbers has a NaN in its features (group 1 of G =
    4)."""
    score, counter = loop.score, iter(range(99))

    def broken(*args: Any, **kwargs: Any) -> Scores:
        scores = score(*args, **kwargs)
        if scores.features_ND is not None and next(counter) in calls:
            scores.features_ND[5, 0] = torch.nan
        return scores

    monkeypatch.setattr(loop, "score", broken)


def test_a_batch_with_a_feature_that_is_not_finite_is_counted_and_not_learnt_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_nan_features(monkeypatch, {0})
    run(tmp_path, "trainer.keep_checkpoints=2")
    _, first, second = metric_rows(tmp_path)
    assert (first["explore/nonfinite_groups"], first["update/skipped"]) == (0.25, 1.0)
    assert (second["explore/nonfinite_groups"], second["update/skipped"]) == (0.0, 0.0)
    start = load("builtin:tiny").model.state_dict()
    kept = load_file(tmp_path / "checkpoints" / "step_000001" / "model.safetensors")
    moved = load_file(tmp_path / "checkpoints" / "step_000002" / "model.safetensors")
    assert all(torch.equal(start[name], kept[name]) for name in kept)
    assert any(not torch.equal(start[name], moved[name]) for name in moved)


def test_too_many_in_a_row_stop_the_run_with_the_tensors_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_nan_features(monkeypatch, {0, 1})
    with pytest.raises(
        UpdateError, match=r"step 2: 2 updates in a row.*features_PGD.*groups \[1\]"
    ) as stop:
        run(tmp_path, "optimizer.max_bad_updates=2")
    place = tmp_path / "failure" / "step_000002"
    assert str(place) in str(stop.value)
    report = json.loads((place / "report.json").read_text())
    assert (report["step"], report["groups"], report["fields"]) == (2, [1], {"features_PGD": [1]})
    assert len(report["completion"]) == 16
    features_PGD = load_file(place / "tensors.safetensors")["features_PGD"]
    assert (~torch.isfinite(features_PGD)).nonzero().tolist() == [[1, 1, 0]]


def test_a_loss_that_is_not_finite_names_its_groups_and_leaves_its_tensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score = loop.score

    def broken(*args: Any, **kwargs: Any) -> Scores:
        scores = score(*args, **kwargs)
        scores.logps[9][0] = torch.nan
        return scores

    monkeypatch.setattr(loop, "score", broken)
    with pytest.raises(
        UpdateError, match=r"step 1: 1 updates in a row.*non-finite loss in groups \[2\]"
    ):
        run(tmp_path, "optimizer.max_bad_updates=1", "optimizer.mini_batches=4", "exploration=none")
    tensors = load_file(tmp_path / "failure" / "step_000001" / "tensors.safetensors")
    assert {
        "advantages_N",
        "old_logps_T",
        "ref_logps_T",
        "response_lengths_N",
        "update_rows",
    } <= set(tensors)
    assert tensors["update_rows"].tolist() == [8, 9, 10, 11]
    assert (~torch.isfinite(tensors["old_logps_T"])).sum() == 1


def test_a_signal_that_makes_nan_stops_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nan(self: object, batch: GroupBatch) -> Shaped:
        rewards_PG = batch.rewards_PG.clone()
        rewards_PG[3, 0] = torch.nan
        return Shaped(rewards_PG)

    monkeypatch.setattr("g2rl.exploration.none.NoExploration.__call__", nan)
    with pytest.raises(NonFiniteError, match=r"exploration=none .*groups \[3\].*failure"):
        run(tmp_path, "exploration=none")
    saved = load_file(tmp_path / "failure" / "step_000001" / "tensors.safetensors")
    assert saved["shaped_rewards_PG"][3, 0].isnan()


# --- odd groups


def test_empty_and_truncated_groups_are_counted() -> None:
    words = Completion([3, 2], "stop", "1 + 2")
    empty = Completion([2], "stop", " ")
    cut = Completion([3, 3], "length", "1 1")
    rollouts = Rollouts(
        [Problem("a", "", "")] * 2, [[1]] * 2, [[words, empty, cut], [cut, cut, cut]]
    )
    batch = GroupBatch(
        rewards_PG=-torch.ones(2, 3),
        correct_PG=torch.zeros(2, 3, dtype=torch.bool),
        lengths_PG=torch.tensor([[2, 1, 2], [2, 2, 2]]),
        entropy_PG=torch.tensor([[1.0, 0.0, 1.0], [1.0, torch.nan, 1.0]]),
    )
    metrics = train_metrics(rollouts, batch, Shaped(batch.rewards_PG))
    assert metrics["train/empty"] == pytest.approx(1 / 6)
    assert metrics["train/truncated"] == pytest.approx(4 / 6)
    assert metrics["train/truncated_groups"] == 0.5
    assert "train/entropy" not in metrics, (
        "a row must be finite; explore/nonfinite_groups counts the group"
    )


@pytest.mark.parametrize("exploration", ["none", "entropy", "evol", "g2rl"])
def test_responses_all_cut_after_one_token_train(tmp_path: Path, exploration: str) -> None:
    """Every group is truncated, wrong and (nearly) all alike: constant rewards, short features."""
    run(tmp_path, f"exploration={exploration}", "task.max_response_tokens=1", "trainer.steps=1")
    row = metric_rows(tmp_path)[1]
    assert row["train/truncated_groups"] == row["advantage/uniform_wrong"] == 1.0
    assert row["update/skipped"] == 0.0


@pytest.mark.parametrize("exploration", ["none", "entropy"])
def test_groups_of_one_train_to_nothing(tmp_path: Path, exploration: str) -> None:
    run(tmp_path, f"exploration={exploration}", "trainer.group_size=1", "trainer.steps=1")
    row = metric_rows(tmp_path)[1]
    assert row["advantage/zero_advantage"] == 1.0
    assert row["update/skipped"] == 0.0
