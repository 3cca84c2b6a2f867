"""Which weights a model has: their names, ties between them, what is trained, where the blocks are.

A weight is *tied* when two modules use the same tensor, usually the embedding and the LM head. Such
a tensor has two names and must be stored and sent once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from g2rl.policy.anatomy import text_config

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""The dtypes of weights and computation by the name that settings use."""


def decoder_blocks(model: Any) -> nn.ModuleList | None:
    """The list of decoder blocks of a causal LM; None where the architecture is not understood.

    The first list of modules is taken for it, provided that it is as long as the language model's
    configuration says. A model that reads images too has lists of other blocks before it.
    """
    config = text_config(model.config)
    root = model if config is model.config else model.get_decoder()
    for module in root.modules():
        if isinstance(module, nn.ModuleList):
            return module if len(module) == config.num_hidden_layers else None
    return None


def without_second_names(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Name and value of each tensor, leaving out those that share memory with an earlier one.

    Args:
        tensors: all of them at once. If they were made one by one, the memory of a freed tensor
            could be given to the next, which would then look tied.
    """
    seen: set[tuple[int, torch.Size]] = set()
    for name, tensor in tensors.items():
        place = (tensor.data_ptr(), tensor.shape)

        # tensors without elements have no memory to share
        if tensor.numel() and place in seen:
            continue
        seen.add(place)
        yield name, tensor


def persistent_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Entries of the state dict that are not parameters, by name."""
    parameter_names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    buffers: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if name not in parameter_names:
            buffers[name] = tensor
    return buffers


def weights_to_keep(model: nn.Module) -> dict[str, Tensor]:
    """What a checkpoint stores of a model, by name: trained weights and persistent buffers.

    A tied weight is there once. Frozen weights are left out, because they can be read again from
    where the model came from. Weights are detached; those of a sharded model stay divided.
    """
    # named_parameters() gives a tied weight its first name only
    weights: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            weights[name] = parameter.detach()

    return {**weights, **persistent_buffers(model)}
