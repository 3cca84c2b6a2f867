"""Shared fixtures."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from g2rl.analysis.figures.one_run import plot_run
from g2rl.cli.jobs import train as train_job
from g2rl.cli.jobs.train import try_report
from g2rl.policy.loading import LoadedModel, load
from tests.support import SMOKE, composed

os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
torch.set_num_threads(1)  # tensors are tiny: more threads only wait for each other

FINISHED_RUN = (
    *SMOKE,
    "report=true",
    "trainer.steps=3",
    "exploration=g2rl",
    "exploration.observe=[evol,none]",
)
"""The settings of `finished_run`."""


@pytest.fixture(scope="session")
def tiny() -> LoadedModel:
    """The built-in policy with its tokenizer, shared: a test that trains takes a deep copy of the
    model."""
    return load("builtin:tiny", device="cpu")


@pytest.fixture(autouse=True, scope="session")
def no_figures() -> Iterator[None]:
    """Runs of this process draw no figures and write no report: they take as long as the two steps
    of a smoke run.

    `finished_run` draws them, and so do commands, which are processes of their own.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_job, "plot_run", lambda run_dir, benchmarks: [])
        patch.setattr(train_job, "try_report", lambda run_dir: None)
        yield


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, no_figures: None) -> Path:
    """The folder of an uninterrupted run of three steps with checkpoints at every step, complete
    with its figures and its report. Tests only read it; one that continues it takes a copy.
    """
    folder = tmp_path_factory.mktemp("finished_run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_job, "plot_run", plot_run)
        patch.setattr(train_job, "try_report", try_report)
        train_job.train(composed(*FINISHED_RUN), folder)
    return folder
