"""experiments/minimal_loop.py does what g2rl-train does, and learns."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import pytest

from g2rl.cli.jobs.train import train
from tests.support import ROOT, composed, metric_rows

SCRIPT = ROOT / "experiments" / "minimal_loop.py"
MOST_LINES = 300


@pytest.fixture(scope="module")
def minimal_loop() -> ModuleType:
    """The script as a module; it lies in no package."""
    spec = importlib.util.spec_from_file_location("minimal_loop", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["minimal_loop"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_it_stays_one_readable_file() -> None:
    assert len(SCRIPT.read_text(encoding="utf-8").splitlines()) < MOST_LINES


@pytest.mark.parametrize("signal", ["none", "g2rl"])
def test_its_step_is_that_of_the_library(
    signal: str, minimal_loop: ModuleType, tmp_path: Path
) -> None:
    """The same responses, and the same loss, KL and gradient up to rounding.

    The loss of the second mini-batch is that after the first optimizer step, so this compares an
    update too.
    """
    settings = minimal_loop.Settings(signal=signal, prompts=6, group_size=4)
    own = minimal_loop.Loop(settings).step(1)

    overrides = [
        f"exploration={signal}",
        "tracking=local",
        "trainer.steps=1",
        "trainer.prompts_per_step=6",
        "trainer.group_size=4",
        "trainer.probe_problems=0",
        "benchmark.limit=2",
        "benchmark.samples=1",
        "benchmark.ks=[1]",
        "benchmark.max_tokens=2",
    ]
    train(composed(*overrides), tmp_path)
    library = metric_rows(tmp_path)[-1]

    assert own["accuracy"] == pytest.approx(library["train/accuracy"], abs=1e-9)
    assert own["length"] == pytest.approx(library["train/length"], abs=1e-4)
    assert own["entropy"] == pytest.approx(library["train/entropy"], abs=1e-4)
    for name in ("loss", "kl", "clip_fraction", "grad_norm"):
        assert own[name] == pytest.approx(library[f"update/{name}"], rel=1e-3, abs=1e-6), name


def test_it_learns(minimal_loop: ModuleType) -> None:
    """Repeated steps on one small batch make its right responses more likely."""
    settings = minimal_loop.Settings(signal="g2rl", prompts=4, group_size=8, learning_rate=5e-4)
    loop = minimal_loop.Loop(settings)

    def log_odds(metrics: dict[str, float]) -> float:
        return math.log(metrics["accuracy"] / (1 - metrics["accuracy"]))

    history = [loop.step(1) for _ in range(4)]
    assert all(math.isfinite(value) for metrics in history for value in metrics.values())
    assert log_odds(history[-1]) > log_odds(history[0])


def test_the_command_runs(
    minimal_loop: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = ["--steps=1", "--prompts=2", "--group_size=2", "--problems=3", "--samples=1"]
    monkeypatch.setattr(sys, "argv", ["minimal_loop.py", "--signal=none", *sizes])
    minimal_loop.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["held-out", "step", "held-out"]
