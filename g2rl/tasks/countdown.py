"""Countdown: reach the target with the given numbers, each used exactly once.

An example row: numbers (8, 3, 7, 2), target 29, prompt ``use 8 3 7 2 make 29 :``, one right answer
``\\boxed{ 8 * 3 + 7 - 2 }``. Numbers are 1-10, three or four of them with equal odds; targets are
10-60, come from a random derivation whose intermediate values stay in 1-60 with exact division, and
are none of the given numbers. So every problem is solvable, and most have several solutions.

Problem number i of a stream is a function of (seed, i) alone. Held-out problems come from a stream
of their own, and no training problem shares the multiset of numbers and the target of a held-out
one.
"""

from __future__ import annotations

import string
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random

from g2rl.tasks.countdown_grammar import GrammarError, parse
from g2rl.types import Problem, Verdict

SMALLEST_TARGET, LARGEST_VALUE = 10, 60
LARGEST_NUMBER = 10
TINY_TEMPLATE = "use $numbers make $target :"
_HELD_OUT_STREAM, _TRAIN_STREAM = 0xE7A1, 0x7A1B
_OPERATIONS = "+-*/"


@dataclass(slots=True, frozen=True)
class Step:
    """One combination of a derivation: ``left op right = result``."""

    left: int
    op: str
    right: int
    result: int


def combine(left: int, op: str, right: int) -> int | None:
    """The value of one step, or None where it leaves 1..60 or division is not exact."""
    if op == "/":
        return left // right if left % right == 0 else None

    # nothing may leave the range on the way
    result = {"+": left + right, "-": left - right, "*": left * right}[op]
    return result if 1 <= result <= LARGEST_VALUE else None


def stream(*key: int) -> Random:
    """A random stream named by its key (string seeds are hashed by SHA-512: the same on every
    machine)."""
    return Random("/".join(map(str, key)))


def random_derivation(numbers: Sequence[int], rng: Random) -> list[Step] | None:
    """Combine random pairs with random operations until one value is left; None where a step
    fails."""
    pool = list(numbers)
    steps: list[Step] = []
    while len(pool) > 1:
        # two numbers, in random order
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
    """Numbers and a solving derivation for problem `index` of the held-out or the training
    stream."""
    rng = stream(kind, seed, index, attempt)
    while True:
        # until a derivation ends in a target that is not given away
        numbers = [rng.randint(1, LARGEST_NUMBER) for _ in range(rng.randint(3, 4))]
        steps = random_derivation(numbers, rng)
        if steps and steps[-1].result >= SMALLEST_TARGET and steps[-1].result not in numbers:
            return numbers, steps


def signature(numbers: Sequence[int], target: int) -> tuple[int, ...]:
    """What makes two problems the same: the multiset of numbers and the target."""
    return (target, *sorted(numbers))


@lru_cache(maxsize=8)
def _held_out(count: int) -> tuple[tuple[tuple[int, ...], int], ...]:
    rows: list[tuple[tuple[int, ...], int]] = []
    seen: set[tuple[int, ...]] = set()
    index = 0
    while len(rows) < count:
        numbers, steps = draw(_HELD_OUT_STREAM, 0, index)
        index += 1

        # each problem once
        name = signature(numbers, steps[-1].result)
        if name not in seen:
            seen.add(name)
            rows.append((tuple(numbers), steps[-1].result))
    return tuple(rows)


@lru_cache(maxsize=8)
def held_out_signatures(count: int) -> frozenset[tuple[int, ...]]:
    """Signatures of the first `count` held-out problems, which training must avoid."""
    return frozenset(signature(numbers, target) for numbers, target in _held_out(count))


def draw_training(seed: int, index: int, held_out: int) -> tuple[list[int], list[Step]]:
    """Training problem `index` of the stream `seed`; redrawn while it is a held-out one."""
    avoided = held_out_signatures(held_out)
    attempt = 0
    while True:
        numbers, steps = draw(_TRAIN_STREAM, seed, index, attempt)
        if signature(numbers, steps[-1].result) not in avoided:
            return numbers, steps
        attempt += 1


def _problem(id_: str, numbers: Sequence[int], target: int, template: str) -> Problem:
    text = string.Template(template).substitute(numbers=" ".join(map(str, numbers)), target=target)
    return Problem(id_, text, str(target), {"numbers": list(numbers), "target": target})


def held_out_problems(count: int, template: str = TINY_TEMPLATE) -> list[Problem]:
    """The first `count` held-out problems, the same in every run."""
    problems: list[Problem] = []
    for i, (numbers, target) in enumerate(_held_out(count)):
        problems.append(_problem(f"countdown/heldout/{i}", numbers, target, template))
    return problems


class CountdownVerifier:
    """Right when the last ``\\boxed{ }`` uses each number once and equals the target."""

    bounded = True

    def grade(self, completion: str, problem: Problem) -> Verdict:
        started = time.perf_counter()
        correct, answer, route = self._judge(completion, problem)
        return Verdict(correct, answer, route, time.perf_counter() - started)

    def _judge(self, completion: str, problem: Problem) -> tuple[bool, str | None, str]:
        # the last box
        start = completion.rfind("\\boxed{")
        end = completion.find("}", start)
        if start < 0 or end < 0:
            return False, None, "unparsed"

        # what stands in it, by our own parser
        try:
            expression = parse(completion[start + len("\\boxed{") : end])
        except GrammarError:
            return False, None, "unparsed"

        # every number once, and the target
        right_numbers = expression.numbers == tuple(sorted(problem.meta["numbers"]))
        correct = right_numbers and expression.value == problem.meta["target"]
        return correct, expression.canonical, "expression"

    def key(self, answer: str) -> str:
        """Answers are already canonical expressions."""
        return answer

    def equivalent(self, left: str, right: str) -> bool:
        return left == right


class Countdown:
    """The Countdown task as an endless stream.

    Args:
        template: prompt with ``$numbers`` and ``$target``; the default speaks the tiny policy's
            vocabulary.
        held_out: number of held-out problems that training must never contain.
    """

    name = "countdown"

    def __init__(self, template: str = TINY_TEMPLATE, held_out: int = 512) -> None:
        # a template needs both
        missing = [field for field in ("$numbers", "$target") if field not in template]
        if missing:
            raise ValueError(f"task.template lacks {' and '.join(missing)}: {template!r}")
        self.template = template
        self.held_out = held_out
        self.verifier = CountdownVerifier()

    def may_draw(self, problem: Problem) -> bool:
        if "numbers" not in problem.meta:
            return False
        name = signature(problem.meta["numbers"], problem.meta["target"])
        return name not in held_out_signatures(self.held_out)

    def batch(self, seed: int, start: int, size: int) -> list[Problem]:
        problems: list[Problem] = []
        for index in range(start, start + size):
            numbers, steps = draw_training(seed, index, self.held_out)
            id_ = f"countdown/train/{seed}/{index}"
            problems.append(_problem(id_, numbers, steps[-1].result, self.template))
        return problems
