"""Read what an offline W&B run really wrote: records of W&B's own protocol in the log format of
LevelDB.

W&B has no reader for them in Python. A file is 7 bytes of header, then blocks of 32 KiB of
pieces of records: checksum (4 bytes), size (2), type (1: full, 2: first, 3: middle, 4: last), data.
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

BLOCK, HEADER, PIECE = 32768, 7, 7


@dataclass
class WandbRun:
    """What one offline file says."""

    run: Any = None
    config: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    """By name or glob, as defined."""
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    ended: bool = False


def records(path: Path) -> Iterator[Any]:
    """Every record of a .wandb file."""
    data = path.read_bytes()
    at, record = HEADER, b""
    while at + PIECE <= len(data):
        if BLOCK - at % BLOCK < PIECE:
            at += BLOCK - at % BLOCK
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + PIECE])
        piece = data[at + PIECE : at + PIECE + size]
        at += PIECE + size
        record = piece if kind in (1, 2) else record + piece
        if len(piece) < size:  # still being written
            return
        if kind in (1, 4):
            yield wandb_internal_pb2.Record.FromString(record)


def put(target: dict[str, Any], item: Any) -> None:
    *above, last = list(item.nested_key) or [item.key]
    for key in above:
        target = target.setdefault(key, {})
    target[last] = json.loads(item.value_json)


def offline_folders(run_dir: Path) -> list[Path]:
    """Oldest first."""
    return sorted((run_dir / "wandb").glob("offline-run-*"))


def read_run(folder: Path, patience: float = 200.0) -> WandbRun:
    """What the only .wandb file of an offline-run folder says, once the run has ended.

    Another process writes the file, and is not done when `finish` returns.
    """
    until = time.monotonic() + patience
    while not (found := read_once(folder)).ended:
        assert time.monotonic() < until, f"{folder} has no end after {patience} s: {found}"
        time.sleep(0.05)
    return found


def read_once(folder: Path) -> WandbRun:
    """What is there by now."""
    found = WandbRun()
    paths = list(folder.glob("*.wandb"))
    if not paths:
        return found
    [path] = paths
    for record in records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found.run = record.run
            for item in record.run.config.update:
                put(found.config, item)
        elif kind == "metric":
            found.metrics[record.metric.name or record.metric.glob_name] = record.metric
        elif kind == "history":
            row: dict[str, Any] = {}
            for item in record.history.item:
                put(row, item)
            found.history.append(row)
        elif kind == "summary":
            for item in record.summary.update:
                put(found.summary, item)
        elif kind == "exit":
            found.ended = True
    return found
