"""A g2rl trainer outside the command, for scripts that time its steps."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path

from hydra import compose, initialize_config_dir

from g2rl.cli.build.settings import read_train_settings
from g2rl.cli.build.trainer import build_training
from g2rl.cli.config.choices import config_dir
from g2rl.cli.config.launch import register_resolvers
from g2rl.engines.rollouts import Rollouts
from g2rl.training.console import ConsoleReporter
from g2rl.training.trainer import Trainer


class Quiet(ConsoleReporter):
    """Says nothing."""

    def say(self, text: str) -> None:
        pass


def make_trainer(*overrides: str) -> Trainer:
    """The trainer of `g2rl-train OVERRIDES`, which writes no tables, in a temporary folder."""
    register_resolvers()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = compose("train", ["tracking=local", "trainer.tables_every=0", *overrides])

    # the folder and the graders last as long as the process
    folder = Path(tempfile.mkdtemp(prefix="g2rl-benchmark-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    settings = read_train_settings(config)
    job = build_training(config, settings, folder, Quiet(folder), lambda: None)
    atexit.register(job.problems.graders.close)
    return job.trainer


class Replayed:
    """A sampler that gives the same rollouts in every step."""

    lag = 0

    def __init__(self, rollouts: Rollouts) -> None:
        self.rollouts = rollouts

    def __call__(self, step: int) -> Rollouts:
        """The rollouts, whatever the step."""
        return self.rollouts


def replay(trainer: Trainer, step: int) -> Rollouts:
    """Make the trainer sample the responses of `step` once and give them again to every later
    step."""
    rollouts = trainer.step.sampler(step)
    trainer.step.sampler = Replayed(rollouts)  # type: ignore[assignment]
    return rollouts
