"""Shared fixtures."""

from __future__ import annotations

import os

import pytest

from g2rl.models import LoadedModel, load

os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def tiny() -> LoadedModel:
    """The built-in policy with its tokenizer; shared, so a test that trains takes a deep copy of the model."""
    return load("builtin:tiny", device="cpu")
