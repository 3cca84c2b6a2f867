"""Every choice of exploration= runs as it is on the tiny policy; stateful ones resume exactly."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch

from g2rl.cli.build import trainer
from g2rl.cli.build.settings import read_train_settings
from g2rl.cli.build.trainer import (
    Models,
    Problems,
    assemble_step,
    build_exploration,
    build_models,
    build_problems,
)
from g2rl.cli.config.choices import choices
from g2rl.cli.jobs.train import train
from g2rl.policy.loading import load
from g2rl.runs.tracking import Tracker
from g2rl.training.console import SilentReporter
from g2rl.training.step import TrainingStep
from g2rl.world import World
from tests.support import ROOT, SMOKE, composed, metric_rows, untimed_rows

SMALL = (
    *SMOKE,
    "trainer.prompts_per_step=2",
    "task.max_response_tokens=12",
    "benchmark.problems=2",
    "trainer.tables_every=0",
    "trainer.probe_problems=0",
    "trainer.eval_every=0",
    "benchmark.samples=1",
    "benchmark.ks=[1]",
    "benchmark.max_tokens=2",
)
STATEFUL = ("exploration=combined", "exploration.parts=[outcome,cde]")


@pytest.fixture(scope="module")
def built() -> tuple[Problems, Models]:
    """Problems and models, which all choices share: they train one policy in turn."""
    config = composed(*SMALL)
    settings = read_train_settings(config)
    loaded = load("builtin:tiny", device="cpu")
    return build_problems(config, settings), build_models(config, settings, loaded, World())


def test_a_policy_on_a_cpu_keeps_freed_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(trainer, "keep_freed_memory", lambda: asked.append(True))
    config = composed(*SMALL)
    loaded = load("builtin:tiny", device="cpu")
    build_models(config, read_train_settings(config), loaded, World())
    assert asked == [True]


@pytest.mark.parametrize("choice", choices("exploration"))
def test_every_choice_trains_a_step_without_further_settings(
    built: tuple[Problems, Models], tmp_path: Path, choice: str
) -> None:
    config = composed(*SMALL, f"exploration={choice}")
    settings = read_train_settings(config)
    exploration = build_exploration(config, settings)
    problems, models = built
    step = assemble_step(
        settings, problems, exploration, models, Tracker(tmp_path), SilentReporter(), World()
    )
    metrics = step(1)
    assert all(math.isfinite(value) for value in metrics.values())
    assert metrics["update/skipped"] == 0.0
    assert metrics["explore/nonfinite_groups"] == 0.0


EXAMPLES = ("surprise.Surprise", "quantile.QuantileBaseline", "uncertain.Uncertain")


@pytest.mark.parametrize(("number", "target"), list(enumerate(EXAMPLES)), ids=EXAMPLES)
def test_every_example_of_a_signal_trains_a_step(
    built: tuple[Problems, Models],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    target: str,
) -> None:
    """As docs/write_a_signal.md says: a file in any folder, named by exploration._target_."""
    page = (ROOT / "docs" / "write_a_signal.md").read_text(encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[number]
    (tmp_path / f"{target.partition('.')[0]}.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))

    config = composed(*SMALL, "exploration=none", f"exploration._target_={target}")
    settings = read_train_settings(config)
    exploration = build_exploration(config, settings)
    problems, models = built
    step = assemble_step(
        settings, problems, exploration, models, Tracker(tmp_path), SilentReporter(), World()
    )
    metrics = step(1)
    assert metrics["update/skipped"] == 0.0
    assert metrics["explore/nonfinite_groups"] == 0.0
    assert all(math.isfinite(value) for value in metrics.values())


def test_counts_of_a_combination_survive_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [tmp_path / "whole", tmp_path / "parts"]
    train(composed(*SMALL, *STATEFUL, "trainer.steps=2"), folders[0])

    # stopped in the second step, and continued
    call = TrainingStep.__call__

    def interrupted(self: TrainingStep, number: int) -> dict[str, float]:
        if number == 2:
            raise KeyboardInterrupt
        return call(self, number)

    monkeypatch.setattr(TrainingStep, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(composed(*SMALL, *STATEFUL, "trainer.steps=2"), folders[1])
    monkeypatch.setattr(TrainingStep, "__call__", call)
    train(composed(*SMALL, *STATEFUL, "trainer.steps=2"), folders[1])

    assert untimed_rows(folders[0]) == untimed_rows(folders[1])
    states = []
    for folder in folders:
        [file] = (folder / "checkpoints" / "step_000002").glob("*.pt")
        states.append(torch.load(file, weights_only=True)["signal"])
    assert states[0] == states[1]
    assert len(states[0]["outcome"]["counts"]) == 4  # two steps of two problems


def test_responses_left_out_and_a_reference_that_only_the_signal_sees(tmp_path: Path) -> None:
    """NSR leaves right responses out; RepExp looks at a reference that must not enter the loss."""
    train(
        composed(
            *SMALL,
            "trainer.steps=1",
            "exploration=nsr",
            "exploration.observe=[repexp]",
            "algorithm.kl_coef=0",
        ),
        tmp_path,
    )
    row = metric_rows(tmp_path)[1]
    assert row["advantage/kept"] == pytest.approx(1 - row["train/accuracy"])
    assert "train/entropy" in row, "it is known of all responses, also of those left out"
    assert "observe/repexp/elliptical_bonus" in row
    assert "update/kl" not in row
