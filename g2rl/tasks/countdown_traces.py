"""Written solutions for the warm start of the tiny policy: four styles, some of them wrong.

    direct  \\boxed{ 8 * 3 + 7 - 2 }
    calc    calc 8 * 3 = 24 , 7 - 2 = 5 , 24 + 5 = 29 so \\boxed{ 8 * 3 + 7 - 2 }
    back    back 29 = 24 + 5 , 24 = 8 * 3 , 5 = 7 - 2 so \\boxed{ 8 * 3 + 7 - 2 }
    try     try 8 - 3 = 5 , 5 * 7 = 35 , 35 - 2 = 33 off 4 no try 8 + 3 = 11 , 11 * 2 = 22 ,
            22 + 7 = 29 off 0 yes so \\boxed{ ( 8 + 3 ) * 2 + 7 }

so that the base policy is diverse and imperfect: what reinforcement learning then has to sort out.
    A
wrong trace ends in a derivation that misses the target; in the first three styles it claims
otherwise, in the fourth it gives up after an honest "no". An attempt says how far off it is before
its verdict: a policy this small learns to subtract long before it learns to tell equal numbers from
unequal ones. Failed attempts are near misses, the closest of a few random derivations: a policy
taught to try blindly does not aim at the target.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from g2rl.tasks.countdown import Step, draw_training, random_derivation, stream

STYLES = ("direct", "calc", "back", "try")
STYLE_ODDS = (0.15, 0.35, 0.25, 0.25)
WRONG_ODDS = 0.3
MAX_ATTEMPTS = 4
NEAREST_OF = 6  # random derivations of which a failed attempt is the closest to the target
_TRACE_STREAM = 0x77AC
_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2}


def expression_of(numbers: Sequence[int], steps: Sequence[Step]) -> str:
    """Write a derivation as one infix expression with the fewest parentheses, tokens spaced."""
    pool: list[tuple[int, str, int]] = [(n, str(n), 3) for n in numbers]
    for step in steps:
        parts = []
        for value in (step.left, step.right):
            index = next(i for i, item in enumerate(pool) if item[0] == value)
            parts.append(pool.pop(index))
        level = _PRECEDENCE[step.op]
        left = parts[0][1] if parts[0][2] >= level else f"( {parts[0][1]} )"
        # the right operand of - and / needs parentheses already at the same level
        tight = parts[1][2] > level or (parts[1][2] == level and step.op in "+*")
        right = parts[1][1] if tight else f"( {parts[1][1]} )"
        pool.append((step.result, f"{left} {step.op} {right}", level))
    return pool[0][1]


def forwards(steps: Sequence[Step]) -> str:
    return " , ".join(f"{s.left} {s.op} {s.right} = {s.result}" for s in steps)


def backwards(steps: Sequence[Step], target: int) -> str:
    claims = [target, *(s.result for s in reversed(steps[:-1]))]
    return " , ".join(
        f"{c} = {s.left} {s.op} {s.right}" for c, s in zip(claims, reversed(steps), strict=True)
    )


def near_miss(numbers: Sequence[int], target: int, rng: Random) -> list[Step]:
    """A derivation that does not reach the target: the closest of a few random ones."""
    found: list[list[Step]] = []
    while len(found) < NEAREST_OF:
        steps = random_derivation(numbers, rng)
        if steps and steps[-1].result != target:
            found.append(steps)
    return min(found, key=lambda steps: abs(steps[-1].result - target))


def write_trace(numbers: Sequence[int], steps: Sequence[Step], rng: Random) -> str:
    """One trace for a problem and a derivation that solves it, in a random style, perhaps wrong."""
    target = steps[-1].result
    style = rng.choices(STYLES, STYLE_ODDS)[0]
    final = near_miss(numbers, target, rng) if rng.random() < WRONG_ODDS else list(steps)
    box = f"\\boxed{{ {expression_of(numbers, final)} }}"
    if style == "direct":
        return box
    if style == "calc":
        return f"calc {forwards(final)} so {box}"
    if style == "back":
        return f"back {backwards(final, target)} so {box}"
    attempts = [near_miss(numbers, target, rng) for _ in range(rng.randrange(MAX_ATTEMPTS))] + [
        final
    ]
    return f"{' '.join(attempt(steps, target) for steps in attempts)} so {box}"


def attempt(steps: Sequence[Step], target: int) -> str:
    """One attempt with its distance to the target and its verdict, always honest."""
    distance = abs(steps[-1].result - target)
    return f"try {forwards(steps)} off {distance} {'no' if distance else 'yes'}"


def trace(seed: int, index: int, held_out: int) -> tuple[str, str]:
    """Prompt and trace number `index`; never of a held-out problem."""
    numbers, steps = draw_training(seed, index, held_out)
    rng = stream(_TRACE_STREAM, seed, index)
    prompt = f"use {' '.join(map(str, numbers))} make {steps[-1].result} :"
    return prompt, write_trace(numbers, steps, rng)
