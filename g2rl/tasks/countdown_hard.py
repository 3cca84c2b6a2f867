"""Countdown problems that the tiny policy hardly solves: a fixed list that training can exhaust.

All problems have four numbers. They were chosen by sampling: the tiny policy, before any
reinforcement learning, solved each of them at least once in `SAMPLES` responses and was estimated
to solve it in at most half of all attempts of 16 responses, 0 < pass@16 <= 0.5. So every problem is
within reach, but most groups of 16 responses hold no right one. Held-out problems were chosen in
the same way and never occur in training. `python -m g2rl.cli.hard_problems` makes the list again.

The answer of a verdict is the canonical expression, as in Countdown. How many of them are right was
counted by trying everything (`g2rl.tasks.countdown_solutions`). A problem is *hard* (in
`meta["group"]`) if there is only one.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from g2rl.tasks.countdown import TINY_TEMPLATE, CountdownVerifier, problem_of, signature
from g2rl.tasks.task import stream_from_rows
from g2rl.types import Problem

SAMPLES = 64
"""Responses of the tiny policy to each candidate."""
# the rule by which problems were chosen
K, MOST_PASS = 16, 0.5
"""A candidate is taken if 0 < pass@K <= MOST_PASS."""
HARD_SOLUTIONS = 1
"""A problem with so few solutions is hard."""
FILE = Path(__file__).resolve().parent.parent / "assets" / "countdown_hard" / "problems.json"


@lru_cache(maxsize=1)
def _chosen() -> dict[str, list[dict[str, Any]]]:
    """The list that ships with g2rl: "train" and "heldout", lists of rows.

    A row has the numbers, the target, how many of `SAMPLES` responses were right, and how many
    different solutions there are.
    """
    return json.loads(FILE.read_text(encoding="utf-8"))


def problems(part: str, template: str = TINY_TEMPLATE) -> list[Problem]:
    """All problems of one part, "train" or "heldout"."""
    # how many solutions there are travels with the problem
    listed: list[Problem] = []
    for index, row in enumerate(_chosen()[part]):
        is_hard = row["solutions"] <= HARD_SOLUTIONS
        more = {"solutions": row["solutions"], "group": "hard" if is_hard else "easy"}
        id_ = f"countdown_hard/{part}/{index}"
        listed.append(problem_of(id_, row["numbers"], row["target"], template, more))
    return listed


class CountdownHard:
    """The task: 512 problems in shuffled epochs.

    Args:
        template: prompt with ``$numbers`` and ``$target``, as in `Countdown`.
    """

    name = "countdown_hard"

    def __init__(self, template: str = TINY_TEMPLATE) -> None:
        self.problems = problems("train", template)
        self.verifier = CountdownVerifier()
        # what training meets, whatever the order of the numbers
        self._signatures = {
            signature(problem.meta["numbers"], problem.meta["target"]) for problem in self.problems
        }

    def may_draw(self, problem: Problem) -> bool:
        """Whether a problem has the numbers and the target of a training problem."""
        if "numbers" not in problem.meta:
            return False
        return signature(problem.meta["numbers"], problem.meta["target"]) in self._signatures

    def batch(self, seed: int, start: int, size: int) -> list[Problem]:
        """Problems `start` to `start + size` of the stream of shuffled epochs."""
        return stream_from_rows(self.problems, seed, start, size)
