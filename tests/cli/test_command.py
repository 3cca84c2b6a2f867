"""The real command in a process of its own: help, errors, sweeps."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from g2rl.cli.config.choices import choices
from g2rl.cli.config.mistakes import groups_of
from tests import commands
from tests.support import EVERYTHING, composed

QUICK = (
    *EVERYTHING,
    "trainer.steps=1",
    "trainer.probe_problems=0",
    "trainer.prompts_per_step=2",
    "trainer.group_size=2",
    "benchmark.problems=2",
    "benchmark.samples=2",
    "benchmark.ks=[1,2]",
    "benchmark.max_tokens=12",
)


def g2rl_train(
    folder: Path, *arguments: str, figures: bool = False
) -> subprocess.CompletedProcess[str]:
    return commands.run(["-m", "g2rl.cli.train", *arguments], folder, figures=figures)


def test_help_names_every_group_and_an_example(tmp_path: Path) -> None:
    result = g2rl_train(tmp_path, "--help")
    assert result.returncode == 0
    for text in ("--multirun", "g2rl-train exploration=none seed=1"):
        assert text in result.stdout
    for group in [*groups_of("train"), "experiment", "hydra/launcher"]:
        assert f"  {group}: " in result.stdout
        for choice in choices(group):
            assert choice in result.stdout
    assert "/base: " not in result.stdout, "these are parts of choices"
    assert not list(tmp_path.iterdir())


def test_help_comes_whatever_else_is_typed(tmp_path: Path) -> None:
    result = g2rl_train(tmp_path, "seed=1,2", "nonsense", "--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert "--multirun" in result.stdout


def test_several_values_without_multirun_are_one_line(tmp_path: Path) -> None:
    result = g2rl_train(tmp_path, "seed=1,2")
    assert result.returncode == 2
    assert result.stderr == (
        "error: seed=1,2: one run takes one value of seed: add --multirun for a run with each\n"
    )
    assert not list(tmp_path.iterdir())


def test_a_misspelt_override_ends_with_one_line_before_anything_is_made(tmp_path: Path) -> None:
    result = g2rl_train(tmp_path, "trainer.step=3")
    assert result.returncode == 2
    [line] = result.stderr.strip().splitlines()
    assert line.startswith(
        "error: trainer.step=3: there is no key 'trainer.step'; did you mean trainer.steps?"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("setting", ["exploration.lam=-1", "exploration.lam=much"])
def test_an_impossible_setting_is_one_clear_line_and_leaves_no_trace(
    tmp_path: Path, setting: str
) -> None:
    result = g2rl_train(tmp_path, *QUICK, setting, "hydra.run.dir=new/out")
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert "lam" in result.stderr.splitlines()[0]
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_refused_command_changes_nothing_in_the_folder_of_another_run(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    config = composed(*QUICK, "seed=1")
    OmegaConf.save(config, folder / "config.yaml", resolve=True)
    (folder / "metrics.jsonl").write_text("")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    result = g2rl_train(tmp_path, *QUICK, "seed=2", "hydra.run.dir=run")
    assert result.returncode == 1
    assert "seed: 1 -> 2" in result.stderr
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    "arguments", [["hydra.run.dir=file/out"], ["hydra.sweep.dir=file", "seed=1,2", "-m"]]
)
def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_loaded(
    tmp_path: Path, arguments: list[str]
) -> None:
    (tmp_path / "file").touch()
    result = g2rl_train(tmp_path, *QUICK, *arguments)
    assert result.returncode == 1
    [line] = result.stderr.strip().splitlines()
    assert line.startswith("error: cannot write in file")


def test_a_sweep_runs_every_arm_in_a_folder_of_its_own(tmp_path: Path) -> None:
    result = g2rl_train(tmp_path, *QUICK, "exploration=none,entropy", "--multirun", figures=True)
    assert result.returncode == 0, result.stderr
    found = sorted(path.parent.name for path in tmp_path.glob("runs/*/*/summary.json"))
    assert len(found) == 2
    assert found[0].startswith("tiny-countdown-entropy")
    assert found[1].startswith("tiny-countdown-none")
    assert "done: " in result.stdout
    assert len(list(tmp_path.glob("runs/*/*/learning_curves.png"))) == 2


def test_one_bad_arm_does_not_end_a_sweep_but_its_exit_code_tells(tmp_path: Path) -> None:
    result = g2rl_train(tmp_path, *QUICK, "exploration=g2rl", "exploration.lam=-1,2", "--multirun")
    assert result.returncode != 0
    assert "lam >= 0" in result.stderr
    assert len(list(tmp_path.glob("runs/*/*/summary.json"))) == 1
