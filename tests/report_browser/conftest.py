"""A Chromium, and pages to open in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from g2rl.cli.jobs.report import report, report_run
from tests.report_pages import hostile_run

STEPS, PROMPTS, GROUP = 50, 16, 16
"""Of the large page: 12,800 responses, as many as the default run has."""


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium: that of playwright, or the one that G2RL_CHROMIUM names."""
    from playwright.sync_api import sync_playwright

    path = os.environ.get("G2RL_CHROMIUM") or None
    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def hostile_page(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page about a run whose responses were written by an enemy."""
    folder = hostile_run(finished_run, tmp_path_factory.mktemp("hostile"))
    return report_run(folder, folder.parent / "hostile.html")


@pytest.fixture(scope="session")
def large_run(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with 12,800 made-up responses whose numbers say where they stand."""
    folder = tmp_path_factory.mktemp("large") / "run"
    shutil.copytree(finished_run, folder, ignore=shutil.ignore_patterns("checkpoints", "model"))
    for kind in ("rollouts", "geometry"):
        shutil.rmtree(folder / kind)
        (folder / kind).mkdir()
    for step in range(1, STEPS + 1):
        rows = PROMPTS * GROUP
        place = np.arange(rows)
        problems = [f"p{step}-{prompt}" for prompt in place // GROUP]
        common = {"problem": problems, "sample": place % GROUP, "correct": place % 3 == 0}
        rollouts = pd.DataFrame(
            {
                **common,
                "prompt": [f"prompt {step}.{prompt}" for prompt in place // GROUP],
                "gold": "7",
                "completion": [f"response {step}.{one} of some words" for one in place],
                "answer": "7",
                "route": "made up",
                "tokens": place + 1,
                "finish": "stop",
            }
        )
        rollouts.to_parquet(folder / "rollouts" / f"step_{step:06d}.parquet", index=False)
        geometry = pd.DataFrame(
            {
                **common,
                "reward": np.where(place % 3 == 0, 1.0, -1.0),
                "nu": ((place * 37) % rows) / rows,
                "tokens": place + 1,
                "cosine": list(cosines(step)),
            }
        )
        geometry.to_parquet(folder / "geometry" / f"step_{step:06d}.parquet", index=False)
    return folder


def cosines(step: int) -> np.ndarray:
    """Rows (P * G, G) of symmetric matrices with ones on the diagonal."""
    random = np.random.default_rng(step).uniform(-1, 1, size=(PROMPTS, GROUP, GROUP))
    matrices = (random + random.swapaxes(1, 2)) / 2
    matrices[:, np.arange(GROUP), np.arange(GROUP)] = 1.0
    return matrices.reshape(-1, GROUP)


@pytest.fixture(scope="session")
def large_page(large_run: Path) -> Path:
    """The page about the large run."""
    return report_run(large_run)


@pytest.fixture(scope="session")
def pair_page(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page that compares two runs of one arm."""
    place = tmp_path_factory.mktemp("pair")
    other = place / "other"
    shutil.copytree(finished_run, other, ignore=shutil.ignore_patterns("checkpoints", "model"))
    config = other / "config.yaml"
    config.write_text(config.read_text().replace("seed: 0", "seed: 1"))
    return report([finished_run, other], place / "pair.html")
