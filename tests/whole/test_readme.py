"""What the README shows works as shown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from g2rl.cli.config.choices import choices
from g2rl.cli.config.mistakes import groups
from g2rl.types import GroupBatch

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")


def test_the_signal_of_25_lines_is_a_signal() -> None:
    """r~ = r + weight * (1 - minmax(length)) on correct responses, by hand."""
    [code] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 25
    scope: dict[str, Any] = {}
    exec(code, scope)
    batch = GroupBatch(
        rewards_PG=torch.tensor([[1.0, 1.0, -1.0]]),
        correct_PG=torch.tensor([[True, True, False]]),
        lengths_PG=torch.tensor([[10, 30, 20]]),
        entropy_PG=torch.zeros(1, 3),
    )
    shaped = scope["Brevity"](weight=0.5)(batch)
    assert shaped.rewards_PG.tolist() == [[1.5, 1.0, -1.0]]
    assert shaped.diagnostics["brevity"].shape == (1, 3)


def test_every_choice_that_is_named_exists() -> None:
    for group, choice in re.findall(r"\b(\w+)=(\w+)", README):
        if group in groups() and (group, choice) != ("exploration", "brevity"):
            assert choice in choices(group), f"{group}={choice}"


def test_every_file_that_is_linked_exists() -> None:
    root = Path(__file__).resolve().parents[2]
    for target in re.findall(r"\]\(((?!http)[^)#]+)", README):
        assert (root / target).exists(), target
