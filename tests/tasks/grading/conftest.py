"""The grader of the tests of misbehaviour, one for each file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from g2rl.tasks.grading.grader import Grader
from tests.tasks.grading.misbehaving import Misbehaving


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(Misbehaving(), workers=2, timeout_seconds=0.1, memory_mb=512) as shared:
        yield shared
