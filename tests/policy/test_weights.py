"""Which weights are stored and sent: ties once, frozen ones left out, and where the blocks are."""

from __future__ import annotations

import copy

import torch
from torch import nn

from g2rl.policy.loading import LoadedModel
from g2rl.policy.weights import decoder_blocks, weights_to_keep, without_second_names


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
