"""metrics.jsonl: durable rows, mended tails, refused NaN; tables and the W&B mirror."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from g2rl.tracking import Tracker, WandbMirror, read_metrics


def test_rows_are_appended_and_read_back(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path / "run")
    tracker.start(None, {})
    tracker.log(0, {"a/b": 1.0})
    tracker.log(1, {"a/b": 2.5})
    assert read_metrics(tracker.path) == [{"step": 0, "a/b": 1.0}, {"step": 1, "a/b": 2.5}]


def test_resume_drops_later_rows_tables_and_a_cut_tail(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path)
    tracker.start(None, {})
    for step in range(4):
        tracker.log(step, {"x": float(step)})
        tracker.table("rollouts", step, {"n": [step]})
    with tracker.path.open("a") as out:
        out.write('{"step": 4, "x"')
    again = Tracker(tmp_path)
    again.start(2, {})
    assert [row["step"] for row in read_metrics(again.path)] == [0, 1, 2]
    assert sorted(p.name for p in (tmp_path / "rollouts").iterdir()) == [
        f"step_{s:06d}.parquet" for s in range(3)
    ]
    again.log(3, {"x": 9.0})
    assert read_metrics(again.path)[-1] == {"step": 3, "x": 9.0}


def test_a_fresh_start_leaves_nothing_of_an_earlier_try(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path)
    tracker.start(None, {})
    tracker.log(0, {"x": 1.0})
    tracker.table("geometry", 1, {"n": [1]})
    Tracker(tmp_path).start(None, {})
    assert read_metrics(tracker.path) == []
    assert not (tmp_path / "geometry").exists()


def test_damage_in_the_middle_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0}\n{"step": \n{"step": 2}\n')
    with pytest.raises(ValueError, match="line 2"):
        read_metrics(path)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_metric_that_is_not_finite_is_refused(tmp_path: Path, bad: float) -> None:
    tracker = Tracker(tmp_path)
    tracker.start(None, {})
    with pytest.raises(ValueError, match="train/loss"):
        tracker.log(1, {"train/loss": bad, "fine": 1.0})
    assert read_metrics(tracker.path) == []


def test_tables_are_parquet(tmp_path: Path) -> None:
    path = Tracker(tmp_path).table("geometry", 3, {"nu": [0.5, 1.0], "cosine": [[1.0], [0.0]]})
    assert path.name == "step_000003.parquet"
    assert pd.read_parquet(path)["nu"].tolist() == [0.5, 1.0]


def test_wandb_offline_writes_its_files_without_an_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "")
    tracker = Tracker(tmp_path / "tiny-run", WandbMirror(mode="offline"))
    tracker.start(None, {"seed": 1})
    tracker.log(1, {"train/accuracy": 0.5})
    tracker.finish()
    [folder] = [p for p in (tmp_path / "tiny-run" / "wandb").iterdir() if p.name.startswith("offline-run")]
    assert [p for p in folder.iterdir() if p.suffix == ".wandb" and p.stat().st_size > 0]


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="offline"):
        WandbMirror(mode="offlin")
