"""Faults of code and folders of one's own end in a sentence, not in a traceback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from g2rl.cli.build.inputs import training_problems
from g2rl.cli.build.model import model_of_run
from g2rl.cli.build.settings import read_train_settings
from g2rl.cli.build.trainer import build_problems
from g2rl.cli.jobs.train import train
from g2rl.tasks.countdown import Countdown
from g2rl.tasks.task import TaskError
from tests.support import composed
from tests.tasks import own

SMALL = ("tracking=local", "exploration=none", "trainer.steps=1", "trainer.prompts_per_step=4")


def test_a_run_without_settings_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("{}\n")
    with pytest.raises(ValueError, match="has no settings of a model; name the folder of a"):
        model_of_run(tmp_path, [])


def own_task(**settings: Any) -> Any:
    """A composed training on the task of `tests.tasks.own`."""
    config = composed(*SMALL)
    config.task.source = {"_target_": "tests.tasks.own.Own", **settings}
    return config


def test_a_task_is_checked_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    config = own_task()
    monkeypatch.setattr(own.Own, "may_draw", None)
    with pytest.raises(TaskError, match="has no method may_draw"):
        build_problems(config, read_train_settings(config))


@pytest.mark.parametrize("holds_out", [False, True])
def test_a_leak_is_advised_with_settings_of_the_task_alone(
    monkeypatch: pytest.MonkeyPatch, holds_out: bool
) -> None:
    config = composed(*SMALL, "task=countdown") if holds_out else own_task()
    for kind in (own.Own, Countdown):
        monkeypatch.setattr(kind, "may_draw", lambda self, problem: True)
    with pytest.raises(ValueError, match="are training problems of task") as refused:
        build_problems(config, read_train_settings(config))
    assert ("task.source.held_out" in str(refused.value)) == holds_out


def test_the_fingerprint_of_a_task_that_gives_too_little_is_refused() -> None:
    with pytest.raises(TaskError, match="gave 0 problems where 4 were asked for"):
        training_problems(own.Own([]), seed=0, prompts_per_step=4)


def test_a_task_that_gives_too_little_does_not_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own.Own, "batch", lambda self, seed, start, size: [])
    with pytest.raises(TaskError, match="gave 0 problems where 4 were asked for"):
        train(own_task(), tmp_path / "run")
