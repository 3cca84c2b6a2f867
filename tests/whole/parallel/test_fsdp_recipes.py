"""What conf/parallel and experiments/paper say is what the code takes."""

from __future__ import annotations

import dataclasses
import subprocess
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from g2rl.cli.build.settings import read_trainer_settings
from g2rl.cli.config.choices import config_dir
from g2rl.policy.sharding import ShardSettings, shard
from tests.support import ROOT, composed

PAPER = ROOT / "experiments" / "paper"
OWN = {"shard", "timeout_minutes"}  # of the configuration, not of FSDP2


@pytest.mark.parametrize("experiment", ["paper_1_7b", "paper_4b"])
@pytest.mark.parametrize("script", ["node.sh", "slurm.sh"])
def test_the_scripts_are_sound_and_their_words_compose(experiment: str, script: str) -> None:
    subprocess.run(["bash", "-n", str(PAPER / script)], check=True)
    text = (PAPER / script).read_text()
    words = [word for word in ("parallel=fsdp", "engine=vllm") if word in text]
    assert len(words) == 2
    config = composed(*words, f"experiment={experiment}")
    OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert config.parallel.param_dtype == "bfloat16"
    assert read_trainer_settings(config).group_size == 16


def test_the_file_has_every_setting() -> None:
    node = OmegaConf.load(config_dir() / "parallel" / "fsdp.yaml")
    assert set(node) - OWN == {field.name for field in dataclasses.fields(ShardSettings)}


@pytest.mark.parametrize("words", [[], ["experiment=signals"]])
def test_no_setting_of_it_makes_another_folder(words: list[str]) -> None:
    config = composed("parallel=fsdp", *words, with_hydra=True)
    left_out = set(config.hydra.job.config.override_dirname.exclude_keys)
    assert {"parallel", *(f"parallel.{name}" for name in config.parallel)} <= left_out


@pytest.mark.parametrize(
    ("name", "value"),
    [("param_dtype", "float16"), ("reduce_dtype", "int8"), ("accumulate", "never")],
)
def test_a_wrong_setting_is_named(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=rf"parallel\.{name} must be .*{value}"):
        ShardSettings(**{name: value})  # type: ignore[arg-type]


def test_a_model_without_a_list_of_blocks_is_refused() -> None:
    model = nn.Linear(2, 2)
    model.config = SimpleNamespace(num_hidden_layers=1)  # type: ignore[assignment]
    with pytest.raises(ValueError, match="the decoder blocks of Linear are not understood"):
        shard(model, model, None, ShardSettings(), False)  # type: ignore[arg-type]
    assert isinstance(model.weight, torch.Tensor)
