"""Which weights are stored and sent: ties once, frozen ones left out, and where the blocks are."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from g2rl.policy.loading import LoadedModel
from g2rl.policy.lora import LoraSettings, add_lora
from g2rl.policy.policy import Policy
from g2rl.policy.weights import (
    decoder_blocks,
    has_experts,
    stuck_share,
    unlayered_weights,
    weights_to_keep,
    without_second_names,
)
from g2rl.training.optimizer import refuse_stuck_weights
from tests.models.zoo import tiny_model


class Tied(nn.Module):
    """An embedding with a tied head, a frozen layer and buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.frozen = nn.Linear(3, 3).requires_grad_(False)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("stored", torch.ones(2))
        self.register_buffer("derived", torch.ones(2), persistent=False)


def test_a_checkpoint_keeps_trained_weights_once_and_persistent_buffers() -> None:
    model = Tied()
    kept = weights_to_keep(model)
    assert list(kept) == ["embedding.weight", "stored"]
    assert not kept["embedding.weight"].requires_grad
    assert kept["embedding.weight"].data_ptr() == model.embedding.weight.data_ptr()


def test_second_names_of_one_tensor_are_left_out() -> None:
    names = {name for name, _ in without_second_names(Tied().state_dict())}
    assert names == {"embedding.weight", "frozen.weight", "frozen.bias", "stored"}
    empty = {"a": torch.empty(0), "b": torch.empty(0)}
    assert [name for name, _ in without_second_names(empty)] == ["a", "b"]


def test_blocks_are_as_many_as_the_configuration_says_or_not_understood(tiny: LoadedModel) -> None:
    model = copy.deepcopy(tiny.model)
    assert decoder_blocks(model) is model.model.layers
    model.config.num_hidden_layers += 1
    assert decoder_blocks(model) is None


@pytest.mark.parametrize("model_type", ["qwen3", "qwen3_moe", "mixtral", "gpt_oss", "gemma3"])
@pytest.mark.parametrize("with_adapters", [False, True])
def test_weights_are_pushed_under_the_names_of_files(
    model_type: str, with_adapters: bool, tmp_path: Path
) -> None:
    """An engine reads what a checkpoint holds: experts one by one, tied heads once."""
    model = tiny_model(model_type)
    model.save_pretrained(tmp_path)
    on_disk: dict[str, torch.Size] = {}
    for file in tmp_path.glob("*.safetensors"):
        on_disk |= {name: tensor.shape for name, tensor in load_file(file).items()}
    if with_adapters:
        pytest.importorskip("peft")
        add_lora(model, LoraSettings(r=2, target_modules=["q_proj"]), "x")
    pushed = {name: tensor.shape for name, tensor in Policy(model).weights()}
    assert pushed == on_disk


def test_what_lies_outside_of_linear_layers() -> None:
    found = unlayered_weights(tiny_model("qwen3_moe"))
    assert {name.rpartition(".")[2] for name in found} >= {"gate_up_proj", "down_proj"}
    assert not unlayered_weights(tiny_model("qwen3"))
    assert has_experts(tiny_model("mixtral"))
    assert not has_experts(tiny_model("gemma3"))


@pytest.mark.parametrize("learning_rate", [1e-6, 1e-4, 3e-3, 1.0])
def test_the_share_of_stuck_weights_is_what_an_addition_leaves(learning_rate: float) -> None:
    """Against the addition itself, in both directions; powers of two are on the edge."""
    weights = torch.randn(4000, generator=torch.Generator().manual_seed(0)).bfloat16() * 0.05
    weights = weights[torch.frexp(weights.float()).mantissa.abs() != 0.5]
    moved = (weights + learning_rate) != weights
    moved |= (weights - learning_rate) != weights
    share = stuck_share([weights], learning_rate)
    assert share == pytest.approx(1 - float(moved.float().mean()), abs=0.01)
    assert stuck_share([weights.float()], learning_rate) == 0


def test_weights_that_would_not_move_are_refused() -> None:
    layer = nn.Linear(64, 64).bfloat16()
    with pytest.raises(ValueError, match=r"model\.compute_dtype=bfloat16"):
        refuse_stuck_weights(layer, 1e-6)
    refuse_stuck_weights(layer, 0.0)
    refuse_stuck_weights(layer, 1e-2)
    refuse_stuck_weights(layer.float(), 1e-6)
    refuse_stuck_weights(layer.bfloat16().requires_grad_(False), 1e-6)
