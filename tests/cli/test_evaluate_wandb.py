"""g2rl-eval tracking=wandb: the results and samples as a W&B run beside the tables."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from g2rl.cli.jobs.evaluate import evaluate
from tests.runs.wandb_files import offline_folders, read_run
from tests.support import composed


def test_an_evaluation_is_mirrored_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "")
    words = [
        "benchmark.problems=3",
        "benchmark.samples=2",
        "benchmark.ks=[1,2]",
        "benchmark.max_tokens=40",
        "tracking=wandb",
        "tracking.samples=4",
    ]
    score = evaluate(composed(*words, command="evaluate"), tmp_path, words)
    [folder] = offline_folders(tmp_path)
    found = read_run(folder)
    assert (found.run.job_type, list(found.run.tags)) == ("evaluate", ["tiny", "countdown"])
    [row] = found.history
    results = pd.read_parquet(tmp_path / "results.parquet").set_index("metric")
    for name in ("pass@1", "pass@2", "maj@2", "length"):
        assert row[f"eval/countdown/{name}"] == pytest.approx(results["value"][name]), name
    assert row["eval/countdown/pass@2_low"] == pytest.approx(results["low"]["pass@2"])
    assert row["eval/countdown/pass@1"] == pytest.approx(score)
    table = json.loads((folder / "files" / row["samples"]["path"]).read_text(encoding="utf-8"))
    place = table["columns"].index("completion")
    samples = pd.read_parquet(tmp_path / "samples.parquet")
    assert [values[place] for values in table["data"]] == samples["completion"].tolist()[:4]
