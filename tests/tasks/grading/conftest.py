"""The grader of the tests of misbehaviour, one for each file, and the processes of other ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from g2rl.tasks.grading import workers
from g2rl.tasks.grading.grader import Grader
from tests.tasks.grading.misbehaving import Misbehaving


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(Misbehaving(), workers=2, timeout_seconds=0.1, memory_mb=512) as shared:
        yield shared


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The processes of pools that a test makes; the pool of the file may be replacing one
    of its workers meanwhile."""
    light_process = workers.LightContext.Process
    processes: list[Any] = []

    class NotingContext(workers.LightContext):
        def Process(self, *arguments: Any, **named: Any) -> Any:
            process = light_process(*arguments, **named)
            processes.append(process)
            return process

    monkeypatch.setattr(workers, "LightContext", NotingContext)
    return processes
