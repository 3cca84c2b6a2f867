"""The processes of a run: which one this is, and the few exchanges of small things between them.

This module alone reads the variables that torchrun and schedulers set (RANK, WORLD_SIZE, ...).
Importing it loads no torch.

A `World` of one is the default: every exchange is the identity, and torch.distributed is not
touched. Under torchrun (or alone with parallel=fsdp) `World.join` opens the process group: gloo on
CPUs, nccl on GPUs with gloo beside it, through which everything here goes. Weights are not
exchanged here, see `g2rl.policy.sharding`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch
    from torch.distributed.device_mesh import DeviceMesh

Item = TypeVar("Item")


def environment_size() -> int:
    """Processes of the run, as torchrun or the scheduler's launcher tells it; 1 without."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def environment_rank() -> int:
    """This process's number among those of the run, as the launcher tells it; 0 without."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """This process's number among those on its machine, as the launcher tells it; 0 without."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def processes_on_this_machine() -> int:
    """Processes of the run on this machine, as the launcher tells it; 1 without."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


@dataclass(slots=True, frozen=True)
class World:
    """One process among `size`. All methods but `deal` are collective: every rank calls them, in
    one order.

    Args:
        rank: from 0.
        size: number of processes.
        mesh: of all of them, over which weights are sharded; None without a process group.
    """

    rank: int = 0
    size: int = 1
    mesh: DeviceMesh | None = None

    @classmethod
    def join(cls, device: torch.device, timeout_minutes: float = 60.0) -> World:
        """Open the process group that torchrun's variables describe; alone without them.

        Args:
            device: where this process computes; under CUDA the device of LOCAL_RANK is made
                current.
            timeout_minutes: how long one rank waits for another before it ends the run.
        """
        import torch
        from torch import distributed as dist
        from torch.distributed.device_mesh import init_device_mesh

        # small things always go through gloo
        backend = "gloo"
        if device.type == "cuda":
            torch.cuda.set_device(local_rank())
            backend = "cpu:gloo,cuda:nccl"

        # torchrun tells where the others are; alone, the group has one member
        patience = timedelta(minutes=timeout_minutes)
        if "WORLD_SIZE" in os.environ:
            dist.init_process_group(backend, timeout=patience)
        else:
            dist.init_process_group(
                backend, timeout=patience, store=dist.HashStore(), rank=0, world_size=1
            )
        size = dist.get_world_size()
        mesh = init_device_mesh(device.type, (size,), mesh_dim_names=("shard",))
        return cls(dist.get_rank(), size, mesh)

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and reports."""
        return self.rank == 0

    def deal(self, items: Sequence[Item]) -> list[Item]:
        """This rank's share of what all have: every `size`-th, beginning with its own number."""
        return list(items[self.rank :: self.size])

    def gather(self, value: Item) -> list[Item]:
        """The values of all ranks, by rank; small ones, which are pickled."""
        if self.size == 1:
            return [value]
        from torch import distributed as dist

        # through gloo, pickled
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def collect(self, own: Sequence[Item]) -> list[Item]:
        """What `deal` had divided, each item replaced by what its rank made of it, in the old
        order."""
        items_of_ranks = self.gather(list(own))
        count = sum(len(items) for items in items_of_ranks)
        return [items_of_ranks[i % self.size][i // self.size] for i in range(count)]

    def from_first(self, make: Callable[[], Item]) -> Item:
        """What the first rank makes, for all."""
        if self.size == 1:
            return make()
        from torch import distributed as dist

        values: list[Any] = [make() if self.first else None]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def largest(self, value: int) -> int:
        """The largest value of all ranks."""
        return max(self.gather(value))

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self.gather(None)

    def close(self) -> None:
        """Leave the process group, where there is one; an engine may have done so before."""
        if self.mesh is not None:
            from torch import distributed as dist

            if dist.is_initialized():
                dist.destroy_process_group()
