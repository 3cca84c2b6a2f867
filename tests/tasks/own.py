"""A task and verifiers of the user's own, right and wrong. Importable, so workers can load them."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np

from g2rl.tasks.benchmarks.benchmark import Benchmark
from g2rl.tasks.grading.staged import PENDING
from g2rl.types import Problem, SamplingParams, Verdict

FIELDS: dict[str, dict[str, Any]] = {
    "correct": {"correct": np.bool_(True)},
    "word": {"correct": "no"},
    "answer": {"answer": 13},
    "route": {"route": None},
    "graded": {"graded": np.float32(0.5)},
    "nan": {"graded": math.nan},
    "huge": {"graded": 10**400},
}
"""Fields of a verdict that cannot be, by the fault that gives them."""


AS_THE_RESPONSE_SAYS = "as the response says"
"""The fault of a judge that has the one which a response names."""


class Judge:
    """Right if the response holds the answer; fails as it is told."""

    def __init__(self, bounded: bool = True, fault: str = "") -> None:
        self.bounded, self.fault = bounded, fault

    def grade(self, completion: str, problem: Problem) -> Any:
        fault = completion if self.fault == AS_THE_RESPONSE_SAYS else self.fault
        if fault == "raises":
            raise KeyError("my bug")
        if fault == "true":
            return True
        if fault == "exits":
            raise SystemExit(0)
        if fault in FIELDS:
            return Verdict(**{"correct": True, "answer": "1", "route": "-", **FIELDS[fault]})
        return Verdict(problem.answer in completion, completion, "string")

    def key(self, answer: str) -> str:
        if self.fault == "key":
            raise KeyError("my bug")
        return cast("str", 1) if self.fault == "number" else answer

    def equivalent(self, left: str, right: str) -> bool:
        if self.fault == "equivalent":
            raise KeyError("my bug")
        return cast("bool", np.bool_(left.casefold() == right.casefold()))


class StagedJudge(Judge):
    """Leaves every answer and every comparison open; then it fails as it is told."""

    def __init__(self, fault: str = "") -> None:
        super().__init__(bounded=False, fault=fault)

    def screen(self, completion: str, problem: Problem) -> Verdict:
        return Verdict(False, completion, PENDING)

    def decide(self, answer: str, gold: str) -> Any:
        if self.fault == "decides":
            raise KeyError("my bug")
        return {"none": None, "number": (1, "string"), "text": "right"}.get(
            self.fault, (answer == gold, "string")
        )

    def screen_equivalent(self, left: str, right: str) -> bool | None:
        if self.fault == "screens":
            raise KeyError("my bug")
        return None


def own_benchmark(fault: str = "") -> Any:
    """A benchmark whose verifier lacks something, or something else."""
    if fault == "none":
        return [Problem("p", "1 :", "1")]
    judge = Judge()
    if fault:
        setattr(judge, fault, None)
    params = SamplingParams(1.0, 1.0, 0, 4)
    problems = [Problem("p", "1 :", "1")]
    return Benchmark("own", problems, judge, samples=1, ks=[1], params=params)


class Own:
    """Numbers to repeat."""

    name = "own"

    def __init__(self, gives: Any = None) -> None:
        self.gives = gives
        self.verifier = Judge()

    def batch(self, seed: int, start: int, size: int) -> Any:
        if self.gives is not None:
            return self.gives
        return [Problem(str(n), f"{n} :", str(n)) for n in range(start, start + size)]

    def may_draw(self, problem: Problem) -> bool:
        return False
