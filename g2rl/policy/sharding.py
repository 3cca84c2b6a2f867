"""Weights divided among processes by FSDP2 (torch.distributed.fsdp.fully_shard).

FSDP gathers weights group by group. Every decoder block is a group; what is left (embedding, last
norm, LM head) is the group of the root, which is `g2rl.policy.policy.Policy` itself. The root's
weights are whole during its forward, where log-probs, entropies and gradient features are computed.
They stay whole until the end of the backward, because the tiled head may recompute logits from
them.

Gradients are summed over ranks instead of averaged, because the loss is divided by the token or
response counts of the whole mini-batch already.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

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
    """How weights are divided; the settings of conf/parallel/fsdp.yaml.

    Args:
        param_dtype: dtype of gathered weights and of the computation; None takes that of the
            sharded (master) weights.
        reduce_dtype: dtype in which gradients are summed over ranks.
        reshard_after_forward: free a block's gathered weights between forward and backward.
        accumulate: when gradients are summed over ranks: "sharded" after every micro-batch, "full"
            once after the last one of an update, which holds whole gradients until then.
        offload_reference: keep the shards of the reference policy in host memory.
        offload_optimizer: keep the policy's shards, gradients and optimizer moments in host memory,
            and take the optimizer step on the CPU.

    Raises:
        ValueError: for a value that is not among the choices.
    """

    param_dtype: str | None = None
    reduce_dtype: str = "float32"
    reshard_after_forward: bool = True
    accumulate: str = "sharded"
    offload_reference: bool = False
    offload_optimizer: bool = False

    def __post_init__(self) -> None:
        # null keeps the dtype of the weights; sums need a dtype of their own
        if self.param_dtype not in (None, *DTYPES):
            raise ValueError(
                f"parallel.param_dtype must be null, float32 or bfloat16, got {self.param_dtype!r}"
            )
        if self.reduce_dtype not in DTYPES:
            raise ValueError(
                f"parallel.reduce_dtype must be float32 or bfloat16, got {self.reduce_dtype!r}"
            )

        # when gradients are summed
        if self.accumulate not in ACCUMULATIONS:
            raise ValueError(
                f"parallel.accumulate must be one of {ACCUMULATIONS}, got {self.accumulate!r}"
            )

    @property
    def gathered_dtype(self) -> torch.dtype | None:
        """`param_dtype` as torch's; None keeps the dtype of the sharded weights."""
        return DTYPES[self.param_dtype] if self.param_dtype else None


class HasModules(Protocol):
    """A `torch.nn.Module`, or anything that stands in for one."""

    def modules(self) -> Iterator[nn.Module]:
        """The module itself and all modules inside it."""
        ...


def shard(
    root: nn.Module, model: Any, mesh: DeviceMesh, settings: ShardSettings, offload: bool
) -> None:
    """Divide the weights of `root` over the mesh, in place.

    Args:
        root: the module whose forward is called; it holds `model`.
        model: a causal LM with a list of decoder blocks.
        mesh: the processes.
        settings: how weights are gathered and gradients are summed.
        offload: keep the shards in host memory; no effect on a mesh of CPUs.

    Raises:
        ValueError: the list of decoder blocks is not found in the model.
    """
    blocks = decoder_blocks(model)
    if blocks is None:
        raise ValueError(
            f"parallel=fsdp: the decoder blocks of {type(model).__name__} are not understood"
        )

    # what all groups of weights have in common
    to_host = offload and mesh.device_type != "cpu"
    common: dict[str, Any] = {
        "mesh": mesh,
        "mp_policy": MixedPrecisionPolicy(
            param_dtype=settings.gathered_dtype, reduce_dtype=DTYPES[settings.reduce_dtype]
        ),
        "offload_policy": CPUOffloadPolicy() if to_host else OffloadPolicy(),
    }

    # fully_shard takes what inner groups have left, so the root comes last
    for block in blocks:
        fully_shard(block, **common, reshard_after_forward=settings.reshard_after_forward)

    # the root's weights stay whole after its forward: the backward of the tiled head reads them
    fully_shard(root, **common, reshard_after_forward=False)

    # sum gradients instead of averaging them
    for module in sharded_modules(root):
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)  # gloo has no other kind with a factor


def sharded_modules(root: HasModules) -> Iterator[FSDPModule]:
    """The modules that are groups of divided weights: every block, and the root."""
    for module in root.modules():
        if isinstance(module, FSDPModule):
            yield module


def reshard(root: HasModules) -> None:
    """Free the weights that a no-grad forward gathered. Does nothing for an unsharded policy."""
    for module in sharded_modules(root):
        module.reshard()


def blank(model: Any, device: torch.device | str, dtype: torch.dtype | None = None) -> Any:
    """A copy of an unsharded model with frozen, uninitialised parameters.

    Ties between parameters stay, and buffers are copied with their values.

    Args:
        model: the model to copy.
        device: where the parameters are to lie; "meta" takes no memory.
        dtype: of the floating-point parameters; None keeps theirs.
    """
    # one empty parameter for each, so that a tied one stays tied
    empty_parameters: dict[int, Any] = {}
    for parameter in model.parameters():
        new_dtype = parameter.dtype
        if dtype is not None and parameter.is_floating_point():
            new_dtype = dtype
        value = torch.empty_like(parameter, device=device, dtype=new_dtype)
        empty_parameters[id(parameter)] = nn.Parameter(value, requires_grad=False)

    # the second argument of deepcopy says which objects have been copied already, and to what
    made = copy.deepcopy(model, empty_parameters).eval()

    # a skeleton keeps its buffers where they are: rotary frequencies stand in no file
    if str(device) == "meta":
        return made
    for name, buffer in list(made.named_buffers()):
        owner, _, leaf = name.rpartition(".")
        made.get_submodule(owner)._buffers[leaf] = buffer.to(device)
    return made


def whole(tensor: Tensor) -> Tensor:
    """The full value of a sharded tensor, or the tensor itself. Collective for a sharded one."""
    if isinstance(tensor, DTensor):
        return tensor.full_tensor()
    return tensor


def divided_like(value: Tensor, parameter: Tensor) -> Tensor:
    """This rank's part of a full tensor, sharded as a parameter is.

    Args:
        value: the full tensor, the same on every rank, so that nothing has to be sent.
        parameter: the model for the division. If it is not sharded, is of another shape, or the
            value is sharded already, the value is returned as it is.
    """
    # nothing to divide, or divided already
    if not isinstance(parameter, DTensor) or isinstance(value, DTensor):
        return value
    if value.shape != parameter.shape:
        return value

    # every rank cuts its part out of its own value
    mesh, placements = parameter.device_mesh, parameter.placements
    divided = distribute_tensor(value.to(mesh.device_type), mesh, placements, src_data_rank=None)

    # offloaded shards lie in host memory, although the mesh is one of GPUs
    local = divided.to_local().to(parameter.to_local().device)
    return DTensor.from_local(
        local, mesh, placements, run_check=False, shape=value.shape, stride=value.stride()
    )


class Gathered(Mapping[str, Tensor]):
    """State dict of a sharded model whose values are gathered when they are asked for.

    At no time are all whole weights in memory. Asking for a value is collective. A tied weight has
    one name, as in a file, except for a head with an adapter, which has a name of its own.
    """

    def __init__(self, model: nn.Module) -> None:
        self.tensors: dict[str, Tensor] = {}
        seen: set[int] = set()

        # the weight under an adapter is no longer tied once the adapter is merged
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
