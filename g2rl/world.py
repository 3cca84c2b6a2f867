"""The processes of a run: which one this is, and how they exchange small values.

This module alone reads the variables that torchrun and schedulers set (RANK, WORLD_SIZE, ...).
Importing it does not load torch.

By default a run is one process. Its `World` has size 1: every exchange returns what was put in, and
torch.distributed is not used. Under torchrun, or in a single process with parallel=fsdp,
`World.join` opens the process group. Everything in this module is sent through gloo, on GPUs too;
weights go through nccl there, see `g2rl.policy.sharding`.
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
    """Number of processes of the run, from the launcher's WORLD_SIZE; 1 where it is not set."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def environment_rank() -> int:
    """Number of this process within the run, from the launcher's RANK; 0 where it is not set."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """Number of this process on its machine, from LOCAL_RANK; 0 where it is not set."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def processes_on_this_machine() -> int:
    """Number of the run's processes on this machine, from LOCAL_WORLD_SIZE; 1 where not set."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


@dataclass(slots=True, frozen=True)
class World:
    """One process (rank) of a run.

    All methods except `deal` are collective: every rank must call them, and in the same order.

    Args:
        rank: number of this process, from 0.
        size: number of processes.
        mesh: the device mesh of all processes, over which weights are sharded; None without a
            process group.
    """

    rank: int = 0
    size: int = 1
    mesh: DeviceMesh | None = None

    @classmethod
    def join(cls, device: torch.device, timeout_minutes: float = 60.0) -> World:
        """Open the process group that torchrun's variables describe.

        Without these variables the group has this process alone.

        Args:
            device: where this process computes. On GPUs the device numbered LOCAL_RANK becomes the
                current one.
            timeout_minutes: how long a rank waits for the others before it ends the run with an
                error.
        """
        import torch
        from torch import distributed as dist
        from torch.distributed.device_mesh import init_device_mesh

        # gloo carries the small values of this module, nccl the weights on GPUs
        backend = "gloo"
        if device.type == "cuda":
            torch.cuda.set_device(local_rank())
            backend = "cpu:gloo,cuda:nccl"

        # without torchrun there is no address to meet at: a store in memory makes a group of one
        patience = timedelta(minutes=timeout_minutes)
        if "WORLD_SIZE" in os.environ:
            dist.init_process_group(backend, timeout=patience)
        else:
            dist.init_process_group(
                backend, timeout=patience, store=dist.HashStore(), rank=0, world_size=1
            )

        # one mesh dimension: weights are sharded over all ranks
        size = dist.get_world_size()
        mesh = init_device_mesh(device.type, (size,), mesh_dim_names=("shard",))
        return cls(dist.get_rank(), size, mesh)

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and reports."""
        return self.rank == 0

    def deal(self, items: Sequence[Item]) -> list[Item]:
        """This rank's share of items that every rank holds: the numbers rank, rank + size, ..."""
        return list(items[self.rank :: self.size])

    def gather(self, value: Item) -> list[Item]:
        """One small value of every rank, in the order of the ranks. The values are pickled."""
        # alone there is no process group to ask
        if self.size == 1:
            return [value]

        # imported here, because one process alone needs no torch.distributed
        from torch import distributed as dist

        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def collect(self, own: Sequence[Item]) -> list[Item]:
        """Undo `deal`: put the results that the ranks computed from their shares in the old order.

        Args:
            own: one result for each item of this rank's share.

        Returns:
            One result for each item that was dealt, on every rank.
        """
        items_of_ranks = self.gather(list(own))
        count = sum(len(items) for items in items_of_ranks)

        # item i went to rank i % size, as the (i // size)-th of its share
        return [items_of_ranks[i % self.size][i // self.size] for i in range(count)]

    def from_first(self, make: Callable[[], Item]) -> Item:
        """Call `make` on the first rank and give its result to all ranks."""
        if self.size == 1:
            return make()
        from torch import distributed as dist

        # the other ranks' placeholder is overwritten by the broadcast
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
        """Leave the process group. Does nothing without one."""
        if self.mesh is not None:
            from torch import distributed as dist

            # vLLM destroys the default group when it shuts down, before this is called
            if dist.is_initialized():
                dist.destroy_process_group()
