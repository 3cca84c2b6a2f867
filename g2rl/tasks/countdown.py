"""Countdown: reach the target with the given numbers, each used exactly once.

An example: numbers (8, 3, 7, 2), target 29, prompt ``use 8 3 7 2 make 29 :``, and one right answer
``\\boxed{ 8 * 3 + 7 - 2 }``. A problem has three or four numbers, with equal odds, from 1 to 10.
Its target, from 10 to 60, comes from a random derivation whose values stay in 1 to 60 and whose
divisions are exact, and is none of the numbers. So every problem can be solved, and most have
several solutions.

Problem number i of a stream is a function of (seed, i) alone. Held-out problems come from a stream
of their own, and no training problem shares both numbers and target with a held-out one.
"""

from __future__ import annotations

import string
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Any

from g2rl.tasks.countdown_grammar import GrammarError, parse
from g2rl.tasks.streams import stream
from g2rl.types import Problem, Verdict

SMALLEST_TARGET, LARGEST_VALUE = 10, 60
LARGEST_NUMBER = 10
TINY_TEMPLATE = "use $numbers make $target :"
"""The prompt in the words of the tiny policy."""

_HELD_OUT_STREAM, _TRAIN_STREAM = 0xE7A1, 0x7A1B  # kinds of random streams
_OPERATIONS = "+-*/"


@dataclass(slots=True, frozen=True)
class Step:
    """One combination of a derivation: ``left op right = result``."""

    left: int
    op: str
    right: int
    result: int


def combine(left: int, op: str, right: int) -> int | None:
    """The value of one step, or None if it is not in 1 to 60 or a division is not exact."""
    if op == "/":
        return left // right if left % right == 0 else None

    result = {"+": left + right, "-": left - right, "*": left * right}[op]
    return result if 1 <= result <= LARGEST_VALUE else None


def random_derivation(numbers: Sequence[int], rng: Random) -> list[Step] | None:
    """Combine random pairs by random operations until one value is left.

    None if a step has no value (see `combine`).
    """
    pool = list(numbers)
    steps: list[Step] = []
    while len(pool) > 1:
        # two numbers are taken, in random order
        left = pool.pop(rng.randrange(len(pool)))
        right = pool.pop(rng.randrange(len(pool)))
        op = _OPERATIONS[rng.randrange(4)]

        # their result takes their place
        result = combine(left, op, right)
        if result is None:
            return None
        steps.append(Step(left, op, right, result))
        pool.append(result)
    return steps


def draw(kind: int, seed: int, index: int, attempt: int = 0) -> tuple[list[int], list[Step]]:
    """The numbers of a problem, and a derivation that solves it. Its last result is the target.

    Args:
        kind: of the stream, held-out or training.
        seed: of the stream.
        index: of the problem in its stream.
        attempt: another one gives another problem with the same index.
    """
    rng = stream(kind, seed, index, attempt)
    while True:
        numbers = [rng.randint(1, LARGEST_NUMBER) for _ in range(rng.randint(3, 4))]
        steps = random_derivation(numbers, rng)

        # a target that is one of the numbers would be given away
        if steps and steps[-1].result >= SMALLEST_TARGET and steps[-1].result not in numbers:
            return numbers, steps


def signature(numbers: Sequence[int], target: int) -> tuple[int, ...]:
    """What makes two problems the same: the multiset of numbers and the target."""
    return (target, *sorted(numbers))


@lru_cache(maxsize=8)
def _held_out(count: int) -> tuple[tuple[tuple[int, ...], int], ...]:
    """(numbers, target) of the first `count` held-out problems, each different from all others."""
    problems: list[tuple[tuple[int, ...], int]] = []
    seen: set[tuple[int, ...]] = set()
    index = 0
    while len(problems) < count:
        numbers, steps = draw(_HELD_OUT_STREAM, 0, index)
        index += 1

        # the stream repeats some problems: each is held out once
        target = steps[-1].result
        if signature(numbers, target) not in seen:
            seen.add(signature(numbers, target))
            problems.append((tuple(numbers), target))
    return tuple(problems)


@lru_cache(maxsize=8)
def held_out_signatures(count: int) -> frozenset[tuple[int, ...]]:
    """Signatures of the first `count` held-out problems, which training must avoid."""
    return frozenset(signature(numbers, target) for numbers, target in _held_out(count))


