"""How the policies that ship with g2rl are made from nothing: words, sizes and demonstrations.

`g2rl/cli/warmstart.py` cooks by these recipes; `experiments/lab/README.md` and
`experiments/embedded_default/README.md` say how the policies behave.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from g2rl.tasks import countdown_policy, countdown_traces, detour, detour_traces, forked_skills

HELD_OUT = 512
"""Held-out problems that never occur in a demonstration: all that any benchmark uses."""


@dataclass(slots=True, frozen=True)
class Demonstration:
    """A prompt and what the policy shall answer, as words: ``Demonstration("walls b1 :", "R D")``.

    The end of the response is not written.
    """

    prompt: str
    completion: str
    given: int = 0
    """So many first words of the completion are given like the prompt and are not learned."""


@dataclass(slots=True, frozen=True)
class Recipe:
    """What a warm start needs; the numbers are those with which the shipped policy was made."""

    words: list[str]
    """The vocabulary besides the special tokens."""
    demonstrate: Callable[[int, int], Demonstration]
    """Demonstration number i of the stream with a seed, from (seed, i)."""
    typical_tokens: int
    """Tokens of a completion; only sets the scale of the loss."""
    width: int
    inner_width: int
    steps: int
    batch: int
    """Demonstrations a step."""
    lr: float
    """Peak learning rate."""
    seed: int


# demonstrations of each task, in one form


def _countdown(seed: int, index: int) -> Demonstration:
    return Demonstration(*countdown_traces.trace(seed, index, HELD_OUT))


def _detour(seed: int, index: int) -> Demonstration:
    return Demonstration(*detour_traces.trace(seed, index, HELD_OUT))


def _forked_skills(seed: int, index: int) -> Demonstration:
    return Demonstration(*forked_skills.trace(seed, index))


RECIPES = {
    "countdown": Recipe(
        words=countdown_policy.vocabulary(),
        demonstrate=_countdown,
        typical_tokens=30,
        width=countdown_policy.WIDTH,
        inner_width=countdown_policy.INNER_WIDTH,
        steps=2400,
        batch=96,
        lr=3e-3,
        seed=1,
    ),
    "detour": Recipe(
        words=detour.vocabulary(),
        demonstrate=_detour,
        typical_tokens=11,
        width=96,
        inner_width=192,
        steps=1500,
        batch=128,
        lr=3e-3,
        seed=1,
    ),
    "forked_skills": Recipe(
        words=forked_skills.vocabulary(),
        demonstrate=_forked_skills,
        typical_tokens=5,
        width=96,
        inner_width=192,
        steps=3000,
        batch=256,
        lr=3e-3,
        seed=1,
    ),
}
"""By the name of the task. The policy of `countdown` is the one called tiny."""
