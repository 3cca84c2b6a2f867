"""The W&B mirror: what an offline run really holds on disk, and the pure functions that it is made
of."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from g2rl.formulas.pairs import pair_table
from g2rl.runs.tracking import Tracker
from g2rl.runs.wandb_mirror import (
    BINS,
    HISTOGRAMS,
    SAMPLE_COLUMNS,
    WandbMirror,
    cosine_histograms,
    sample_rows,
)
from tests.runs.wandb_files import WandbRun, offline_folders, read_run

ROLLOUTS = {
    "problem": ["p0", "p0", "p1", "p1"],
    "sample": [0, 1, 0, 1],
    "prompt": ["use 1", "use 1", "use 2", "use 2"],
    "gold": ["1", "1", "2", "2"],
    "completion": ["one", "two", "", "zwei \u00e9"],
    "answer": ["1", "2", None, "2"],
    "correct": [True, False, False, True],
}
GEOMETRY: dict[str, list[Any]] = {
    "correct": [True, False, False, True],
    "reward": [1.0, -1.0, -1.0, 1.0],
    "shaped_reward": [2.0, -1.0, -1.5, 1.25],
    "nu": [1.0, 0.0, 0.5, 0.25],
    "cosine": [[1.0, -0.5], [-0.5, 1.0], [1.0, 0.25], [0.25, 1.0]],
}


@pytest.fixture(autouse=True)
def no_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.delenv("WANDB_DATA_DIR", raising=False)


def mirror(**settings: Any) -> WandbMirror:
    labels = {
        "group": "a-study",
        "arm": "g2rl-lam=3",
        "name": "g2rl-lam=3-seed1",
        "tags": ["g2rl", "tiny"],
    }
    return WandbMirror(**{**labels, "samples_every": 2, "samples": 3, **settings})


def steps(tracker: Tracker, first: int, last: int) -> None:
    for step in range(first, last + 1):
        tracker.table("rollouts", step, ROLLOUTS)
        tracker.table("geometry", step, GEOMETRY)
        tracker.log(step, {"train/accuracy": step / 10, "eval/countdown/pass@1": 0.5 - step / 10})


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, WandbRun]:
    run_dir = tmp_path / "run"
    tracker = Tracker(run_dir, mirror())
    tracker.start(None, {"seed": 1, "exploration": {"lam": 3.0}})
    steps(tracker, 1, 4)
    tracker.finish()
    [folder] = offline_folders(run_dir)
    return folder, read_run(folder)


def test_the_run_carries_its_labels_and_configuration(written: tuple[Path, WandbRun]) -> None:
    _, found = written
    run = found.run
    assert (run.project, run.run_group, run.job_type) == ("g2rl", "a-study", "train")
    assert (run.display_name, list(run.tags)) == ("g2rl-lam=3-seed1", ["g2rl", "tiny"])
    assert found.config["seed"] == 1
    assert found.config["exploration"] == {"lam": 3.0}
    assert found.config["arm"] == "g2rl-lam=3"
    assert found.ended


def test_the_training_step_is_the_axis_of_everything(written: tuple[Path, WandbRun]) -> None:
    _, found = written
    assert found.metrics["*"].step_metric == "step"
    assert found.metrics["step"].options.hidden
    assert all(
        metric.step_metric == "step" for name, metric in found.metrics.items() if name != "step"
    )
    assert [row["step"] for row in found.history] == [1, 2, 3, 4]
    assert [row["train/accuracy"] for row in found.history] == [0.1, 0.2, 0.3, 0.4]


def test_the_summary_keeps_the_best_and_the_last_held_out_accuracy(
    written: tuple[Path, WandbRun],
) -> None:
    _, found = written
    summary = found.metrics["eval/countdown/pass@1"].summary
    assert (summary.max, summary.last, summary.mean) == (True, True, False)
    kept = found.summary["eval/countdown/pass@1"]
    assert kept["max"] == pytest.approx(0.4)
    assert kept["last"] == pytest.approx(0.1)
    assert found.summary["train/accuracy"] == pytest.approx(0.4)


def test_every_second_step_has_a_table_of_samples(written: tuple[Path, WandbRun]) -> None:
    folder, found = written
    assert [row["step"] for row in found.history if "samples" in row] == [2, 4]
    entry = found.history[1]["samples"]
    assert (entry["_type"], entry["nrows"], entry["ncols"]) == (
        "table-file",
        3,
        len(SAMPLE_COLUMNS),
    )
    table = json.loads((folder / "files" / entry["path"]).read_text(encoding="utf-8"))
    assert table["columns"] == list(SAMPLE_COLUMNS)
    assert table["data"] == [
        [2, "p0", "use 1", "one", "1", "1", True, 1.0, 2.0, 1.0],
        [2, "p0", "use 1", "two", "1", "2", False, -1.0, -1.0, 0.0],
        [2, "p1", "use 2", "", "2", None, False, -1.0, -1.5, 0.5],
    ]


def test_every_observed_step_has_its_histograms(written: tuple[Path, WandbRun]) -> None:
    _, found = written
    for row in found.history:  # the two pairs of GEOMETRY are a right and a wrong response each
        assert row.keys() & set(HISTOGRAMS) == {"histogram/cosine_correct_wrong"}
        histogram = row["histogram/cosine_correct_wrong"]
        assert histogram["_type"] == "histogram"
        assert np.flatnonzero(histogram["values"]).tolist() == [
            16,
            40,
        ]  # -0.5 and 0.25 in 64 bins of [-1, 1]
        assert (histogram["bins"][0], histogram["bins"][-1], len(histogram["bins"])) == (
            -1,
            1,
            BINS + 1,
        )


def test_nothing_is_written_outside_the_run_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: tuple[Path, WandbRun]
) -> None:
    """W&B stages tables in the user's data folder unless told otherwise."""
    assert "WANDB_DATA_DIR" not in os.environ
    staged = list((tmp_path / "run" / "wandb" / "data").rglob("*"))
    assert any(path.is_file() for path in staged)