def draw_training(seed: int, index: int, held_out: int) -> tuple[list[int], list[Step]]:
    """Training problem `index` of the stream `seed`, as (numbers, derivation).

    It is drawn again while it is one of the first `held_out` held-out problems.
    """
    avoided = held_out_signatures(held_out)
    attempt = 0
    while True:
        numbers, steps = draw(_TRAIN_STREAM, seed, index, attempt)
        if signature(numbers, steps[-1].result) not in avoided:
            return numbers, steps
        attempt += 1


def problem_of(
    id_: str,
    numbers: Sequence[int],
    target: int,
    template: str = TINY_TEMPLATE,
    more: Mapping[str, Any] | None = None,
) -> Problem:
    """The record of a problem; numbers and target travel with it for the verifier.

    Args:
        id_: of the problem.
        numbers, target: what is asked.
        template: as in `Countdown`.
        more: further data for `meta`.
    """
    prompt = string.Template(template).substitute(
        numbers=" ".join(map(str, numbers)), target=target
    )
    meta = {"numbers": list(numbers), "target": target, **(more or {})}
    return Problem(id_, prompt, str(target), meta)


def held_out_problems(count: int, template: str = TINY_TEMPLATE) -> list[Problem]:
    """The first `count` held-out problems, the same in every run."""
    problems: list[Problem] = []
    for index, (numbers, target) in enumerate(_held_out(count)):
        problems.append(problem_of(f"countdown/heldout/{index}", numbers, target, template))
    return problems


class CountdownVerifier:
    """An answer is right if the last ``\\boxed{ }`` uses each number once and equals the target."""

    bounded = True

    def grade(self, completion: str, problem: Problem) -> Verdict:
        """Judge one completion. The verdict's answer is the canonical form of the expression."""
        start = time.perf_counter()
        correct, answer, route = self._judge(completion, problem)
        return Verdict(correct, answer, route, time.perf_counter() - start)

    def _judge(self, completion: str, problem: Problem) -> tuple[bool, str | None, str]:
        """(correct, answer, route) of a completion."""
        # find the last box
        start = completion.rfind("\\boxed{")
        end = completion.find("}", start)
        if start < 0 or end < 0:
            return False, None, "unparsed"

        # read what it holds by our own parser, which evaluates nothing
        try:
            expression = parse(completion[start + len("\\boxed{") : end])
        except GrammarError:
            return False, None, "unparsed"

        # the right value does not help if a number is left out or used twice
        uses_numbers = expression.numbers == tuple(sorted(problem.meta["numbers"]))
        correct = uses_numbers and expression.value == problem.meta["target"]
        return correct, expression.canonical, "expression"

    def key(self, answer: str) -> str:
        """The answer itself, which is already a canonical expression."""
        return answer

    def equivalent(self, left: str, right: str) -> bool:
        """Whether two canonical expressions are the same."""
        return left == right


class Countdown:
    """The Countdown task as an endless stream.

    Args:
        template: prompt with ``$numbers`` and ``$target``. The default keeps to the words of the
            tiny policy.
        held_out: the first so many held-out problems never occur in training.

    Raises:
        ValueError: the template lacks one of the two.
    """

    name = "countdown"

    def __init__(self, template: str = TINY_TEMPLATE, held_out: int = 512) -> None:
        missing = [field for field in ("$numbers", "$target") if field not in template]
        if missing:
            raise ValueError(f"task.template lacks {' and '.join(missing)}: {template!r}")

        self.template = template
        self.held_out = held_out
        self.verifier = CountdownVerifier()

    def may_draw(self, problem: Problem) -> bool:
        """Whether training could meet a problem: any Countdown problem that is not held out."""
        if "numbers" not in problem.meta:
            return False
        problem_signature = signature(problem.meta["numbers"], problem.meta["target"])
        return problem_signature not in held_out_signatures(self.held_out)

    def batch(self, seed: int, start: int, size: int) -> list[Problem]:
        """Problems number `start` to `start + size` of the stream with this seed."""
        problems: list[Problem] = []
        for index in range(start, start + size):
            numbers, steps = draw_training(seed, index, self.held_out)
            id_ = f"countdown/train/{seed}/{index}"
            problems.append(problem_of(id_, numbers, steps[-1].result, self.template))
        return problems
