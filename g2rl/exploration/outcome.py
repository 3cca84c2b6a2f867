"""Outcome-based exploration: bonuses for final answers that were seen seldom (arXiv 2509.06941).

Song, Kempe and Munos 2025. Answers are counted, not the ways to them. N(x, a) is how often answer a
was given to problem x so far, this batch included; b = min(1, N^-1/2). To the algorithm's advantage
of a response with answer a is added c times

    ucb       b
    ucb_mean  b - mean_{j != i} b_j
    ucb_con   b - offset, which is negative from the fifth visit on with the offset 0.5
    batch     -(1 / G) #{j != i with the same answer}: a penalty on collisions, without history

Taken from notes on the paper, not from code. c is not known to us, and neither is whether N counts
the visits of the running batch; here it does.

Guards of the paper: a group in which all responses are right gets no bonus. The paper's other guard
masks the tokens of the final answer, so that the bonus cannot be earned by another number alone;
that is not done here, the bonus acts on all tokens.

Traps. Where all right answers are one, as in mathematics, only wrong ones differ; Countdown's
answers are expressions. History needs problems that come again: an endless stream such as
`task=countdown` never repeats one, and then only the visits of the running batch count.
`explore/revisited` is the share of problems that were seen before. Responses without a readable
answer share one outcome.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

import torch
from torch import Tensor

from g2rl.exploration.partitions import ByAnswer, cluster_sizes, keys_of
from g2rl.exploration.signal import ADVANTAGE, missing_need, refuse_unknown
from g2rl.types import GroupBatch, Shaped

MODES = ("ucb", "ucb_mean", "ucb_con", "batch")
LONGEST_KEY = 64
"""Longer answers are counted under a digest, because checkpoints keep every answer."""
NO_ANSWER = "none"


class OutcomeExploration:
    """Adds bonuses for rare answers to the algorithm's advantages, whose convention stays.

    The counts are its state: they are in every checkpoint, so that a run that goes on counts on.

    Args:
        mode: "ucb", "ucb_mean", "ucb_con" or "batch", see the module.
        coefficient: c >= 0, in units of advantage.
        offset: b_0 of "ucb_con".
    """

    name = "outcome"
    level = ADVANTAGE

    def __init__(
        self, mode: str = "ucb_con", coefficient: float = 0.5, offset: float = 0.5
    ) -> None:
        refuse_unknown("mode", mode, MODES)
        if coefficient < 0:
            raise ValueError(f"exploration.coefficient must be >= 0, got {coefficient}")
        self.mode, self.coefficient, self.offset = mode, coefficient, offset
        self.counts: dict[str, Counter[str]] = {}

        # the penalty on collisions knows no history
        self.needs = frozenset({"advantages", "answers"})
        if mode != "batch":
            self.needs |= {"problem_ids"}

    def __call__(self, batch: GroupBatch) -> Shaped:
        """Count the answers of one batch and add the bonuses.

        Returns:
            Advantages (P, G), and the diagnostic outcome_bonus, before c. The metric outcomes is
            the mean number of different answers in a group; with history, revisited is the share of
            problems that were seen before, and outcomes_known the number of different answers to
            all problems so far.

        Raises:
            ValueError: the batch carries no advantages, answers or problem ids.
        """
        if batch.advantages_PG is None:
            raise missing_need(self.name, "advantages")

        # equivalent answers are one outcome
        partition_PG = ByAnswer()(batch)
        distinct = [len(set(group)) for group in partition_PG.tolist()]
        metrics = {"outcomes": sum(distinct) / len(distinct)}

        # collisions inside the group, or visits over the run
        if self.mode == "batch":
            bonus_PG = -(cluster_sizes(partition_PG) - 1).double() / partition_PG.shape[-1]
        else:
            visits_PG, metrics["revisited"] = self._visits(batch)
            metrics["outcomes_known"] = float(sum(map(len, self.counts.values())))
            bonus_PG = self._historical_bonus(visits_PG)

        # a group that is solved in every way needs no other answers
        bonus_PG = bonus_PG.masked_fill(batch.correct_PG.all(-1, keepdim=True), 0.0)
        added_PG = self.coefficient * bonus_PG.to(batch.advantages_PG.dtype)
        return Shaped(
            batch.rewards_PG,
            diagnostics={"outcome_bonus": bonus_PG},
            metrics=metrics,
            advantages_PG=batch.advantages_PG + added_PG,
        )

    def _visits(self, batch: GroupBatch) -> tuple[Tensor, float]:
        """Add the batch to the counts.

        Returns:
            N(x, a) of each response, (P, G), and the share of problems that were seen before.
        """
        keys = keys_of(batch, "exploration=outcome")
        if batch.problem_ids is None:
            raise missing_need(self.name, "problem ids")

        # which problems come again
        known = [problem in self.counts for problem in batch.problem_ids]

        # first count all groups, because one problem may have several
        labels = [[answer_label(key) for key in group] for group in keys]
        for problem, group in zip(batch.problem_ids, labels, strict=True):
            self.counts.setdefault(problem, Counter()).update(group)

        # then look up
        rows: list[list[int]] = []
        for problem, group in zip(batch.problem_ids, labels, strict=True):
            rows.append([self.counts[problem][label] for label in group])
        return torch.tensor(rows), sum(known) / len(known)

    def _historical_bonus(self, visits_PG: Tensor) -> Tensor:
        """The bonus of the three modes with history, before c; (P, G) float64."""
        # b = min(1, N^-1/2); every answer of the batch has been visited at least once
        bonus_PG = visits_PG.double().clamp(min=1).rsqrt()
        if self.mode == "ucb_con":
            return bonus_PG - self.offset
        if self.mode == "ucb_mean":
            # a group of one has no others
            others = max(visits_PG.shape[-1] - 1, 1)
            return bonus_PG - (bonus_PG.sum(-1, keepdim=True) - bonus_PG) / others
        return bonus_PG

    def state_dict(self) -> dict[str, Any]:
        """How often each answer was given to each problem."""
        return {"counts": {problem: dict(counts) for problem, counts in self.counts.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on counting from a checkpoint.

        Raises:
            ValueError: the checkpoint holds the state of another signal.
        """
        # what another signal kept would be taken for counts
        if set(state) != {"counts"}:
            raise ValueError(
                f"exploration=outcome keeps counts, the checkpoint holds {sorted(state)}"
            )
        self.counts = {problem: Counter(counts) for problem, counts in state["counts"].items()}


def answer_label(key: str | None) -> str:
    """What an answer is counted under: itself, a digest of a long one, or `NO_ANSWER`."""
    # all responses without an answer share one
    if key is None:
        return NO_ANSWER
    if len(key) <= LONGEST_KEY:
        return f"={key}"
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
