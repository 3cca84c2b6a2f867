"""Forked skills: the first word chooses a strategy, and some strategies that work are rare.

A problem belongs to one of eight families and gives three digits. The response names one of 64
strategies, carries it out on the digits, and is right if the family accepts the strategy and the
work is right. An example: prompt ``f6 4 7 1 :`` and the right answer ``s10 4 7 1``.

Strategy k adds k to every digit modulo 10; those from 32 on also write the digits backwards. The
policy that ships with g2rl does the work of every strategy well. It chooses the strategy alike for
all families, with these probabilities:

    strategies   each     all     families that accept one of them
    s0 to s3     18 %     72 %    f0 to f5: two of the four, a different pair each
    s4 to s11    0.2 %    1.6 %   f0 to f7: each one of its own
    others       0.51 %   26.4 %  none

So f6 and f7, the *hard* families, are solved by a rare strategy only. Whoever learns the other
families first takes what little probability the rare strategies have, because the choice is shared.
Two meanings of exploration are apart here: *keeping* both common strategies of a family, and
*discovering* a rare one.

The answer of a verdict is the strategy, so distinct right answers are counted exactly. Training
visits a fixed list of problems; the held-out ones ask other digits of the same families.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations

from g2rl.tasks.streams import stream
from g2rl.tasks.task import stream_from_rows
from g2rl.types import Problem, Verdict

STRATEGIES, COMMON, FAMILIES = 64, 4, 8
EASY_FAMILIES = 6
DIGITS = 3
COMMON_MASS, RARE_MASS = 0.18, 0.002
"""Probability of one common and of one rare strategy under the shipped policy."""
PROBLEMS_PER_FAMILY = 32
"""Training problems, and held-out problems, of each family."""

_HELD_OUT_STREAM, _TRAIN_STREAM = 0xF5E7, 0xF57A  # kinds of random streams
_MAX_CHARACTERS = 64


def vocabulary() -> list[str]:
    """The words of prompts and responses."""
    families = [f"f{family}" for family in range(FAMILIES)]
    strategies = [f"s{strategy}" for strategy in range(STRATEGIES)]
    return [":", *families, *strategies, *(str(digit) for digit in range(10))]


def accepted(family: int) -> tuple[int, ...]:
    """The strategies that solve the problems of a family, the rare one last.

    Family i of the first six accepts pair number i of the four common strategies.
    """
    # the hard families accept nothing else
    rare = COMMON + family
    if family >= EASY_FAMILIES:
        return (rare,)
    pair = list(combinations(range(COMMON), 2))[family]
    return (*pair, rare)


def strategy_odds() -> list[float]:
    """The probability of each strategy in the demonstrations of the warm start."""
    # what is left is shared by the strategies that no family accepts
    idle = STRATEGIES - COMMON - FAMILIES
    idle_mass = 1 - COMMON * COMMON_MASS - FAMILIES * RARE_MASS
    return [COMMON_MASS] * COMMON + [RARE_MASS] * FAMILIES + [idle_mass / idle] * idle


def carried_out(strategy: int, digits: Sequence[int]) -> list[int]:
    """What a strategy makes of the digits: ``carried_out(12, [4, 7, 1])`` is [6, 9, 3]."""
    # the work differs from strategy to strategy, so that gradients can tell them apart
    derived = [(digit + strategy) % 10 for digit in digits]
    if strategy >= STRATEGIES // 2:
        derived.reverse()
    return derived


@lru_cache(maxsize=1)
def _digits_of_problems() -> tuple[tuple[tuple[tuple[int, ...], ...], ...], ...]:
    """Digits of the problems: index 0 for training and 1 for held out, then by family."""
    held_out: list[tuple[tuple[int, ...], ...]] = []
    training: list[tuple[tuple[int, ...], ...]] = []
    for family in range(FAMILIES):
        # held-out digits first, so that they do not depend on those of training
        avoided: set[tuple[int, ...]] = set()
        held_out.append(_different_digits(_HELD_OUT_STREAM, family, avoided))
        training.append(_different_digits(_TRAIN_STREAM, family, avoided))
    return tuple(training), tuple(held_out)


def _different_digits(
    kind: int, family: int, avoided: set[tuple[int, ...]]
) -> tuple[tuple[int, ...], ...]:
    """Digits of the problems of one family, none of them in `avoided`, to which they are added."""
    # drawn one after the other; what is taken already is drawn again
    rng = stream(kind, family)
    chosen: list[tuple[int, ...]] = []
    while len(chosen) < PROBLEMS_PER_FAMILY:
        digits = tuple(rng.randrange(10) for _ in range(DIGITS))
        if digits not in avoided:
            avoided.add(digits)
            chosen.append(digits)
    return tuple(chosen)


def is_held_out(family: int, digits: Sequence[int]) -> bool:
    """Whether a held-out problem asks these digits of this family."""
    return tuple(digits) in _digits_of_problems()[1][family]


def prompt_of(family: int, digits: Sequence[int]) -> str:
    """The prompt: ``f6 4 7 1 :``."""
    return f"f{family} {' '.join(map(str, digits))} :"


def problems(held_out: bool) -> list[Problem]:
    """All training problems or all held-out problems; families take turns.

    The gold answer is the first accepted strategy; all of them travel with the problem.
    """
    kind, digits_of_family = "train", _digits_of_problems()[0]
    if held_out:
        kind, digits_of_family = "heldout", _digits_of_problems()[1]

    # families take turns, so that any first part of the list is balanced
    listed: list[Problem] = []
    for index in range(PROBLEMS_PER_FAMILY):
        for family in range(FAMILIES):
            digits = digits_of_family[family][index]
            meta = {
                "family": family,
                "digits": list(digits),
                "accepted": list(accepted(family)),
                "group": "easy" if family < EASY_FAMILIES else "hard",
            }
            id_ = f"forked_skills/{kind}/f{family}/{index}"
            gold = f"s{accepted(family)[0]}"
            listed.append(Problem(id_, prompt_of(family, digits), gold, meta))
    return listed


class ForkedSkillsVerifier:
    """Right if the family accepts the strategy and the strategy is carried out without error."""

    bounded = True

    def grade(self, completion: str, problem: Problem) -> Verdict:
        """Judge one completion. The verdict's answer is the strategy, such as ``s10``."""
        # the first word decides what the others have to be
        start = time.perf_counter()
        words = completion[: _MAX_CHARACTERS + 1].split()
        strategy = _strategy_of(words[0]) if words else None
        if strategy is None or len(completion) > _MAX_CHARACTERS:
            return Verdict(False, None, "unparsed", time.perf_counter() - start)

        # the work may be anything, so it is compared as words
        work = [str(digit) for digit in carried_out(strategy, problem.meta["digits"])]
        correct = strategy in problem.meta["accepted"] and words[1:] == work
        return Verdict(correct, f"s{strategy}", "strategy", time.perf_counter() - start)

    def key(self, answer: str) -> str:
        """The answer itself, which is the name of a strategy."""
        return answer

    def equivalent(self, left: str, right: str) -> bool:
        """Whether two strategies are the same."""
        return left == right


