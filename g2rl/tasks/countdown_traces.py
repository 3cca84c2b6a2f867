"""Written solutions for the warm start of the tiny policy: four styles, some of them wrong.

    direct  \\boxed{ 8 * 3 + 7 - 2 }
    calc    calc 8 * 3 = 24 , 7 - 2 = 5 , 24 + 5 = 29 so \\boxed{ 8 * 3 + 7 - 2 }
    back    back 29 = 24 + 5 , 24 = 8 * 3 , 5 = 7 - 2 so \\boxed{ 8 * 3 + 7 - 2 }
    try     try 8 - 3 = 5 , 5 * 7 = 35 , 35 - 2 = 33 off 4 no try 8 + 3 = 11 , 11 * 2 = 22 ,
            22 + 7 = 29 off 0 yes so \\boxed{ ( 8 + 3 ) * 2 + 7 }

They make the base policy diverse and imperfect, which reinforcement learning then has to sort out.

A wrong trace ends in a derivation that misses the target. In the first three styles it claims
otherwise; in the fourth it gives up after an honest "no". An attempt says how far off it is before
its verdict, because a policy this small learns to subtract long before it learns to tell equal
numbers from unequal ones. Failed attempts are near misses, the closest of a few random derivations,
because a policy that is taught to try blindly does not aim at the target.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from g2rl.tasks.countdown import Step, draw_training, random_derivation
from g2rl.tasks.streams import stream

STYLES = ("direct", "calc", "back", "try")
STYLE_ODDS = (0.15, 0.35, 0.25, 0.25)
WRONG_ODDS = 0.3
MAX_ATTEMPTS = 4
NEAREST_OF = 6  # random derivations of which a failed attempt is the closest to the target

_TRACE_STREAM = 0x77AC  # a kind of random stream, as in `countdown`
_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2}
_NUMBER_PRECEDENCE = 3  # a number never needs parentheses


def expression_of(numbers: Sequence[int], steps: Sequence[Step]) -> str:
    """Write a derivation as one infix expression with the fewest parentheses, tokens spaced."""
    # (value, text, precedence) of what is still to be combined
    pool = [(number, str(number), _NUMBER_PRECEDENCE) for number in numbers]
    for step in steps:
        precedence = _PRECEDENCE[step.op]
        left, left_precedence = _take(pool, step.left)
        right, right_precedence = _take(pool, step.right)

        # parentheses; the right operand of - and / needs them already at the same precedence
        if left_precedence < precedence:
            left = f"( {left} )"
        if right_precedence < precedence or (right_precedence == precedence and step.op in "-/"):
            right = f"( {right} )"
        pool.append((step.result, f"{left} {step.op} {right}", precedence))
    return pool[0][1]


def _take(pool: list[tuple[int, str, int]], value: int) -> tuple[str, int]:
    """Remove the first expression with this value from the pool: (text, precedence)."""
    index = next(index for index, expression in enumerate(pool) if expression[0] == value)
    _, text, precedence = pool.pop(index)
    return text, precedence


def forwards(steps: Sequence[Step]) -> str:
    """A derivation from the numbers to the result: ``8 * 3 = 24 , 24 + 5 = 29``."""
    return " , ".join(f"{step.left} {step.op} {step.right} = {step.result}" for step in steps)


def backwards(steps: Sequence[Step], target: int) -> str:
    """A derivation from the target to the numbers: ``29 = 24 + 5 , 24 = 8 * 3``.

    The last step is claimed to give the target, whether it does or not.
    """
    last = steps[-1]
    equations = [f"{target} = {last.left} {last.op} {last.right}"]
    for step in reversed(steps[:-1]):
        equations.append(f"{step.result} = {step.left} {step.op} {step.right}")
    return " , ".join(equations)


def near_miss(numbers: Sequence[int], target: int, rng: Random) -> list[Step]:
    """A derivation that does not reach the target: the closest of a few random ones."""
    misses: list[list[Step]] = []
    while len(misses) < NEAREST_OF:
        steps = random_derivation(numbers, rng)
        if steps and steps[-1].result != target:
            misses.append(steps)
    return min(misses, key=lambda steps: abs(steps[-1].result - target))


def write_trace(numbers: Sequence[int], steps: Sequence[Step], rng: Random) -> str:
    """One trace for a problem and a derivation that solves it, in a random style, perhaps wrong."""
    target = steps[-1].result
    style = rng.choices(STYLES, STYLE_ODDS)[0]

    # the derivation that the box holds
    final = list(steps)
    if rng.random() < WRONG_ODDS:
        final = near_miss(numbers, target, rng)
    box = f"\\boxed{{ {expression_of(numbers, final)} }}"

    # what is written before the box
    if style == "direct":
        return box
    if style == "calc":
        return f"calc {forwards(final)} so {box}"
    if style == "back":
        return f"back {backwards(final, target)} so {box}"

    # failed attempts, and then the final one
    attempts = []
    for _ in range(rng.randrange(MAX_ATTEMPTS)):
        attempts.append(attempt(near_miss(numbers, target, rng), target))
    attempts.append(attempt(final, target))
    return f"{' '.join(attempts)} so {box}"


def attempt(steps: Sequence[Step], target: int) -> str:
    """One attempt with its distance to the target and its verdict, always honest."""
    distance = abs(steps[-1].result - target)
    verdict = "no" if distance else "yes"
    return f"try {forwards(steps)} off {distance} {verdict}"


def trace(seed: int, index: int, held_out: int) -> tuple[str, str]:
    """Prompt and trace number `index`; never of one of the first `held_out` held-out problems."""
    numbers, steps = draw_training(seed, index, held_out)
    rng = stream(_TRACE_STREAM, seed, index)
    prompt = f"use {' '.join(map(str, numbers))} make {steps[-1].result} :"
    return prompt, write_trace(numbers, steps, rng)
