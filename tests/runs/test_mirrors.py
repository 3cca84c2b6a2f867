"""TensorBoard and CSV beside the local files: what they hold, read with their own readers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hydra.utils import instantiate

from g2rl.runs.csv_mirror import CsvMirror
from g2rl.runs.tensorboard_mirror import TensorboardMirror
from g2rl.runs.tracking import NoMirror, Several, Tracker
from tests.runs.test_wandb_mirror import GEOMETRY, ROLLOUTS, steps
from tests.support import composed, metric_rows

CONFIG = {"seed": 1, "exploration": {"lam": 3.0}}


def test_the_csv_has_the_names_and_values_of_the_metrics(tmp_path: Path) -> None:
    """A metric that appears later adds a column; pandas is the reader."""
    tracker = Tracker(tmp_path, CsvMirror())
    tracker.start(None, CONFIG)
    tracker.log(0, {"eval/a/pass@1": 0.25})
    tracker.log(1, {"train/accuracy": 0.5, 'odd, "name"': 1e-9})
    tracker.log(2, {"train/accuracy": 1 / 3, "eval/a/pass@1": 0.75})
    tracker.finish()
    expected = pd.DataFrame(metric_rows(tmp_path))
    found = pd.read_csv(tmp_path / "metrics.csv")
    pd.testing.assert_frame_equal(found, expected)

    # continued after step 1, which drops step 2
    again = Tracker(tmp_path, CsvMirror())
    again.start(1, CONFIG)
    again.log(2, {"train/accuracy": 0.125})
    found = pd.read_csv(tmp_path / "metrics.csv")
    assert found["step"].tolist() == [0, 1, 2]
    assert found["train/accuracy"].tolist()[1:] == [0.5, 0.125]


def events(folder: Path) -> Any:
    """What TensorBoard itself reads in a run's folder."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    everything = dict.fromkeys(("scalars", "tensors", "histograms"), 0)
    found = accumulator.EventAccumulator(str(folder / "tensorboard"), size_guidance=everything)
    found.Reload()
    return found


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Step and value of every scalar, by name."""
    found = events(folder)
    values: dict[str, list[tuple[int, float]]] = {}
    for name in found.Tags()["scalars"]:
        values[name] = [(event.step, event.value) for event in found.Scalars(name)]
    return values


def test_tensorboard_has_the_names_steps_and_values_of_the_metrics(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    tracker = Tracker(tmp_path, TensorboardMirror(samples_every=2, samples=3))
    tracker.start(None, CONFIG)
    steps(tracker, 1, 4)
    tracker.finish()
    rows = metric_rows(tmp_path)
    found = scalars(tmp_path)
    assert set(found) == set(rows[0]) - {"step"}
    for name, values in found.items():
        assert [step for step, _ in values] == [1, 2, 3, 4]
        expected = [row[name] for row in rows]
        np.testing.assert_allclose([value for _, value in values], expected, rtol=1e-6)

    # the two pairs of GEOMETRY are a right and a wrong response each, at -0.5 and 0.25
    histogram = events(tmp_path).Histograms("histogram/cosine_correct_wrong")[1]
    assert histogram.step == 2
    value = histogram.histogram_value
    filled = [
        limit for limit, count in zip(value.bucket_limit, value.bucket, strict=True) if count > 0
    ]
    assert filled == [-0.46875, 0.28125], "the upper ends of bins of width 1/32"
    assert value.num == 2

    # samples of every second step, as code
    texts = events(tmp_path).Tensors("samples/text_summary")
    assert [text.step for text in texts] == [2, 4]
    shown = texts[0].tensor_proto.string_val[0].decode()
    assert shown.count("---") == 2
    assert "problem p0, gold 1, answer 1, correct True" in shown
    assert all(line.startswith("    ") for line in shown.splitlines() if line not in ("", "---"))


def test_a_continued_run_stands_once_in_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    for completed, last in ((None, 3), (2, 4)):
        tracker = Tracker(tmp_path, TensorboardMirror(samples_every=1, samples=1))
        tracker.start(completed, CONFIG)
        steps(tracker, (completed or 0) + 1, last)
        tracker.finish()
    assert [step for step, _ in scalars(tmp_path)["train/accuracy"]] == [1, 2, 3, 4]
    texts = events(tmp_path).Tensors("samples/text_summary")
    assert [text.step for text in texts] == [1, 2, 3, 4]


def test_without_tensorboard_nothing_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match=r"pip install 'g2rl\[tensorboard\]'"):
        Tracker(tmp_path, TensorboardMirror()).start(None, CONFIG)
    with pytest.raises(ValueError, match="samples >= 1"):
        TensorboardMirror(samples=0)


class Broken(NoMirror):
    """Fails at the first row."""

    def log(self, step: int, metrics: Any) -> None:
        raise OSError("the server is gone")


def test_a_mirror_that_fails_costs_no_other(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, Several(first=Broken(), second=CsvMirror()))
    tracker.start(None, CONFIG)
    tracker.table("rollouts", 1, ROLLOUTS)
    tracker.table("geometry", 1, GEOMETRY)
    for step in (1, 2):
        tracker.log(step, {"train/accuracy": 0.5})
    tracker.finish()
    assert pd.read_csv(tmp_path / "metrics.csv")["step"].tolist() == [1, 2]


def test_the_choices_make_what_they_say() -> None:
    config = composed("tracking=all", "tracking.wandb.samples=8", with_hydra=True)
    mirrors = instantiate(config.tracking).mirrors
    kinds = {name: type(guarded.mirror).__name__ for name, guarded in mirrors.items()}
    assert kinds == {
        "wandb": "WandbMirror",
        "tensorboard": "TensorboardMirror",
        "csv": "CsvMirror",
    }
    assert mirrors["wandb"].mirror.samples == 8
    assert mirrors["wandb"].mirror.name == f"{mirrors['wandb'].mirror.arm}-seed0"
