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

DTYPES = {None: None, "float32": torch.float32, "bfloat16": torch.bfloat16}
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
        if self.param_dtype not in DTYPES:
            raise ValueError(
                f"parallel.param_dtype must be null, float32 or bfloat16, got {self.param_dtype!r}"
            )
        if self.reduce_dtype not in ("float32", "bfloat16"):
            raise ValueError(
                f"parallel.reduce_dtype must be float32 or bfloat16, got {self.reduce_dtype!r}"
            )
        if self.accumulate not in ACCUMULATIONS:
            raise ValueError(
                f"parallel.accumulate must be one of {ACCUMULATIONS}, got {self.accumulate!r}"
            )


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
    blocks = next((m for m in model.modules() if isinstance(m, nn.ModuleList)), None)
    if blocks is None or len(blocks) != model.config.num_hidden_layers:
        raise ValueError(
            f"parallel=fsdp: the decoder blocks of {type(model).__name__} are not understood"
        )
    to_host = offload and mesh.device_type != "cpu"
    common: dict[str, Any] = {
        "mesh": mesh,
        "mp_policy": MixedPrecisionPolicy(
            param_dtype=DTYPES[settings.param_dtype], reduce_dtype=DTYPES[settings.reduce_dtype]
        ),
        "offload_policy": CPUOffloadPolicy() if to_host else OffloadPolicy(),
    }
    for block in blocks:
        fully_shard(block, **common, reshard_after_forward=settings.reshard_after_forward)
    fully_shard(root, **common, reshard_after_forward=False)
    for module in sharded_modules(root):
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)  # gloo has no other kind with a factor


def sharded_modules(root: nn.Module) -> Iterator[FSDPModule]:
    yield from (module for module in root.modules() if isinstance(module, FSDPModule))


def settle(root: nn.Module) -> None:
    """Let go of gathered weights that a forward without backward has left; nothing where none are
    sharded."""
    for module in sharded_modules(root):
        module.reshard()


def blank(model: Any, device: torch.device | str, dtype: torch.dtype | None = None) -> Any:
    """A copy of an unsharded model with frozen, uninitialised parameters, ties kept; buffers are
    copied.

    Args:
        device: of the parameters; "meta" takes no memory.
        dtype: of the floating-point ones; None keeps theirs.
    """
    empty: dict[int, Any] = {}
    for parameter in model.parameters():
        kind = dtype if dtype is not None and parameter.is_floating_point() else parameter.dtype
        value = torch.empty_like(parameter, device=device, dtype=kind)
        empty[id(parameter)] = nn.Parameter(value, requires_grad=False)
    made = copy.deepcopy(model, empty).eval()
    for name, buffer in list(made.named_buffers()) if str(device) != "meta" else ():
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
    mesh, placements = parameter.device_mesh, parameter.placements
    found = distribute_tensor(value.to(mesh.device_type), mesh, placements, src_data_rank=None)
    local = found.to_local().to(parameter.to_local().device)  # offloaded shards live in host memory
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
        self.found: dict[str, Tensor] = {}
        seen: set[int] = set()
        everything = dict(model.named_parameters(remove_duplicate=False))
        for name, parameter in everything.items():
            if id(parameter) not in seen or "base_layer." in name:
                self.found[name] = parameter
            seen.add(id(parameter))
        self.found |= {name: t for name, t in model.state_dict().items() if name not in everything}

    def __getitem__(self, name: str) -> Tensor:
        return whole(self.found[name].detach())

    def __iter__(self) -> Iterator[str]:
        return iter(self.found)

    def __len__(self) -> int:
        return len(self.found)
