"""TODO docstring."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

NOT_AN_ARM = (
    "seed",
    "resume",
    "tracking",
    "verify",
    "health",
    "plan",
    "data_dir",
    "trainer.keep_checkpoints",
    "trainer.keep_best",
    "trainer.checkpoint_every",
    "parallel",
)
"""Settings that do not change what a run computes, or that make it another seed of the same arm."""


FREE_TO_CHANGE = (
    "resume",
    "tracking",
    "verify",
    "health",
    "trainer.keep_checkpoints",
    "trainer.keep_best",
    "trainer.checkpoint_every",
    "plan",
    "parallel",
)
"""Settings that may differ when a run is continued; they do not matter to its result."""


def differences(before: Any, after: Any, free: Sequence[str] = (), key: str = "") -> list[str]:
    """Settings that differ and matter to the result, as "key: old -> new"."""
    if key and any(key == name or key.startswith(f"{name}.") for name in free):
        return []
    if isinstance(before, dict) and isinstance(after, dict):
        found = []
        for name in dict.fromkeys([*before, *after]):
            path = f"{key}.{name}" if key else str(name)
            found += differences(before.get(name), after.get(name), free, path)
        return found
    return [] if before == after else [f"{key}: {before} -> {after}"]
