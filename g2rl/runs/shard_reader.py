"""Read the files of torch.distributed.checkpoint without running a pickle.

The library keeps the description of a checkpoint in a file `.metadata`, a pickle, and unpickles it
as it stands; a pickle can call anything. Here it may name the few classes that a description is
made of, and nothing else. The tensors themselves are read by the library with
`torch.load(weights_only=True)`.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint import filesystem, metadata
from torch.serialization import _get_layout

DESCRIPTION = ".metadata"
_DTYPES = {name: value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
_ALLOWED: dict[tuple[str, str], Any] = {
    ("pathlib", "PosixPath"): PurePosixPath,
    ("pathlib", "WindowsPath"): PurePosixPath,
    ("pathlib._local", "PosixPath"): PurePosixPath,
    ("torch", "Size"): torch.Size,
    ("torch.serialization", "_get_layout"): _get_layout,
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"): filesystem._StorageInfo,
}
for _name in (
    "Metadata",
    "MetadataIndex",
    "StorageMeta",
    "TensorStorageMetadata",
    "BytesStorageMetadata",
    "ChunkStorageMetadata",
    "TensorProperties",
    "_MEM_FORMAT_ENCODING",
):
    _ALLOWED["torch.distributed.checkpoint.metadata", _name] = getattr(metadata, _name)

_SHARD_FILE = re.compile(r"__\d+_\d+\.distcp")


class UnsafeFileError(RuntimeError):
    """A file asks for more than plain data and tensors, so nothing of it is used."""


def first_line(error: BaseException) -> str:
    """What an error says, without the advice that libraries write below it."""
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


class _PlainUnpickler(pickle.Unpickler):
    """Unpickles the classes of a description; every other name is refused before it is looked
    up."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if (module, name) not in _ALLOWED:
            raise UnsafeFileError(f"it asks for {module}.{name}, which could run code")
        return _ALLOWED[module, name]


class PlainReader(dcp.FileSystemReader):
    """A reader of `torch.distributed.checkpoint` that runs no code from the files.

    Args:
        folder: holds `.metadata` and the `.distcp` files.

    Every method of the library that looks at the description goes through `read_metadata`.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.folder = folder

    def read_metadata(self, *args: Any, **kwargs: Any) -> metadata.Metadata:
        """The description of the checkpoint.

        Raises:
            UnsafeFileError: it is not the plain description of tensors; the message names the file.
        """
        place = self.folder / DESCRIPTION

        # only classes that a description consists of are made
        try:
            with place.open("rb") as file:
                found = _PlainUnpickler(file).load()
            self._refuse_oddities(found)
        except OSError:
            raise
        except Exception as error:  # a hostile or damaged pickle may raise anything
            raise UnsafeFileError(f"{place} is not read: {error}") from error

        # as in the library, whose planner compares the two
        found.storage_meta = found.storage_meta or metadata.StorageMeta()
        found.storage_meta.load_id = self.load_id
        return found

    def _refuse_oddities(self, found: Any) -> None:
        """Refuse a description of anything but tensors that lie in this folder.

        Raises:
            UnsafeFileError: saying what it describes instead.
        """
        if type(found) is not metadata.Metadata or type(found.state_dict_metadata) is not dict:
            raise UnsafeFileError("it holds no description of a checkpoint")

        # objects that are no tensors would be unpickled by the library without a question
        described_bytes = 0
        for name, entry in found.state_dict_metadata.items():
            if not isinstance(entry, metadata.TensorStorageMetadata):
                raise UnsafeFileError(f"{name} is stored as an object, not as a tensor")
            described_bytes += entry.size.numel() * entry.properties.dtype.itemsize

        # files elsewhere, and streams that pass through another library first
        for info in found.storage_data.values():
            if not _SHARD_FILE.fullmatch(info.relative_path):
                raise UnsafeFileError(f"it points to the file {info.relative_path!r}")
            if info.transform_descriptors:
                raise UnsafeFileError("its tensors are stored in a transformed form")

        # room is made for what is described before anything is read
        stored_bytes = sum(path.stat().st_size for path in self.folder.iterdir())
        if described_bytes > stored_bytes:
            raise UnsafeFileError(
                f"it describes {described_bytes} bytes of tensors, and the files hold "
                f"{stored_bytes}"
            )
