"""The folder of a run: damaged files in it are named, and links elsewhere are not followed."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from g2rl.analysis.comparison.runs import read_run
from g2rl.analysis.report.facts import ReportError, read_facts
from g2rl.cli.folder import prepare, read_config_file
from g2rl.cli.sweep.finished import finished_score

DAMAGED = ["a: [", "[" * 10_000, "- 1", "\x00", "a: 1\n b: 2", "? [a]\n: 1"]


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_configuration_is_named(text: str, tmp_path: Path) -> None:
    place = tmp_path / "config.yaml"
    place.write_text(text)
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n')
    with pytest.raises(ValueError, match=r"config\.yaml"):
        read_config_file(place)
    with pytest.raises(ValueError, match=r"config\.yaml"):
        prepare(tmp_path, {"a": 1}, "auto", (), ["metrics.jsonl"])
    with pytest.raises(ReportError, match=r"config\.yaml"):
        read_facts(tmp_path)
    assert read_run(tmp_path) is None


@pytest.mark.parametrize("text", ["[" * 100_000, "[1]", "3", "{}", '{"after": 3}', '{"after": []}'])
def test_a_damaged_summary_is_no_finished_run(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("trainer: {steps: 1}\n")
    (tmp_path / "summary.json").write_text(text)
    assert finished_score(OmegaConf.create({"trainer": {"steps": 1}}), tmp_path) is None


def test_starting_over_leaves_what_a_link_points_to(tmp_path: Path) -> None:
    # checkpoints on a larger disk
    elsewhere, run = tmp_path / "elsewhere", tmp_path / "run"
    for folder in (elsewhere, run):
        folder.mkdir()
    (elsewhere / "precious").write_text("mine")
    (run / "checkpoints").symlink_to(elsewhere)
    (run / "config.yaml").write_text("a: 1\n")
    assert not prepare(run, {"a": 2}, "never", (), ["checkpoints"])
    assert not (run / "checkpoints").exists()
    assert (elsewhere / "precious").read_text() == "mine"
