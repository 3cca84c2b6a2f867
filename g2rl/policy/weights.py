"""How the weights of a model are walked: names, ties, what is trained, and where the blocks are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""The dtypes of weights and computation by the name that settings use."""


def decoder_blocks(model: Any) -> nn.ModuleList | None:
    """The list of decoder blocks of a causal LM; None where it is not understood.

    It is understood if the first list of modules is as long as the configuration says.
    """
    for module in model.modules():
        if isinstance(module, nn.ModuleList):
            return module if len(module) == model.config.num_hidden_layers else None
    return None


def without_second_names(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Name and value of each tensor; one that shares memory with an earlier one (a tie) is left out.

    All tensors must be there at once: memory that is let go would be taken by another tensor.
    """
    seen: set[tuple[int, torch.Size]] = set()
    for name, tensor in tensors.items():
        place = (tensor.data_ptr(), tensor.shape)
        if tensor.numel() and place in seen:
            continue
        seen.add(place)
        yield name, tensor


def trained_parameters(model: nn.Module) -> dict[str, Tensor]:
    """Trained weights by name, detached, a tied one once; frozen ones can be read from their source."""
    trained: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            trained[name] = parameter.detach()
    return trained


def persistent_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Buffers that a checkpoint holds, by name."""
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    buffers: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if name not in parameters:
            buffers[name] = tensor
    return buffers


def weights_to_keep(model: nn.Module) -> dict[str, Tensor]:
    """What a checkpoint of a model holds: trained weights, a tied one once, and persistent buffers.

    Sharded weights come as they are, divided.
    """
    return {**trained_parameters(model), **persistent_buffers(model)}
