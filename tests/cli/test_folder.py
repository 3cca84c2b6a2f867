"""The folder of a run: damaged files are named, links are not followed, evaluations kept."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from g2rl.analysis.comparison.runs import read_run
from g2rl.analysis.report.facts import ReportError, read_facts
from g2rl.cli.folder import OtherSettingsError, prepare, read_config_file
from g2rl.cli.sweep.finished import finished_score
from g2rl.runs.inputs import OtherInputsError, check_inputs
from g2rl.runs.layout import OUTPUTS

# nested deeper than Python can follow; in one line, reading it would take a second
DAMAGED = ["a: [", "[\n" * 10_000, "- 1", "\x00", "a: 1\n b: 2", "? [a]\n: 1"]


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


def start_over(folder: Path) -> None:
    """Begin the run of the folder anew, as resume=never does."""
    assert not prepare(folder, {"seed": 0}, "never", (), OUTPUTS)


def test_evaluations_of_the_model_before_are_set_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They are not of the model that is made anew, and may have taken hours."""
    for attempt in (1, 2):
        (tmp_path / "config.yaml").write_text("{seed: 0}")
        (tmp_path / "metrics.jsonl").write_text("{}\n")
        (tmp_path / "eval" / "math").mkdir(parents=True)
        (tmp_path / "eval" / "math" / "results.parquet").write_text(str(attempt))
        start_over(tmp_path)
        assert not (tmp_path / "eval").exists()
        assert not (tmp_path / "metrics.jsonl").exists()
        place = tmp_path / f"eval-{attempt}"
        assert (place / "math" / "results.parquet").read_text() == str(attempt)
        assert f"evaluations of the earlier model are in {place} now" in caplog.text


def test_a_run_that_goes_on_keeps_its_evaluations(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("{seed: 0}")
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    (tmp_path / "eval").mkdir()
    assert prepare(tmp_path, {"seed": 0}, "auto", (), OUTPUTS)
    assert (tmp_path / "eval").is_dir()


def test_an_attempt_that_came_to_nothing_is_begun_anew_with_other_code(tmp_path: Path) -> None:
    # a reward function raised in the evaluation before the first step
    assert not prepare(tmp_path, {"seed": 0}, "auto", (), OUTPUTS)
    check_inputs(tmp_path, {"code of reward functions": "1"}, continued=False)
    (tmp_path / "wandb" / "offline-run-1").mkdir(parents=True)
    (tmp_path / "metrics.csv").write_text("step\n")
    (tmp_path / "error.txt").write_text("ValueError: a bug\n")

    # the user mends it, changes a setting, and starts the same command again
    assert not prepare(tmp_path, {"seed": 1}, "auto", (), OUTPUTS)
    check_inputs(tmp_path, {"code of reward functions": "2"}, continued=False)
    assert not (tmp_path / "wandb").exists()
    assert not (tmp_path / "metrics.csv").exists()

    # with a row of metrics there is work that has to be continued as it was begun
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    (tmp_path / "wandb").mkdir()
    with pytest.raises(OtherSettingsError, match="seed: 1 -> 0"):
        prepare(tmp_path, {"seed": 0}, "auto", (), OUTPUTS)
    assert prepare(tmp_path, {"seed": 1}, "auto", (), OUTPUTS)
    with pytest.raises(OtherInputsError, match="code of reward functions"):
        check_inputs(tmp_path, {"code of reward functions": "3"}, continued=True)
    assert (tmp_path / "wandb").is_dir()


def test_mirrors_of_others_stay_where_no_run_has_begun(tmp_path: Path) -> None:
    """W&B's own default folder is ./wandb, and a run may be told to write here."""
    (tmp_path / "wandb" / "run-other").mkdir(parents=True)
    (tmp_path / "metrics.csv").write_text("mine\n")
    prepare(tmp_path, {"seed": 0}, "auto", (), ("model",))
    assert (tmp_path / "wandb" / "run-other").is_dir()
    assert (tmp_path / "metrics.csv").read_text() == "mine\n"
