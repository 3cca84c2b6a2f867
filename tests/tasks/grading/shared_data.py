"""Access to the data beside the repository (`../shared/data`); tests skip cleanly where it is
absent."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support import ROOT

FOLDER = ROOT.parent / "shared" / "data"


def rows(name: str) -> list[dict[str, Any]]:
    """The rows of a data set, or a skipped test."""
    path = FOLDER / f"{name}.jsonl"
    if not path.exists():
        pytest.skip(f"no ../shared/data/{name}.jsonl beside the repository")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
