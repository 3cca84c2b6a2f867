"""The engine that most tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from g2rl.engines.vllm import VllmEngine
from tests.vllm_cpu.tiny_engine import make_engine, make_policy


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def engine(request: pytest.FixtureRequest) -> Iterator[VllmEngine]:
    """An engine over random weights, pushed once; a test that changes them pushes again."""
    made = make_engine(make_policy(request.param))
    made.push_weights()
    yield made
    made.close()
