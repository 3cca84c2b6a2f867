"""Which weights a model has: their names, ties between them, what is trained, where the blocks are.

A weight is *tied* when two modules use the same tensor, usually the embedding and the LM head. Such
a tensor has two names and must be stored and sent once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers.core_model_loading import revert_weight_conversion

from g2rl.policy.anatomy import text_config

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""The dtypes of weights and computation by the name that settings use."""


def decoder_blocks(model: Any) -> nn.ModuleList | None:
    """The list of decoder blocks of a causal LM; None where the architecture is not understood.

    The first list of modules is taken for it, provided that it is as long as the language model's
    configuration says. A model that reads images too has lists of other blocks before it.
    """
    # what a model sees with has blocks of its own, which come first
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


EXPERT_KEYS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
"""Under which names configurations keep the number of experts of a layer."""


def has_experts(model: Any) -> bool:
    """Whether the model is a mixture of experts."""
    # 0 or null stands for none in families that have both kinds
    config = text_config(model.config)
    counts = [getattr(config, key, None) for key in EXPERT_KEYS]
    return any(isinstance(count, int) and count > 1 for count in counts)


def unlayered_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Weight matrices that belong to no linear layer, embedding or convolution, by name.

    These are the stacked experts of a mixture of experts, and whatever else an architecture keeps
    in parameters of its own.
    """
    # parameters of layers of a known kind
    layered: set[int] = set()
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding | nn.modules.conv._ConvNd):
            layered |= {id(parameter) for parameter in module.parameters(recurse=False)}

    # the rest, without norms and biases, which are vectors
    found: dict[str, nn.Parameter] = {}
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2 and id(parameter) not in layered and ".lora_" not in name:
            found[name] = parameter
    return found


def as_in_files(model: Any, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Tensors by the names, and in the shapes, that files of the model have.

    transformers stacks the experts of a layer while it loads a model, and renames weights of older
    files; it turns this back when it saves, and so does this function.

    Args:
        model: of transformers.
        tensors: by the names that they have in the model. What one file's tensor was made of has to
            come in one call.
    """
    return revert_weight_conversion(model, dict(tensors))


def stuck_share(parameters: Iterable[Tensor], learning_rate: float) -> float:
    """Share of weights that one step of Adam leaves where they are, because it is rounded away.

    A step of Adam is about as long as the learning rate. Half the distance to the next number is
    2^(e - 9) in bfloat16, for a weight of 2^e to 2^(e + 1); a shorter step has no effect. float32
    weights have numbers 2^16 times as dense and count as moving.

    Args:
        parameters: weights that are trained.
        learning_rate: of the optimizer.
    """
    stuck = total = 0
    for parameter in parameters:
        total += parameter.numel()
        if parameter.dtype != torch.bfloat16:
            continue

        # frexp gives w = m 2^e with m in [1/2, 1), so the spacing of numbers is 2^(e - 8)
        _, exponents = torch.frexp(parameter.detach().float())
        half_spacing = torch.ldexp(torch.ones_like(exponents, dtype=torch.float32), exponents - 9)
        stuck += int(((half_spacing > learning_rate) & (parameter != 0)).sum())
    return stuck / max(total, 1)
