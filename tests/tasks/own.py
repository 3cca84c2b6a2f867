"""A task and verifiers of the user's own, right and wrong. Importable, so workers can load them."""

from __future__ import annotations

from typing import Any

from g2rl.types import Problem, Verdict


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

    def key(self, answer: str) -> str:
        return answer

    def equivalent(self, left: str, right: str) -> bool:
        return left == right


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
