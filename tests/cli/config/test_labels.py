"""The labels of a run in W&B, from composed configurations with and without Hydra running."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from g2rl.runs.identity import free_keys
from tests import commands
from tests.support import composed

HOUSEKEEPING = (
    "report=false",
    "profile=true",
    "model.prefix_sharing=auto",
    "seed=3",
    "resume=never",
    "data_dir=x",
    "verify.workers=1",
    "tracking.samples=4",
    "hydra.verbose=true",
    "plan=off",
    "health.window=3",
    "trainer.keep_checkpoints=1",
    "trainer.keep_best=false",
    "trainer.checkpoint_every=5",
    "parallel=fsdp",
    "engine.drift_every=7",
)
Labels = Callable[..., dict[str, Any]]


@pytest.fixture
def labels() -> Iterator[Labels]:
    """The tracking node as a command with these words would see it."""

    def found(command: str, *words: str) -> dict[str, Any]:
        config = composed("tracking=wandb", *words, command=command, with_hydra=True)
        HydraConfig.instance().set_config(config)
        return OmegaConf.to_container(config.tracking, resolve=True)  # type: ignore[return-value]

    yield found
    HydraConfig.instance().cfg = None


def test_an_experiment_groups_its_arms_and_a_name_is_arm_and_seed(labels: Labels) -> None:
    node = labels("train", "experiment=smoke", "exploration=g2rl", "exploration.lam=3", "seed=7")
    assert (node["group"], node["job_type"]) == ("smoke-tiny-countdown", "train")
    assert (node["arm"], node["name"]) == ("g2rl-lam=3", "g2rl-lam=3-seed7")
    assert node["tags"] == ["g2rl", "tiny", "countdown", "grpo"]


def test_without_an_experiment_model_and_task_group(labels: Labels) -> None:
    node = labels("train", "exploration=none", "task=countdown_text", "algorithm=dapo")
    assert node["group"] == "tiny-countdown_text"
    assert (node["arm"], node["name"]) == ("none-algorithm=dapo", "none-algorithm=dapo-seed0")
    assert node["tags"] == ["none", "tiny", "countdown_text", "dapo"]


def test_seeds_and_housekeeping_make_no_other_arm(labels: Labels) -> None:
    assert {word.split("=")[0].split(".")[0] for word in HOUSEKEEPING} >= {
        name.split(".")[0] for name in free_keys("train", "resume")
    }, "try every setting that makes no other arm"
    plain = labels("train", "exploration=evol")["arm"]
    assert labels("train", "exploration=evol", *HOUSEKEEPING)["arm"] == plain == "evol"
    assert labels("train", "exploration=evol", "trainer.steps=5")["arm"] != plain


def test_an_evaluation_is_grouped_by_benchmark_and_named_by_run_or_model(labels: Labels) -> None:
    node = labels("evaluate", "benchmark=countdown_text", "seed=2")
    assert (node["group"], node["job_type"]) == ("eval-countdown_text", "evaluate")
    assert (node["name"], node["tags"]) == ("tiny-seed2", ["tiny", "countdown_text"])
    assert labels("evaluate", "run=runs/my-run")["arm"] == "my-run"
    assert labels("evaluate", "benchmark=math", "data_dir=x")["group"] == "eval-math", (
        "a suite has no name of its own"
    )


def test_every_label_can_be_overridden(labels: Labels) -> None:
    typed = ["group=g", "arm=a", "name=n", "job_type=j", "tags=[t]"]
    node = labels("train", *(f"tracking.{word}" for word in typed))
    assert [node[key] for key in ("group", "arm", "name", "job_type", "tags")] == [
        "g",
        "a",
        "n",
        "j",
        ["t"],
    ]


def test_the_real_command_resolves_them(tmp_path: Path) -> None:
    words = [
        "experiment=smoke",
        "exploration.lam=0.5",
        "seed=1",
        "--cfg",
        "job",
        "--resolve",
        "-p",
        "tracking",
    ]
    result = commands.run(["-m", "g2rl.cli.train", *words], tmp_path)
    assert result.returncode == 0, result.stderr
    node = yaml.safe_load(result.stdout)
    assert (node["group"], node["name"]) == ("smoke-tiny-countdown", "g2rl-lam=0.5-seed1")
    assert node["tags"] == ["g2rl", "tiny", "countdown", "grpo"]
