"""The examples of docs/integrations.md run as printed, and the tensors' face is light."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import commands
from tests.support import ROOT

HEAVY = (
    "hydra",
    "omegaconf",
    "transformers",
    "tokenizers",
    "datasets",
    "pandas",
    "pyarrow",
    "matplotlib",
    "wandb",
    "math_verify",
    "trl",
    "verl",
    "peft",
)
"""What somebody with tensors and a loop of their own need not load."""


def example(name: str) -> str:
    """The block of code behind the comment `<!-- NAME-example -->`."""
    page = (ROOT / "docs" / "integrations.md").read_text(encoding="utf-8")
    behind = page.split(f"<!-- {name}-example -->\n```python\n")[1]
    return behind.split("```")[0]


def run(program: str, folder: Path, fresh: bool = True) -> str:
    done = commands.run(["-c", program], folder, fresh, HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a new process says that runs the example on tensors and then imports every module of
    both packages, so that torch is loaded once."""
    program = (
        f"{example('tensors')}\n"
        "assert features_ND.shape == (8, 16) and advantages_PG.shape == (2, 4)\n"
        "assert shaped.diagnostics['nu'].shape == (2, 4)\n"
        "assert float(advantages_PG.abs().sum()) > 0\n"
        "import importlib, pkgutil, sys\n"
        f"print('example loaded', [name for name in {HEAVY!r} if name in sys.modules])\n"
        "from g2rl import exploration, formulas\n"
        "for package in (exploration, formulas):\n"
        "    for module in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "        importlib.import_module(module.name)\n"
        "        print(module.name)\n"
        "import g2rl.policy.lm_head\n"
        f"print('modules loaded', [name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    return run(program, tmp_path_factory.mktemp("tensors"))


def test_the_example_on_tensors_runs_as_printed_and_loads_little(said: str) -> None:
    code = example("tensors")
    lines = [line for line in code.splitlines() if line and not line.startswith(("import", "from"))]
    assert len(lines) <= 10
    assert "example loaded []" in said


def test_exploration_and_formulas_load_little(said: str) -> None:
    """Every module of both packages; those that load a model are loaded when one is made."""
    assert "modules loaded []" in said
    assert {"g2rl.exploration.g2rl", "g2rl.formulas.losses"} <= set(said.split())


def test_g2rl_itself_loads_no_trainer(tmp_path: Path) -> None:
    program = (
        "import sys, g2rl.cli.train, g2rl.integrations, g2rl.integrations.rewards\n"
        "print('loaded', [name for name in ('trl', 'verl', 'torch') if name in sys.modules])\n"
    )
    assert "loaded []" in run(program, tmp_path)


def test_the_trl_example_runs_as_printed_for_two_steps(tmp_path: Path) -> None:
    """The whole of it is a slow test."""
    pytest.importorskip("trl")
    code = example("trl")
    assert len(code.splitlines()) <= 40
    smaller = {
        "max_steps=20": "max_steps=2",
        "logging_steps=5": "logging_steps=1",
        "per_device_train_batch_size=64": "per_device_train_batch_size=16",
        "size=32": "size=8",
    }
    short = code
    for printed, replaced in smaller.items():
        assert short.count(printed) == 1, printed
        short = short.replace(printed, replaced)
    said = run(short, tmp_path, fresh=False)
    assert "'observe/evol/evol_novelty_mean'" in said
    assert "'explore/nu_mean'" in said
    assert "held-out accuracy: 0." in said


@pytest.mark.slow
def test_the_trl_example_runs_as_printed(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    said = run(example("trl"), tmp_path)
    accuracy = float(said.split("held-out accuracy:")[1])
    assert 0.1 < accuracy < 1
