"""What an engine inside the trainer's processes needs, whatever its library."""

from __future__ import annotations

import copy
import io
import random
import tempfile
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
    """Ranks of the run.

    Raises:
        RuntimeError: started by torchrun, but torch.distributed is not initialised.
    """
    if dist.is_initialized():
        return dist.get_world_size()
    if environment_size() > 1:
        raise RuntimeError(
            "an engine of several ranks needs torch.distributed initialised before it"
        )
    return 1


def tensor_parallel_group(size: int) -> Any:
    """The process group of the ranks that share this rank's engine; None when each has its own."""
    if size < 1 or world_size() % size:
        raise ValueError(f"engine.tensor_parallel={size} must divide the {world_size()} ranks")
    if size == 1:
        return None

    # the ranks of one engine follow one another
    first = dist.get_rank() // size * size
    starts = range(0, world_size(), size)  # every rank takes part in making every group
    groups: dict[int, Any] = {}
    for start in starts:
        groups[start] = dist.new_group(list(range(start, start + size)), backend="gloo")
    return groups[first]


def together(
    team: Any, prompts: Sequence[Sequence[int]], keys: Sequence[Key]
) -> tuple[int, list[Sequence[int]], list[Key]]:
    """How many prompts stand before this rank's own; prompts and keys of all ranks that share the
    engine."""
    if team is None:
        return 0, list(prompts), list(keys)
    parts: list[Any] = [None] * dist.get_world_size(team)
    dist.all_gather_object(parts, (list(prompts), list(keys)), group=team)
    before = 0
    all_prompts: list[Sequence[int]] = []
    all_keys: list[Key] = []
    for rank, (prompts_of_rank, keys_of_rank) in enumerate(parts):
        if rank < dist.get_rank(team):
            before += len(prompts_of_rank)
        all_prompts += prompts_of_rank
        all_keys += keys_of_rank
    return before, all_prompts, all_keys


def export_config(model: Any) -> str:
    """A temporary folder with the model's configuration as it is, for an engine to build its own
    model."""
    config = copy.deepcopy(model.config)

    # FSDP renames the class of the model itself; the first one of transformers is the architecture
    for ancestor in type(model).__mro__:
        if ancestor.__module__.startswith("transformers.models."):
            config.architectures = [ancestor.__name__]
            break
    if hasattr(model.get_output_embeddings(), "base_layer"):  # an adapter unties the head
        config.tie_word_embeddings = False
    folder = tempfile.mkdtemp(prefix="g2rl-engine-")
    config.save_pretrained(folder)
    return folder


@contextmanager
def random_state_kept(device: torch.device) -> Iterator[None]:
    """Restore the global random generators and the matmul precision, which a library may change when
    it starts."""
    python_state = random.getstate()
    numpy_state = np.random.get_state()
    precision = torch.get_float32_matmul_precision()

    # torch restores its own
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
    random.setstate(python_state)
    np.random.set_state(numpy_state)
    torch.set_float32_matmul_precision(precision)


def resolve_dtype(dtype: str | None, policy: Policy) -> tuple[str, str]:
    """The engine's dtype, and the coarser of it and the policy's, in which the two are compared."""
    # the policy's dtype unless another is asked for
    trained_in = str(policy.compute_dtype or next(policy.parameters()).dtype).removeprefix("torch.")
    dtype = dtype or trained_in
    if {dtype, trained_in} - set(TOLERANCE):
        raise ValueError(
            f"engine.dtype must be one of {sorted(TOLERANCE)}, got {dtype} beside {trained_in}"
        )
    return dtype, "bfloat16" if "bfloat16" in (dtype, trained_in) else "float32"


def progress_bar(on_progress: Callable[[int], None]) -> Callable[..., Any]:
    """A tqdm that writes nowhere and tells `on_progress` of finished requests."""
    from tqdm import tqdm

    class Bar(tqdm):
        def update(self, n: float | None = 1) -> bool | None:
            on_progress(int(n or 0))
            return super().update(n)

    return partial(Bar, file=io.StringIO())
