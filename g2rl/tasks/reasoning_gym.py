"""Procedural problems of the reasoning-gym package as an endless stream of training problems.

An example is ``Find the Greatest Common Divisor (GCD) of these numbers: 26, 760.``, gold ``2``. The
package makes a problem out of one number, so problem i of a stream is a function of (seed, i) for
one version of the package. Families take turns. Only those with a safe scorer are offered (see
`g2rl.tasks.grading.gym`).

Held-out problems have numbers that no training stream reaches. A training problem with the question
of a held-out one is drawn again all the same, because small families repeat themselves.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from g2rl.tasks.grading.gym import SAFE, GymVerifier, scorer_of
from g2rl.tasks.math import PAPER_INSTRUCTION
from g2rl.types import Problem

HELD_OUT_SEED = 0x9E1D
"""Of the held-out problems, whose numbers are this one and the following ones."""
STREAM_LENGTH = 10**9
"""Numbers of one training stream; that of seed s begins at (s + 1) times this."""
MOST_TRIES = 50
"""Problems that are drawn for one place before the family counts as too small."""

Config = tuple[tuple[str, Any], ...]
"""Settings of a family, as pairs that can be hashed."""


def config_of(family: str, configs: Mapping[str, Mapping[str, Any]] | None) -> Config:
    """The settings that `configs` holds for a family, sorted by name."""
    # data sets are cached by their settings, so these must be hashable
    pairs = []
    for name, value in sorted(dict((configs or {}).get(family) or {}).items()):
        pairs.append((name, tuple(value) if isinstance(value, list) else value))
    return tuple(pairs)


def gym_problem(
    id_: str, family: str, seed: int, size: int, index: int, instruction: str, config: Config = ()
) -> Problem:
    """Problem `index` of the `size` problems of a family that the package makes with a seed.

    Args:
        id_: of the problem.
        family: name of a reasoning-gym data set.
        seed, size, index: the package makes the problem out of the number seed + index.
        instruction: last line of the prompt.
        config: settings of the family; none takes the package's own.

    Raises:
        ValueError: the family or a setting is refused.
    """
    # the scorer needs the entry, which is reduced to what JSON can hold, as a file would hold it
    dataset = scorer_of(family, seed, size, config)
    entry = json.loads(json.dumps(dataset[index], default=str))
    question = str(entry.pop("question"))
    meta = {"kind": "reasoning_gym", "group": family, "family": family, "entry": entry}
    return Problem(id_, f"{question}\n{instruction}", str(entry["answer"]), meta)


def held_out_problem(
    family: str, index: int, size: int, instruction: str, config: Config = ()
) -> Problem:
    """Held-out problem `index` of the first `size` ones of a family."""
    id_ = f"reasoning_gym/{family}/{index}"
    return gym_problem(id_, family, HELD_OUT_SEED, size, index, instruction, config)


@lru_cache(maxsize=64)
def _held_out_prompts(family: str, size: int, instruction: str, config: Config) -> frozenset[str]:
    """Prompts of the first `size` held-out problems of a family."""
    # made once a task: the package needs milliseconds for each
    prompts = set()
    for index in range(size):
        prompts.add(held_out_problem(family, index, size, instruction, config).prompt)
    return frozenset(prompts)


class ReasoningGymTask:
    """The task, of one family or of several that take turns.

    Args:
        families: names of reasoning-gym data sets, all in `SAFE`.
        configs: settings of families by name, such as ``{"chain_sum": {"max_terms": 3}}``.
        held_out: the first so many held-out problems of each family never occur in training.
        instruction: last line of the prompt.

    Raises:
        ImportError: reasoning-gym is not installed.
        ValueError: there is no family, a family is not offered, or a setting is refused.
    """

    name = "reasoning_gym"

    def __init__(
        self,
        families: Sequence[str] = tuple(SAFE),
        configs: Mapping[str, Mapping[str, Any]] | None = None,
        held_out: int = 20,
        instruction: str = PAPER_INSTRUCTION,
    ) -> None:
        if not families or held_out < 0:
            raise ValueError(
                "task.source.families must not be empty and task.source.held_out not below 0; got "
                f"{list(families)} and {held_out}"
            )

        # a misspelt family is named before anything is drawn
        check_configs(families, configs)

        self.families = list(families)
        self.held_out, self.instruction = held_out, instruction
        self.config_of_family = {family: config_of(family, configs) for family in families}
        self.verifier = GymVerifier()
        self.batch(0, 0, len(self.families))  # what a family refuses is said now

    def may_draw(self, problem: Problem) -> bool:
        """Whether training could meet a problem: any of its families that is not held out."""
        family = problem.meta.get("family")
        return family in self.families and problem.prompt not in self._avoided(family)

    def batch(self, seed: int, start: int, size: int) -> list[Problem]:
        """Problems number `start` to `start + size` of the stream with this seed."""
        # families take turns
        problems: list[Problem] = []
        for index in range(start, start + size):
            family = self.families[index % len(self.families)]
            problems.append(self._draw(seed, family, index // len(self.families)))
        return problems

    def _draw(self, seed: int, family: str, number: int) -> Problem:
        """Training problem `number` of a family, which has no held-out prompt."""
        first = (seed + 1) * STREAM_LENGTH
        id_ = f"reasoning_gym/train/{family}/{seed}/{number}"
        for attempt in range(MOST_TRIES):
            # another attempt takes a number from far behind in the stream
            place = number + attempt * (STREAM_LENGTH // MOST_TRIES)
            config = self.config_of_family[family]
            problem = gym_problem(
                id_, family, first, STREAM_LENGTH, place, self.instruction, config
            )
            if problem.prompt not in self._avoided(family):
                return problem
        raise ValueError(
            f"reasoning-gym family {family}: nearly all of its problems are held out; lower "
            "benchmark.per_family, or widen the family by task.source.configs"
        )

    def _avoided(self, family: str) -> frozenset[str]:
        """Prompts that training must not meet."""
        config = self.config_of_family[family]
        return _held_out_prompts(family, self.held_out, self.instruction, config)


def check_configs(families: Sequence[str], configs: Mapping[str, Mapping[str, Any]] | None) -> None:
    """Refuse settings of families that are not among those of the task.

    Raises:
        ValueError: naming them.
    """
    # most likely a family that is misspelt
    strangers = sorted(set(configs or {}) - set(families))
    if strangers:
        raise ValueError(
            f"configs has settings for {', '.join(strangers)}, which is not among the families "
            f"({', '.join(families)})"
        )
