"""A full step with the vocabulary and width of Qwen3-1.7B, plain and sharded, within 20 GB of
memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.whole.parallel.twins import launch

LIMIT = 20e9  # bytes of one process, everything included


@pytest.mark.slow
def test_a_full_step_of_a_wide_model_fits(tmp_path: Path) -> None:
    found: dict[str, Any] = {}
    for name in ("large_plain", "large_sharded"):
        (tmp_path / name).mkdir()
        launch(name, tmp_path / name, size=1)
        found[name] = torch.load(tmp_path / name / "found.pt", weights_only=False)
        print(f"{name}: {found[name]['bytes'] / 1e9:.2f} GB, {found[name]['seconds']:.0f} s")
        assert found[name]["bytes"] < LIMIT
    plain, sharded = found.values()
    assert plain["responses"] == sharded["responses"]
    assert plain["metrics"] == pytest.approx(sharded["metrics"], abs=1e-4)
    torch.testing.assert_close(plain["features"], sharded["features"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(plain["after"], sharded["after"], atol=1e-3, rtol=0)
