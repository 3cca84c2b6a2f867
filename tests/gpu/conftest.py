"""A GPU, or the reason why these tests are skipped; and the page of what was found on one."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.support import ROOT

PAGE = ROOT / "speed" / "GPU.md"


class Findings:
    """What the steps of the first half hour found, for the page."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, str]] = []
        self.texts: list[str] = []

    def add(self, step: str, expected: str, found: str) -> None:
        """One row of the page."""
        self.rows.append((step, expected, found))

    def text(self, text: str) -> None:
        """A passage below the table."""
        self.texts.append(text)

    def write(self, page: Path) -> None:
        """Write the page, if anything was found."""
        if not self.rows:
            return
        lines = [
            "# The first half hour on a GPU",
            "",
            f"Written by `make gpu` on {datetime.date.today()}; a missing step was skipped.",
            "",
            "| step | expected | found |",
            "|---|---|---|",
        ]
        for row in self.rows:
            lines.append("| " + " | ".join(row) + " |")
        page.write_text("\n".join([*lines, "", *self.texts]), encoding="utf-8")


@pytest.fixture(scope="session")
def gpu() -> torch.device:
    """The first CUDA device."""
    if not torch.cuda.is_available():
        pytest.skip(f"torch {torch.__version__} finds no CUDA device")
    return torch.device("cuda")


@pytest.fixture(scope="session")
def findings(gpu: torch.device) -> Iterator[Findings]:
    """Collects what was found on a GPU, and writes speed/GPU.md at the end."""
    found = Findings()
    yield found
    found.write(PAGE)