def test_a_continued_offline_run_holds_the_whole_run(tmp_path: Path) -> None:
    """Killed after step 5, checkpoint at step 3: the new folder has steps 1 to 6 once, tables
    included."""
    killed = Tracker(tmp_path, mirror())
    killed.start(None, {})
    steps(killed, 1, 5)
    killed.finish()
    time.sleep(1.1)  # the folders' names are exact to the second
    again = Tracker(tmp_path, mirror())
    again.start(3, {})
    steps(again, 4, 6)
    again.finish()
    found = read_run(offline_folders(tmp_path)[-1])
    assert [row["step"] for row in found.history] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in found.history if "samples" in row] == [2, 4, 6]
    assert all("histogram/cosine_correct_wrong" in row for row in found.history)
    first, second = (read_run(folder).run.run_id for folder in offline_folders(tmp_path))
    assert first == second


def test_tables_and_histograms_can_be_turned_off(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, mirror(samples_every=0, histograms=False))
    tracker.start(None, {})
    steps(tracker, 1, 2)
    tracker.finish()
    found = read_run(offline_folders(tmp_path)[0])
    assert [sorted(row.keys() - {"_step", "_runtime", "_timestamp"}) for row in found.history] == [
        ["eval/countdown/pass@1", "step", "train/accuracy"]
    ] * 2


def test_online_without_an_account_is_refused_with_the_mend(tmp_path: Path) -> None:
    with pytest.raises(
        RuntimeError, match=r"tracking\.mode=online: W&B does not start.*tracking=local"
    ):
        Tracker(tmp_path, mirror(mode="online")).start(None, {})
    assert not (tmp_path / "metrics.jsonl").exists()
    assert "WANDB_DATA_DIR" not in os.environ, "the next run of the process has another folder"


def test_samples_without_geometry_or_nu_have_empty_places() -> None:
    [row] = sample_rows(7, ROLLOUTS, {}, 1)
    assert row == [7, "p0", "use 1", "one", "1", "1", True, None, None, None]
    observed = {"reward": [1.0], "shaped_reward": [1.0], "observe_g2rl_nu": [0.75]}
    assert sample_rows(7, ROLLOUTS, observed, 1)[0][-3:] == [1.0, 1.0, 0.75]
    assert len(sample_rows(7, ROLLOUTS, {}, 99)) == 4


def test_histograms_count_the_pairs_of_the_pair_table() -> None:
    """Against `pair_table`, which walks the same pairs, bin by bin; and cosines beyond 1 by
    rounding."""
    generator = torch.Generator().manual_seed(0)
    unit = torch.nn.functional.normalize(torch.randn(5, 6, 3, generator=generator).double(), dim=-1)
    cosine_PGG = unit @ unit.transpose(1, 2)
    cosine_PGG[0, 0, 1] = 1.0000001
    correct_PG = torch.rand(5, 6, generator=generator) < 0.5
    found = cosine_histograms(
        {"cosine": cosine_PGG.flatten(0, 1).tolist(), "correct": correct_PG.flatten().tolist()}
    )
    pairs = pair_table(cosine_PGG, correct_PG)
    assert set(found) == set(HISTOGRAMS)
    for name, counts in found.items():
        label = name.removeprefix("histogram/cosine_").replace("_", "-")
        mine = [c for c, pair in zip(pairs["cosine"], pairs["pair"], strict=True) if pair == label]
        expected = np.zeros(BINS, dtype=int)
        for cosine in mine:
            expected[min(int((min(cosine, 1.0) + 1) / 2 * BINS), BINS - 1)] += 1
        assert counts.tolist() == expected.tolist()
    assert sum(counts.sum() for counts in found.values()) == 5 * 15


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"mode": "offlin"}, "offline"),
        ({"samples_every": -1}, "samples_every"),
        ({"samples": 0}, "samples >= 1"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        WandbMirror(**settings)
