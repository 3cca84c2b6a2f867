"""What tests of several packages share: configurations and rows of a run.

Rows are read with the json module alone, so that these tests do not depend on the code that g2rl
reads its own files with.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from g2rl.cli.config.choices import config_dir
from g2rl.cli.config.launch import register_resolvers

ROOT = Path(__file__).resolve().parents[1]
"""The repository."""
DATA = ROOT / "tests" / "data"
"""Small data files of the tests."""

register_resolvers()


def composed(*overrides: str, command: str = "train", with_hydra: bool = False) -> DictConfig:
    """The configuration of a command.

    Args:
        overrides: what a user would type.
        command: a file of conf/ without its ending.
        with_hydra: whether the node `hydra` is there too.
    """
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return compose(command, overrides=list(overrides), return_hydra_config=with_hydra)


def json_lines(file: Path) -> list[dict[str, Any]]:
    """The rows of a file with one JSON object a line."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def metric_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl."""
    return json_lines(folder / "metrics.jsonl")


def untimed(row: dict[str, Any]) -> dict[str, Any]:
    """A row without its time/ metrics, which no two runs share."""
    return {name: value for name, value in row.items() if not name.startswith("time/")}


def untimed_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl without their time/ metrics."""
    return [untimed(row) for row in metric_rows(folder)]
