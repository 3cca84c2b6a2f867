"""What tests of several packages share: configurations and rows of a run.

Rows are read with the json module alone, so that these tests do not depend on the code that g2rl
reads its own files with.
"""

from __future__ import annotations

import functools
import json
import pickle
import subprocess
import sys
import threading
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from g2rl.cli.config.choices import config_dir
from g2rl.cli.config.launch import register_resolvers
from tests.remembered import remember

ROOT = Path(__file__).resolve().parents[1]
"""The repository."""
DATA = ROOT / "tests" / "data"
"""Small data files of the tests."""

EVERYTHING = (
    "experiment=smoke",
    "tracking=local",
    "report=false",
    "task.max_response_tokens=24",
)
"""A small run in which everything happens but the report; responses are cut where two in three are
complete. For commands, which take no setting twice, that say themselves how they evaluate."""
SMOKE = (*EVERYTHING, "benchmark.problems=4", "benchmark.max_tokens=20")
"""The same, with small evaluations."""
NO_EVALUATION = (
    "trainer.eval_every=0",
    "trainer.probe_problems=0",
    "benchmark.problems=2",
    "benchmark.samples=1",
    "benchmark.ks=[1]",
    "benchmark.max_tokens=2",
)
"""Next to nothing is evaluated, for tests of something else."""
FINISHED_RUN = (
    *SMOKE,
    "report=true",
    "trainer.steps=3",
    "exploration=g2rl",
    "exploration.observe=[evol,none]",
)
"""The settings of the fixture `finished_run`."""

register_resolvers()
remember()


def composed(*overrides: str, command: str = "train", with_hydra: bool = False) -> DictConfig:
    """The configuration of a command, which the caller may change.

    Args:
        overrides: what a user would type.
        command: a file of conf/ without its ending.
        with_hydra: whether the node `hydra` is there too.
    """
    copied: DictConfig = pickle.loads(_composed_once(command, overrides, with_hydra))
    return copied


@functools.lru_cache(maxsize=256)
def _composed_once(command: str, overrides: tuple[str, ...], with_hydra: bool) -> bytes:
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = compose(command, overrides=list(overrides), return_hydra_config=with_hydra)
    return pickle.dumps(config)


def in_this_thread(original: Any, stand_in: Any) -> Any:
    """A function that is `stand_in` in the calling thread, and as it was in every other one.

    What a test replaces in a library, it replaces for all threads of its process: those of pools
    and services that earlier tests have left would be counted, or fail.
    """
    asking_thread = threading.get_ident()

    @functools.wraps(original)
    def chosen(*arguments: Any, **named: Any) -> Any:
        is_ours = threading.get_ident() == asking_thread
        return (stand_in if is_ours else original)(*arguments, **named)

    return chosen


def told_by_g2rl(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The messages of g2rl's own loggers; other threads may use those of other libraries."""
    return [one.getMessage() for one in caplog.records if one.name.startswith("g2rl.")]


def json_lines(file: Path) -> list[dict[str, Any]]:
    """The rows of a file with one JSON object a line."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def metric_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl."""
    return json_lines(folder / "metrics.jsonl")


def untimed(row: dict[str, Any]) -> dict[str, Any]:
    """A row without its time/ metrics, which no two runs share."""
    return {name: value for name, value in row.items() if not name.startswith("time/")}


def small_drift(row: dict[str, Any]) -> bool:
    """Whether the `sample/drift` metrics of a row in float32 are each below a tenth of what stops
    a run: a share of 1, and 1e-3 nats.

    Runs of several processes compare other tokens with scoring, and real runs have shares from
    0.003 to 0.024, depending on the processor. So a difference between two runs says nothing, but
    how large each value is by itself does.
    """
    limits = {"sample/drift": 0.1, "sample/drift_largest": 1e-4, "sample/drift_mean": 1e-4}
    drifts = {name: value for name, value in row.items() if name.startswith("sample/drift")}
    return all(value < limits[name] for name, value in drifts.items())


def untimed_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl without their time/ metrics."""
    return [untimed(row) for row in metric_rows(folder)]


def unpacked_wheel(folder: Path) -> Path:
    """Build the wheel in a folder, and return its content as an installation lays it out."""
    words = ["-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(folder), str(ROOT)]
    subprocess.run([sys.executable, *words], check=True, cwd=folder)
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"
