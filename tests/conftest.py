"""Shared fixtures."""

from __future__ import annotations

import os

import pytest
import torch

from g2rl.policy.loading import LoadedModel, load

os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
torch.set_num_threads(1)  # tensors are tiny: more threads only wait for each other


@pytest.fixture(scope="session")
def tiny() -> LoadedModel:
    """The built-in policy with its tokenizer, shared: a test that trains takes a deep copy of the
    model."""
    return load("builtin:tiny", device="cpu")
