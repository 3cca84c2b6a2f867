"""A task and verifiers of the user's own, right and wrong. Importable, so workers can load them."""

from __future__ import annotations

from typing import Any

from g2rl.tasks.benchmarks.benchmark import Benchmark
from g2rl.types import Problem, SamplingParams, Verdict


class Judge:
    """Right if the response holds the answer; fails as it is told."""

    def __init__(self, bounded: bool = True, fault: str = "") -> None:
        self.bounded, self.fault = bounded, fault

    def grade(self, completion: str, problem: Problem) -> Any:
        if self.fault == "raises":
            raise KeyError("my bug")
        if self.fault == "true":
            return True
        return Verdict(problem.answer in completion, completion, "string")

    def key(self, answer: str) -> Any:
        if self.fault == "key raises":
            raise KeyError("my bug")
        return 7 if self.fault == "key" else answer

    def equivalent(self, left: str, right: str) -> Any:
        if self.fault == "equivalent raises":
            raise KeyError("my bug")
        return 1 if self.fault == "equivalent" else left == right


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
