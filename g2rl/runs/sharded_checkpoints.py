"""Sharded checkpoints on disk: every rank writes its part through torch.distributed.checkpoint.

    sharded/         weights as `model.NAME`, optimizer moments as `state.PATH`, for any number of readers

What is not sharded (counters, signal state) stays in the checkpoint's training.pt, where a mapping
with the one key `REF` stands for each tensor that lies here.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.tensor import DTensor, Shard, zeros

from g2rl.policy.sharding import divided_like
from g2rl.policy.weights import weights_to_keep
from g2rl.world import World

FOLDER = "sharded"
REF = "sharded tensor"  # key of the mapping that stands for a tensor in training.pt


def is_sharded(model: nn.Module) -> bool:
    """Whether the weights are divided among processes."""
    return any(isinstance(p, DTensor) for p in model.parameters())


def split(value: Any, found: dict[str, Tensor], path: str = "state") -> Any:
    """A nested state with a reference for each sharded tensor, which goes to `found`."""
    if isinstance(value, DTensor):
        found[path] = value
        return {REF: path}
    if isinstance(value, Mapping):
        return {key: split(item, found, f"{path}.{key}") for key, item in value.items()}
    if isinstance(value, list):
        return [split(item, found, f"{path}.{number}") for number, item in enumerate(value)]
    return value


def join(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `split`."""
    if isinstance(value, dict):
        if REF in value:
            return tensors[value[REF]]
        return {key: join(item, tensors) for key, item in value.items()}
    if isinstance(value, list):
        return [join(item, tensors) for item in value]
    return value


def write(folder: Path, model: nn.Module, state: Mapping[str, Any]) -> Any:
    """Write this rank's part (collective); returns the state with references."""
    tensors = {f"model.{name}": tensor for name, tensor in weights_to_keep(model).items()}
    rest = split(dict(state), tensors)
    dcp.save(tensors, storage_writer=dcp.FileSystemWriter(folder / FOLDER))
    return rest


def own_files(folder: Path, world: World) -> list[Path]:
    """The files that this rank has written, the first also what describes them all."""
    found = sorted((folder / FOLDER).glob(f"__{world.rank}_*"))
    return [*found, folder / FOLDER / ".metadata"] if world.first else found


def read(folder: Path, model: nn.Module, state: Any, world: World) -> Any:
    """Load weights into the model, sharded or not, and return the state with its tensors
    (collective).

    Raises:
        KeyError: names of weights in the files that are not those of the model.
    """
    # the names must be the model's
    reader = dcp.FileSystemReader(folder / FOLDER)
    stored = reader.read_metadata().state_dict_metadata
    tensors = {f"model.{name}": tensor for name, tensor in weights_to_keep(model).items()}
    if wrong := {name for name in stored if name.startswith("model.")} ^ set(tensors):
        raise KeyError(sorted(wrong)[0].removeprefix("model."))

    # room for what is not in the model: moments of the optimizer
    sharded = is_sharded(model)
    host = sharded and next(model.parameters()).device.type == "cpu"
    for name, entry in stored.items():
        if name not in tensors and isinstance(entry, TensorStorageMetadata):
            if sharded:
                tensors[name] = _room(entry, world, host)
            else:
                tensors[name] = torch.zeros(entry.size, dtype=entry.properties.dtype)

    # read
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="torch.distributed is disabled", category=UserWarning
        )
        dcp.load(tensors, storage_reader=reader, no_dist=not sharded)
    return join(state, tensors)


def _room(entry: TensorStorageMetadata, world: World, host: bool) -> Tensor:
    """Zeros of a stored tensor's shape, sharded as weights are."""
    assert world.mesh is not None

    # offloaded shards live in host memory
    made = zeros(
        entry.size, dtype=entry.properties.dtype, device_mesh=world.mesh, placements=[Shard(0)]
    )
    local = made.to_local()
    if host and local.device.type != "cpu":
        return DTensor.from_local(
            local.cpu(),
            world.mesh,
            [Shard(0)],
            run_check=False,
            shape=made.shape,
            stride=made.stride(),
        )
    return made


@torch.no_grad()
def fill(model: nn.Module, weights: Mapping[str, Tensor]) -> tuple[set[str], set[str]]:
    """Load whole weights into a sharded model; returns the names that are missing and those
    unexpected."""
    own = weights_to_keep(model)
    for name in sorted(own.keys() & weights.keys()):
        own[name].copy_(divided_like(weights[name], own[name]))
    return set(own) - set(weights), set(weights) - set(own)


Digest = Callable[[Path], str]


def entries(folder: Path, paths: list[Path], digest: Digest) -> dict[str, dict[str, Any]]:
    """Size and checksum of files, as the manifest holds them."""
    entry_of_file: dict[str, dict[str, Any]] = {}
    for path in paths:
        name = str(path.relative_to(folder))
        entry_of_file[name] = {"bytes": path.stat().st_size, "sha256": digest(path)}
    return entry_of_file
