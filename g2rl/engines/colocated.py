"""What any engine needs that runs a sampling library inside the trainer's own processes."""

from __future__ import annotations

import copy
import io
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from g2rl.engines.drift import TOLERANCE
from g2rl.engines.engine import Key
from g2rl.policy.policy import Policy
from g2rl.world import environment_size


def world_size() -> int:
    """Number of ranks of the run.

    Raises:
        RuntimeError: torchrun started several ranks, but torch.distributed is not initialised.
    """
    if dist.is_initialized():
        return dist.get_world_size()

    # each rank would take itself for the only one
    if environment_size() > 1:
        raise RuntimeError(
            "an engine of several ranks needs torch.distributed initialised before it"
        )
    return 1


def tensor_parallel_group(size: int) -> Any:
    """The process group of the ranks that share one engine with this rank.

    Args:
        size: ranks of one engine; they have consecutive numbers.

    Returns:
        A gloo group, or None when every rank has an engine of its own.

    Raises:
        ValueError: `size` does not divide the number of ranks.
    """
    if size < 1 or world_size() % size:
        raise ValueError(f"engine.tensor_parallel={size} must divide the {world_size()} ranks")
    if size == 1:
        return None

    # torch requires that every rank takes part in making every group, not its own only
    groups: dict[int, Any] = {}
    for first_rank in range(0, world_size(), size):
        ranks = list(range(first_rank, first_rank + size))
        groups[first_rank] = dist.new_group(ranks, backend="gloo")
    return groups[dist.get_rank() // size * size]


def gather_requests(
    team: Any, prompts: Sequence[Sequence[int]], keys: Sequence[Key]
) -> tuple[int, list[Sequence[int]], list[Key]]:
    """Gather the prompts and keys of all ranks that share one engine.

    Args:
        team: their process group, see `tensor_parallel_group`; None for a rank alone.
        prompts, keys: of this rank.

    Returns:
        How many prompts stand before those of this rank, and all prompts and all keys in the order
        of the ranks.
    """
    if team is None:
        return 0, list(prompts), list(keys)

    # all ranks of one engine must ask it for the same requests
    requests_of_ranks: list[Any] = [None] * dist.get_world_size(team)
    dist.all_gather_object(requests_of_ranks, (list(prompts), list(keys)), group=team)

    # ranks in their order, so that all of them build the same list
    prompts_before = 0
    all_prompts: list[Sequence[int]] = []
    all_keys: list[Key] = []
    for rank, (prompts_of_rank, keys_of_rank) in enumerate(requests_of_ranks):
        if rank < dist.get_rank(team):
            prompts_before += len(prompts_of_rank)
        all_prompts += prompts_of_rank
        all_keys += keys_of_rank
    return prompts_before, all_prompts, all_keys


def export_config(model: Any, folder: str) -> None:
    """Write the model's configuration to a folder.

    The engine builds its own model from it. Unlike the file at the model's source it holds
    `model.overrides`.
    """
    config = copy.deepcopy(model.config)

    # FSDP gives the module a class of its own; the first ancestor in transformers is the
    # architecture that the engine knows
    for ancestor in type(model).__mro__:
        if ancestor.__module__.startswith("transformers.models."):
            config.architectures = [ancestor.__name__]
            break

    # a head with an adapter differs from the embedding that it was tied to
    if hasattr(model.get_output_embeddings(), "base_layer"):
        config.tie_word_embeddings = False

    # the engine needs no more than this: its weights come by pushes
    config.save_pretrained(folder)


@contextmanager
def random_state_kept(device: torch.device) -> Iterator[None]:
    """Restore the global random generators and the matmul precision at the end of the block.

    A library may change them when it starts.
    """
    python_state = random.getstate()
    numpy_state = np.random.get_state()
    precision = torch.get_float32_matmul_precision()

    # torch restores its own generators: the CPU's, and those of the devices named here
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_float32_matmul_precision(precision)


def resolve_dtype(dtype: str | None, policy: Policy) -> tuple[str, str]:
    """The engine's dtype, and the dtype in whose precision the engine and the policy are compared.

    Args:
        dtype: float32 or bfloat16; None: what the policy computes in.
        policy: the training policy.

    Returns:
        Both dtypes by name. The second is the coarser of the engine's and the policy's.

    Raises:
        ValueError: one of the two is neither float32 nor bfloat16.
    """
    # under autocast a policy computes in another dtype than that of its weights
    policy_dtype = policy.compute_dtype or next(policy.parameters()).dtype
    trained_in = str(policy_dtype).removeprefix("torch.")
    dtype = dtype or trained_in
    if {dtype, trained_in} - set(TOLERANCE):
        raise ValueError(
            f"engine.dtype must be one of {sorted(TOLERANCE)}, got {dtype} beside {trained_in}"
        )

    # one side in bfloat16 is enough to round every log-probability
    compared_in = "bfloat16" if "bfloat16" in (dtype, trained_in) else "float32"
    return dtype, compared_in


def progress_bar(on_progress: Callable[[int], None]) -> Callable[..., Any]:
    """A stand-in for tqdm that prints nothing and tells `on_progress` of finished requests."""
    from tqdm import tqdm

    # vLLM reports the requests that it has finished to such a bar, and to nothing else
    class Bar(tqdm):
        def update(self, n: float | None = 1) -> bool | None:
            on_progress(int(n or 0))
            return super().update(n)

    return partial(Bar, file=io.StringIO())
