"""Read rows of a data set from the hub or a local file, and turn named columns into problems.

source="HuggingFaceH4/MATH-500", split="test"         hub id (needs network or a cached copy)
source="data/math500.jsonl"                            local .jsonl, .json (a list) or .parquet
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LOCAL_SUFFIXES = (".jsonl", ".json", ".parquet")


class DataError(ValueError):
    """A data set could not be read as asked; the message names the place and the mend."""


def is_local(source: str) -> bool:
    """Whether a source is meant as a file on disk rather than a hub id."""
    return Path(source).suffix in LOCAL_SUFFIXES or Path(source).exists()


def read_rows(
    source: str, split: str = "train", config: str | None = None, revision: str | None = None
) -> list[dict[str, Any]]:
    """All rows of a local file or of one split on the hub.

    Raises:
        DataError: missing or unreadable source, malformed row (with its line), or no row at all.
    """
    rows = (
        _read_file(Path(source).expanduser())
        if is_local(source)
        else _read_hub(source, split, config, revision)
    )
    if not rows:
        raise DataError(f"{source} holds no rows")
    return rows


def _read_file(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if path.suffix == ".parquet":
        import pandas

        return pandas.read_parquet(path).to_dict("records")
    if path.suffix == ".json":
        rows = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(rows, list):
            raise DataError(f"{path}: expected a list of objects; for one object a line name the file .jsonl")
        return rows
    rows = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(
                    f"{path}, line {number}: not JSON ({error.msg}); mend or remove the line"
                ) from error
            if not isinstance(row, dict):
                raise DataError(f"{path}, line {number}: expected an object, found {type(row).__name__}")
            rows.append(row)
    return rows


def _read_hub(source: str, split: str, config: str | None, revision: str | None) -> list[dict[str, Any]]:
    from datasets import load_dataset

    try:
        data = load_dataset(source, config, split=split, revision=revision)
    except Exception as error:  # datasets and huggingface_hub raise many unrelated types
        raise DataError(
            f"cannot load {source} (split {split}) from the hub: {type(error).__name__}: {error}. "
            "Without network give a local copy, e.g. task.source=path/to/file.jsonl"
        ) from error
    return [dict(row) for row in data]


def column(row: Mapping[str, Any], name: str, source: str, number: int) -> Any:
    """One field of a row.

    Raises:
        DataError: when the column is missing, listing those that exist.
    """
    if name not in row:
        raise DataError(f"{source}, row {number}: no column {name!r}; it has {sorted(row)}")
    return row[name]