_NUMBERS = {f"s{strategy}": strategy for strategy in range(STRATEGIES)}


def _strategy_of(word: str) -> int | None:
    """The number of the strategy that a word names, or None."""
    return _NUMBERS.get(word)


class ForkedSkills:
    """The task: 256 problems in shuffled epochs."""

    name = "forked_skills"

    def __init__(self) -> None:
        self.problems = problems(held_out=False)
        self.verifier = ForkedSkillsVerifier()
        self._keys = {(p.meta["family"], *p.meta["digits"]) for p in self.problems}

    def may_draw(self, problem: Problem) -> bool:
        """Whether a problem is one of the training problems."""
        if "digits" not in problem.meta:
            return False
        return (problem.meta["family"], *problem.meta["digits"]) in self._keys

    def batch(self, seed: int, start: int, size: int) -> list[Problem]:
        """Problems `start` to `start + size` of the stream of shuffled epochs."""
        return stream_from_rows(self.problems, seed, start, size)


# demonstrations for the warm start

GIVEN_ODDS = 0.4
"""Share of demonstrations whose strategy is given, drawn evenly: they teach the work alone."""
_TRACE_STREAM = 0xF577


def trace(seed: int, index: int) -> tuple[str, str, int]:
    """Prompt, demonstration, and how many of its first words are given rather than learned.

    Held-out problems never occur.
    """
    # a problem that is not held out
    rng = stream(_TRACE_STREAM, seed, index)
    while True:
        family = rng.randrange(FAMILIES)
        digits = [rng.randrange(10) for _ in range(DIGITS)]
        if not is_held_out(family, digits):
            break

    # rare strategies would hardly be practised if all were drawn as the policy shall choose them
    given = int(rng.random() < GIVEN_ODDS)
    if given:
        strategy = rng.randrange(STRATEGIES)
    else:
        strategy = rng.choices(range(STRATEGIES), strategy_odds())[0]
    work = " ".join(map(str, carried_out(strategy, digits)))
    return prompt_of(family, digits), f"s{strategy} {work}", given
