"""metrics.jsonl: durable rows, mended tails, refused NaN; tables; a mirror that fails."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from g2rl.runs.tracking import NoMirror, Tracker, read_metrics, read_table
from tests.support import told_by_g2rl


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


@pytest.mark.parametrize("line", ["[" * 100_000, "3", "{}", '{"step": "1"}', '{"step": NaN}'])
def test_a_line_that_is_no_row_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0}\n' + line + '\n{"step": 2}\n')
    with pytest.raises(ValueError, match="line 2"):
        read_metrics(path)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -(10**400)])
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


def test_a_table_is_read_back_and_a_missing_one_is_none(tmp_path: Path) -> None:
    columns = {"nu": [0.5, 1.0], "cosine": [[1.0], [0.0]], "answer": ["a", None]}
    Tracker(tmp_path).table("geometry", 3, columns)
    assert read_table(tmp_path, "geometry", 3) == columns
    assert read_table(tmp_path, "geometry", 4) is None


class Recorder(NoMirror):
    """Notes what it is told; fails at the step it is given."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.fails_at = fails_at
        self.told: list[tuple[Any, ...]] = []

    def start(self, run_dir: Path, config: Mapping[str, Any], rows: Any) -> None:
        self.told.append(("start", run_dir, dict(config), list(rows)))

    def table(self, kind: str, step: int, columns: Any) -> None:
        self.told.append(("table", kind, step, dict(columns)))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if step == self.fails_at:
            raise BrokenPipeError("the service is gone")
        self.told.append(("log", step, dict(metrics)))

    def finish(self) -> None:
        self.told.append(("finish",))


def test_the_mirror_is_told_the_tables_of_a_step_before_its_row(tmp_path: Path) -> None:
    mirror = Recorder()
    tracker = Tracker(tmp_path, mirror)
    tracker.start(None, {"seed": 1})
    tracker.table("rollouts", 1, {"n": [1]})
    tracker.log(1, {"x": 0.5})
    tracker.finish()
    table, row = ("table", "rollouts", 1, {"n": [1]}), ("log", 1, {"x": 0.5})
    assert mirror.told == [("start", tmp_path, {"seed": 1}, []), table, row, ("finish",)]
    again = Recorder()
    Tracker(tmp_path, again).start(1, {})
    assert again.told == [("start", tmp_path, {}, [{"step": 1, "x": 0.5}])]


def test_a_mirror_that_fails_costs_no_local_row_and_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mirror = Recorder(fails_at=2)
    tracker = Tracker(tmp_path, mirror)
    tracker.start(None, {})
    with caplog.at_level(logging.ERROR):
        for step in range(1, 5):
            tracker.table("rollouts", step, {"n": [step]})
            tracker.log(step, {"x": float(step)})
        tracker.finish()
    assert [row["step"] for row in read_metrics(tracker.path)] == [1, 2, 3, 4]
    assert len(list((tmp_path / "rollouts").iterdir())) == 4
    assert [told for told in mirror.told if told[0] == "log"] == [("log", 1, {"x": 1.0})]
    assert ("finish",) not in mirror.told
    [text] = told_by_g2rl(caplog)
    assert "Recorder failed at the row of step 2" in text
    assert "BrokenPipeError: the service is gone" in text


def test_a_mirror_that_does_not_start_stops_the_run_before_its_first_row(tmp_path: Path) -> None:
    class Closed(NoMirror):
        def start(self, run_dir: Path, config: Mapping[str, Any], rows: Any) -> None:
            raise RuntimeError("no account")

    with pytest.raises(RuntimeError, match="no account"):
        Tracker(tmp_path, Closed()).start(None, {})
