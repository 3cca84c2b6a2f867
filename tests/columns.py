"""Compare the files that a command has written with their descriptions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pyarrow import parquet

from docs.site.files import PARTS
from g2rl.runs.columns import FileSchema, differences, word_of

WORDS = {str: "text", int: "int", float: "float", bool: "bool", type(None): "null"}
"""Types of JSON's values."""


def schema_of(path: Path, folder: Path) -> FileSchema | None:
    """The description of a file: that whose place, with its own wildcards, ends the file's path."""
    inside = path.relative_to(folder)
    for schemas in PARTS.values():
        for schema in schemas:
            if inside.match(schema.place):
                return schema
    return None


def types_of(path: Path) -> list[tuple[str, str]]:
    """Name and type of every column of a file, or of every key of its lines."""
    if path.suffix == ".parquet":
        return [(field.name, word_of(field.type)) for field in parquet.read_schema(path)]
    types: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        for name, value in json.loads(line).items():
            types[name] = word_of_json(value)
    return list(types.items())


def word_of_json(value: Any) -> str:
    """The word for a value of JSON; lists are told by their first member."""
    if isinstance(value, list):
        return "objects" if value and isinstance(value[0], dict) else f"{word_of_json(value[0])}s"
    return WORDS[type(value)]


def undescribed(folder: Path) -> list[str]:
    """What the tables of a folder hold that docs/files.md does not say, or the other way round.

    Raises:
        AssertionError: there is no table, so nothing was compared.
    """
    paths = sorted([*folder.rglob("*.parquet"), *folder.rglob("*.jsonl")])
    assert paths, f"{folder} holds no table"
    found: list[str] = []
    for path in paths:
        schema = schema_of(path, folder)
        if schema is None:
            found.append(f"{path} is not described")
        else:
            found += [f"{path}: {one}" for one in differences(schema, types_of(path))]
    return found


def wrongly_described(folder: Path, *schemas: FileSchema) -> list[str]:
    """The same for some files of a folder whose name does not tell what it holds."""
    found: list[str] = []
    for schema in schemas:
        path = folder / Path(schema.place).name
        found += differences(schema, types_of(path))
    return found
