"""Shared fixtures.

What is heavy is imported where it is used: with `-n 2` there is a third process, which only hands
out the tests, and importing torch and transformers costs it as much as a minute of tests.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import logging
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import _pytest.logging as pytest_logging
import pytest

if TYPE_CHECKING:
    from g2rl.policy.loading import LoadedModel

os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tensors are tiny: more threads only wait


def pytest_configure(config: pytest.Config) -> None:
    """Make a process that runs tests ready for them."""
    if config.getoption("dist", "no") != "no":
        return  # it hands out the tests of others

    # nothing that is imported is ever garbage, and looking for some there takes a fifth of the time
    gc.disable()
    import torch

    from tests import commands

    # the server, and every command that is forked from it, looks for garbage as any program does
    gc.freeze()
    gc.enable()
    torch.set_num_threads(1)
    pytest_logging.catching_logs = CaughtAtTheRoot
    if not config.option.collectonly:
        commands.server()
    gc.disable()

    # on a busy machine, an example that takes milliseconds may take a second
    with contextlib.suppress(ImportError):
        from hypothesis import HealthCheck, settings

        slow = [HealthCheck.too_slow]
        settings.register_profile("busy", deadline=None, suppress_health_check=slow)
        settings.load_profile("busy")


class CaughtAtTheRoot(pytest_logging.catching_logs[Any]):
    """What catches messages for a test, at the root of all loggers, as pytest 8 does.

    Newer versions of pytest look six times a test for loggers that hand nothing on, and torch alone
    makes five hundred loggers, of which fifty are such.
    """

    __slots__ = ()

    def __enter__(self) -> Any:
        # a level, which the tests set none of, is told to all loggers
        if self.level is not None:
            return super().__enter__()
        manager = logging.Logger.manager
        loggers, manager.loggerDict = manager.loggerDict, {}
        try:
            return super().__enter__()
        finally:
            manager.loggerDict = loggers


def pytest_collection_finish() -> None:
    """Look for garbage again, more seldom than Python does, and not among modules and tests."""
    gc.freeze()
    gc.set_threshold(5_000, 20, 10)
    gc.enable()


OWN_PLACES = (
    ("g2rl.tasks.grading.code_files", "_first_places"),
    ("g2rl.cli.config.own_code", "_own_folders"),
    ("g2rl.cli.folder", "_made_folders"),
)
"""Lists in which a command remembers folders of the user's, by module."""


@pytest.fixture(autouse=True)
def as_it_was(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test finds what an earlier one has left in the process: neither variables of the
    environment, nor code of its own, nor a command's configuration, nor figures."""
    environment, path, modules = os.environ.copy(), list(sys.path), set(sys.modules)
    yield
    if os.environ != environment:
        os.environ.clear()
        os.environ.update(environment)
    sys.path[:] = path

    # modules that lie in folders of the tests; another test may have one of the same name
    tests_own = str(tmp_path_factory.getbasetemp())
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(tests_own):
            del sys.modules[name]
    for name, places in OWN_PLACES:
        if name in sys.modules:
            getattr(sys.modules[name], places).clear()

    # what is remembered for a whole process by libraries
    if "hydra.core.hydra_config" in sys.modules:
        sys.modules["hydra.core.hydra_config"].HydraConfig.instance().cfg = None
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


def pytest_runtest_setup() -> None:
    """Numbers that a test draws do not depend on what earlier tests have drawn."""
    import torch

    random.seed(0)
    torch.default_generator.manual_seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)


@pytest.fixture(scope="session")
def tiny() -> LoadedModel:
    """The built-in policy with its tokenizer, shared: a test that trains takes a deep copy of the
    model."""
    from g2rl.policy.loading import load

    return load("builtin:tiny", device="cpu")


@pytest.fixture(autouse=True, scope="session")
def drawing() -> Iterator[dict[str, Any]]:
    """Runs of this process draw no figures and write no report: they take as long as the two steps
    of a smoke run. The value is what would draw and write.

    `finished_run` draws them, and so do commands, which are processes of their own.
    """
    from g2rl.cli.jobs import train as train_job

    with pytest.MonkeyPatch.context() as patch:
        functions = {"plot_run": train_job.plot_run, "try_report": train_job.try_report}
        patch.setattr(train_job, "plot_run", lambda run_dir, benchmarks: [])
        patch.setattr(train_job, "try_report", lambda run_dir: None)
        yield functions


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, drawing: dict[str, Any]) -> Path:
    """The folder of an uninterrupted run of three steps with checkpoints at every step, complete
    with its figures and its report. Tests only read it; one that continues it takes a copy.

    All processes of a test session share it: the first that needs it makes it.
    """
    from g2rl.cli.jobs import train as train_job
    from tests.support import FINISHED_RUN, composed

    # with xdist, the folder of a process lies in that of the session
    place = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        place = place.parent
    folder, complete = place / "finished_run", place / "finished_run.complete"
    with open(place / "finished_run.lock", "w") as lock, pytest.MonkeyPatch.context() as patch:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists():
            for name, function in drawing.items():
                patch.setattr(train_job, name, function)
            train_job.train(composed(*FINISHED_RUN), folder)
            complete.touch()
    return folder


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages without drawings, which take most of the time, but with their numbers; and comparisons
    without figures. For tests that look at numbers and words; others look at what is drawn."""
    from g2rl.analysis.report import drawings
    from g2rl.cli.jobs import compare as compare_job

    def stand_in(
        title: str, draw: Any, numbers: list[list[str]], caption: str = ""
    ) -> drawings.Drawing:
        return drawings.Drawing(title, "", numbers, caption)

    monkeypatch.setattr(drawings, "drawing", stand_in)
    monkeypatch.setattr(compare_job, "draw_figures", lambda compared, geometry, out: [])
