"""Files of before the modules moved still work; tests/data/run_741d26e/README.md describes them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from pyarrow import parquet

from g2rl.analysis.comparison.runs import read_run
from g2rl.cli.jobs.evaluate import evaluate
from g2rl.cli.jobs.train import train
from g2rl.runs.identity import with_present_names
from g2rl.runs.layout import RunFolder
from g2rl.tasks.grading.registry import VERIFIERS
from tests.support import DATA, composed, json_lines, untimed, untimed_rows

OLD = DATA / "run_741d26e"
SETTINGS = (
    "experiment=smoke",
    "exploration=evol",
    "exploration.observe=[g2rl]",
    "model.lora.r=2",
    "optimizer.lr=0.01",
    "trainer.steps=4",
    "trainer.eval_every=2",
    "trainer.keep_checkpoints=1",
    "trainer.keep_best=false",
    "tracking=local",
)


@pytest.fixture
def old_run(tmp_path: Path) -> Path:
    """A copy of the interrupted run."""
    return Path(shutil.copytree(OLD / "run", tmp_path / "run"))


def test_an_old_run_resumes_and_ends_as_the_old_code_would_have_ended_it(old_run: Path) -> None:
    pytest.importorskip("peft")
    train(composed(*SETTINGS), old_run)

    # floats differ a little between processors, so they are compared with room
    expected = [untimed(row) for row in json_lines(OLD / "continued.jsonl")]
    rows = untimed_rows(old_run)
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4]
    for row, expected_row in zip(rows, expected, strict=True):
        # the old code measured less, and an observer made the update compare two forwards
        expected_row.pop("update/first_ratio", None)
        common = {name: value for name, value in row.items() if name in expected_row}
        assert common == pytest.approx(expected_row, rel=1e-3, abs=1e-5)


def test_an_old_run_is_still_refused_with_other_settings(old_run: Path) -> None:
    before = RunFolder(old_run).metrics.read_bytes()
    with pytest.raises(ValueError, match=r"other settings: optimizer\.lr: 0\.01 -> 0\.02\. "):
        train(composed(*SETTINGS, "optimizer.lr=0.02"), old_run)
    assert RunFolder(old_run).metrics.read_bytes() == before


def test_an_old_run_and_a_present_one_are_seeds_of_the_same_arm(old_run: Path) -> None:
    stored = RunFolder(old_run).config.read_text()
    assert "g2rl.encoders.ngram.NgramHashing" in stored
    present = RunFolder(old_run.parent / "present")
    present.path.mkdir()
    present.config.write_text(yaml.safe_dump(with_present_names(yaml.safe_load(stored))))

    settings: list[Any] = []
    for folder in (old_run, present.path):
        run = read_run(folder)
        assert run is not None
        settings.append(run.compared())
    assert settings[0] == settings[1]


def test_old_samples_are_graded_again_to_the_same_verdicts(tmp_path: Path) -> None:
    source = tmp_path / "samples.parquet"
    shutil.copy(OLD / "samples.parquet", source)
    before = parquet.read_table(source).to_pylist()
    assert len({row["verifier"] for row in before} - set(VERIFIERS.values())) == 2, "moved ones"

    config = composed(f"samples={source}", "tracking=local", "verify.workers=1", command="evaluate")
    evaluate(config, tmp_path / "graded")
    after = parquet.read_table(tmp_path / "graded" / "samples.parquet").to_pylist()

    # by which route a math verdict is reached is the grader's own affair
    columns = ("benchmark", "problem", "sample", "answer", "correct")
    verdicts_before = [[row[name] for name in columns] for row in before]
    verdicts_after = [[row[name] for name in columns] for row in after]
    assert verdicts_after == verdicts_before
