"""The sharded part of a checkpoint: every rank writes its shards with torch.distributed.checkpoint.

The folder `sharded/` of a checkpoint holds weights as `model.NAME` and optimizer moments as
`state.PATH`; any number of processes can read it. What is not sharded (counters, signal state)
stays in the checkpoint's training.pt, where a mapping with the one key `REF` stands for each tensor
that lies in `sharded/`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.tensor import DTensor, Shard, zeros

from g2rl.policy.sharding import divided_like
from g2rl.policy.weights import weights_to_keep
from g2rl.runs.shard_reader import DESCRIPTION, PlainReader, UnsafeFileError, first_line
from g2rl.world import World

FOLDER = "sharded"
REF = "sharded tensor"
"""Key of the mapping that stands for a sharded tensor in training.pt; its value is the path."""

# --- states with references


def split(value: Any, tensors: dict[str, Tensor], path: str = "state") -> Any:
    """Replace each sharded tensor of a nested state by a reference.

    Args:
        value: a state of mappings, lists, tensors and plain data.
        tensors: takes the sharded tensors, by their path.
        path: of `value` in the whole state.
    """
    # a tensor of many ranks is stored apart and named here
    if isinstance(value, DTensor):
        tensors[path] = value
        return {REF: path}

    # containers are walked through; any other value stays where it is
    if isinstance(value, Mapping):
        return {key: split(item, tensors, f"{path}.{key}") for key, item in value.items()}
    if isinstance(value, list):
        return [split(item, tensors, f"{path}.{number}") for number, item in enumerate(value)]
    return value


def join(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Put tensors in the place of their references: the inverse of `split`."""
    if isinstance(value, dict):
        if REF in value:
            return tensors[value[REF]]
        return {key: join(item, tensors) for key, item in value.items()}
    if isinstance(value, list):
        return [join(item, tensors) for item in value]
    return value


# --- writing and reading


def is_sharded(model: nn.Module) -> bool:
    """Whether the weights are divided among processes."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def stored_weights(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a model that a checkpoint holds, by the names that they have there."""
    return {f"model.{name}": tensor for name, tensor in weights_to_keep(model).items()}


def write(folder: Path, model: nn.Module, state: Mapping[str, Any]) -> Any:
    """Write this rank's shards of the weights and of the state. Every rank must call this.

    Returns:
        The state with references in the place of sharded tensors.
    """
    tensors = stored_weights(model)
    unsharded_state = split(dict(state), tensors)
    dcp.save(tensors, storage_writer=dcp.FileSystemWriter(folder / FOLDER))
    return unsharded_state


def files_of_rank(folder: Path, world: World) -> list[Path]:
    """The files that this rank has written; the first rank also wrote the common description."""
    paths = sorted((folder / FOLDER).glob(f"__{world.rank}_*"))
    if world.first:
        paths.append(folder / FOLDER / DESCRIPTION)
    return paths


def read(folder: Path, model: nn.Module, state: Any, world: World) -> Any:
    """Load the weights into a model, sharded or not. Every rank must call this.

    Args:
        folder: of the checkpoint.
        model: takes the weights.
        state: with references, as `write` returned it.
        world: the ranks among which a sharded model is divided.

    Returns:
        The state with tensors, sharded like the model.

    Raises:
        KeyError: the files hold other weights than the model has.
        UnsafeFileError: the files hold anything but tensors; nothing of them is run.
    """
    # the names must be the model's
    reader = PlainReader(folder / FOLDER)
    stored = reader.read_metadata().state_dict_metadata
    tensors = stored_weights(model)
    names_in_files = {name for name in stored if name.startswith("model.")}
    differing_names = sorted(names_in_files ^ set(tensors))
    if differing_names:
        raise KeyError(differing_names[0].removeprefix("model."))

    # room for what is not in the model: moments of the optimizer
    sharded = is_sharded(model)
    offloaded = sharded and next(model.parameters()).device.type == "cpu"
    for name, entry in stored.items():
        if name in tensors or not isinstance(entry, TensorStorageMetadata):
            continue
        if sharded:
            tensors[name] = _sharded_zeros(entry, world, offloaded)
        else:
            tensors[name] = torch.zeros(entry.size, dtype=entry.properties.dtype)

    # one process reads without torch.distributed, of which torch would warn
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="torch.distributed is disabled", category=UserWarning
        )
        try:
            dcp.load(tensors, storage_reader=reader, no_dist=not sharded)
        except dcp.CheckpointException as error:
            # what went wrong on the first rank where anything did; it is no `Exception` itself
            failure, _ = next(iter(error.failures.values()))
            raise UnsafeFileError(
                f"{folder / FOLDER} is not read: {first_line(failure)}"
            ) from error
    return join(state, tensors)


def _sharded_zeros(entry: TensorStorageMetadata, world: World, offloaded: bool) -> Tensor:
    """Zeros of a stored tensor's shape, sharded as weights are, in host memory if offloaded."""
    assert world.mesh is not None
    tensor = zeros(
        entry.size, dtype=entry.properties.dtype, device_mesh=world.mesh, placements=[Shard(0)]
    )
    shard = tensor.to_local()
    if not offloaded or shard.device.type == "cpu":
        return tensor

    # the mesh is of GPUs, but offloaded shards live in host memory
    return DTensor.from_local(
        shard.cpu(),
        world.mesh,
        [Shard(0)],
        run_check=False,
        shape=tensor.shape,
        stride=tensor.stride(),
    )


@torch.no_grad()
def fill(model: nn.Module, weights: Mapping[str, Tensor]) -> tuple[set[str], set[str]]:
    """Load whole weights into a sharded model.

    Args:
        model: takes the weights that it has.
        weights: by name, the same on every rank.

    Returns:
        Names that the model has and `weights` has not, and the other way round.
    """
    sharded_weights = weights_to_keep(model)

    # each rank copies its own part
    for name in sorted(sharded_weights.keys() & weights.keys()):
        sharded_weights[name].copy_(divided_like(weights[name], sharded_weights[name]))

    missing = set(sharded_weights) - set(weights)
    unexpected = set(weights) - set(sharded_weights)
    return missing, unexpected
