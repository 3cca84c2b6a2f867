"""Batches of hand-made groups, for the tests of signals."""

from __future__ import annotations

from typing import Any

import torch

from g2rl.types import GroupBatch


def batch_of(verdicts: list[list[int]], **fields: Any) -> GroupBatch:
    """A batch with these verdicts (1 or 0), rewards of +1 and -1, and any further fields."""
    correct_PG = torch.tensor(verdicts) > 0
    common = {"lengths_PG": torch.ones(correct_PG.shape, dtype=torch.int64), "step": 1}
    return GroupBatch(
        rewards_PG=correct_PG.float() * 2 - 1, correct_PG=correct_PG, **{**common, **fields}
    )
