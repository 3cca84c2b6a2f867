"""Weights divided among processes by FSDP2 (torch.distributed.fsdp.fully_shard).

Every decoder block is a group of its own and the rest (embedding, last norm, LM head) that of the
root, which is `g2rl.policy.policy.Policy` itself: log-probs, entropies and gradient features are
computed inside its forward, where the head's weight is whole. The root keeps it whole from there to
the end of the backward, because the tiled head may recompute its tiles from it.

Gradients are summed over ranks, not averaged: the loss is divided by the counts of the whole
mini-batch.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor, distribute_tensor

from g2rl.policy.weights import DTYPES, decoder_blocks, persistent_buffers

ACCUMULATIONS = ("sharded", "full")


@dataclass(slots=True, frozen=True)
class ShardSettings:
    """conf/parallel/fsdp.yaml.

    Args:
        param_dtype: of gathered weights and of the computation; None: that of the sharded (master)
            weights.
        reduce_dtype: in which gradients are summed over ranks.
        reshard_after_forward: let go of a block's gathered weights between forward and backward.
        accumulate: between the micro-batches of an update: "sharded" sums gradients over ranks
            after each, "full" once after the last, and holds whole gradients until then.
        offload_reference: keep the reference's shards in host memory.
        offload_optimizer: keep the policy's shards, gradients and moments there, and step on the
            CPU.
    """

    param_dtype: str | None = None
    reduce_dtype: str = "float32"
    reshard_after_forward: bool = True
    accumulate: str = "sharded"
    offload_reference: bool = False
    offload_optimizer: bool = False

    def __post_init__(self) -> None:
        if self.param_dtype not in (None, *DTYPES):
            raise ValueError(
                f"parallel.param_dtype must be null, float32 or bfloat16, got {self.param_dtype!r}"
            )
        if self.reduce_dtype not in DTYPES:
            raise ValueError(
                f"parallel.reduce_dtype must be float32 or bfloat16, got {self.reduce_dtype!r}"
            )
        if self.accumulate not in ACCUMULATIONS:
            raise ValueError(
                f"parallel.accumulate must be one of {ACCUMULATIONS}, got {self.accumulate!r}"
            )

    @property
    def gathered_dtype(self) -> torch.dtype | None:
        """Dtype of gathered weights; None keeps that of the sharded ones."""
        return None if self.param_dtype is None else DTYPES[self.param_dtype]


def shard(
    root: nn.Module, model: Any, mesh: DeviceMesh, settings: ShardSettings, offload: bool
) -> None:
    """Divide the weights of `root` over the mesh, in place.

    Args:
        root: the module whose forward is called; it holds `model`.
        model: a causal LM with a list of decoder blocks.
        offload: keep the shards in host memory. Without effect where the mesh is of CPUs.

    Raises:
        ValueError: no list of decoder blocks is found in the model.
    """
    blocks = decoder_blocks(model)
    if blocks is None:
        raise ValueError(
            f"parallel=fsdp: the decoder blocks of {type(model).__name__} are not understood"
        )

    # the same for every group of weights
    to_host = offload and mesh.device_type != "cpu"
    common: dict[str, Any] = {
        "mesh": mesh,
        "mp_policy": MixedPrecisionPolicy(
            param_dtype=settings.gathered_dtype, reduce_dtype=DTYPES[settings.reduce_dtype]
        ),
        "offload_policy": CPUOffloadPolicy() if to_host else OffloadPolicy(),
    }

    # every block is a group, and what is left is the root's
    for block in blocks:
        fully_shard(block, **common, reshard_after_forward=settings.reshard_after_forward)
    fully_shard(root, **common, reshard_after_forward=False)

    # gradients are summed, not averaged
    for module in sharded_modules(root):
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)  # gloo has no other kind with a factor


def sharded_modules(root: nn.Module) -> Iterator[FSDPModule]:
    """The modules whose weights are divided: every block, and the root."""
    yield from (module for module in root.modules() if isinstance(module, FSDPModule))


def reshard(root: nn.Module) -> None:
    """Free the weights that a no-grad forward gathered. Does nothing for an unsharded policy."""
    for module in sharded_modules(root):
        module.reshard()


def blank(model: Any, device: torch.device | str, dtype: torch.dtype | None = None) -> Any:
    """A copy of an unsharded model with frozen, uninitialised parameters, ties kept; buffers are
    copied.

    Args:
        device: of the parameters; "meta" takes no memory.
        dtype: of the floating-point ones; None keeps theirs.
    """
    # copy.deepcopy takes these in place of the parameters, each once, so that ties stay
    empty: dict[int, Any] = {}
    for parameter in model.parameters():
        kind = dtype if dtype is not None and parameter.is_floating_point() else parameter.dtype
        value = torch.empty_like(parameter, device=device, dtype=kind)
        empty[id(parameter)] = nn.Parameter(value, requires_grad=False)
    made = copy.deepcopy(model, empty).eval()

    # buffers (rotary frequencies) are needed as they are
    if str(device) == "meta":
        return made
    for name, buffer in list(made.named_buffers()):
        owner, _, leaf = name.rpartition(".")
        made.get_submodule(owner)._buffers[leaf] = buffer.to(device)
    return made


def whole(tensor: Tensor) -> Tensor:
    """The full value of a sharded tensor (collective), or the tensor itself."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def divided_like(value: Tensor, parameter: Tensor) -> Tensor:
    """This rank's part of a full tensor, sharded as the parameter is; the value itself for a whole
    one.

    Every rank passes the same value, so that nothing is sent.
    """
    if (
        not isinstance(parameter, DTensor)
        or isinstance(value, DTensor)
        or value.shape != parameter.shape
    ):
        return value

    # every rank cuts its part out of the value that it holds
    mesh, placements = parameter.device_mesh, parameter.placements
    divided = distribute_tensor(value.to(mesh.device_type), mesh, placements, src_data_rank=None)
    local = divided.to_local().to(
        parameter.to_local().device
    )  # offloaded shards live in host memory
    return DTensor.from_local(
        local, mesh, placements, run_check=False, shape=value.shape, stride=value.stride()
    )


class Gathered(Mapping[str, Tensor]):
    """State dict of a sharded model whose values are gathered one at a time, when they are asked
    for.

    Asking is collective. A tied weight has one name, as in a file; a tied head with an adapter has
    its own.
    """

    def __init__(self, model: nn.Module) -> None:
        self.tensors: dict[str, Tensor] = {}
        seen: set[int] = set()

        # a tied weight once, except the weight under an adapter, which is another tensor once
        # merged
        for name, parameter in model.named_parameters(remove_duplicate=False):
            if id(parameter) not in seen or "base_layer." in name:
                self.tensors[name] = parameter
            seen.add(id(parameter))
        self.tensors |= persistent_buffers(model)

    def __getitem__(self, name: str) -> Tensor:
        return whole(self.tensors[name].detach())

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)
