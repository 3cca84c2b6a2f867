"""Several signals as one: parts act in a stated order, and what cannot go together is refused.

1. At most one part decides what the group's advantages are made of: one that shapes rewards
   (level `reward`), or one that gives advantages in place of the algorithm's (`estimator`).
2. The algorithm makes advantages of the rewards, unless an estimator has given them.
3. Parts of the level `advantage` change these, one after the other in the order of the list, each
   seeing what the one before has made.
4. Parts of the level `loss` add to the loss. At most one may set the entropy bonus; token bonuses
   add up.
5. Token plans (`g2rl.exploration.token_plan`) act together on the tokens of each update: shifts of
   the advantage add up, weights multiply; clip bounds and a penalty belong to one part each. All
   plans are made of the same view, so that no part sees the shift of another.

A response takes part in the update if every part keeps it. Parts of level 1 and 4 may stand
anywhere in the list.

Two parts of level 1 would both replace the reward, or one would ignore what the other has made;
published methods say nothing of such mixtures, so they are refused rather than guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from g2rl.exploration.asking import ask, named_errors
from g2rl.exploration.signal import ADVANTAGE, ESTIMATOR, LOSS, REWARD, Signal, level_of
from g2rl.exploration.token_plan import (
    TokenPlan,
    TokenPlanner,
    TokenView,
    merge_plans,
    probe_view,
)
from g2rl.formulas.advantages import GroupAdvantage
from g2rl.types import GroupBatch, Shaped


class Combined:
    """A signal made of others; see the module for the order and for what is refused.

    Diagnostics and metrics are those of all parts, under `PART/NAME` and `PART_NAME`.

    Args:
        parts: the signals; every name once.
        advantage: what the algorithm makes of rewards, for parts that change advantages.

    Raises:
        ValueError: no part, a name twice, a combination inside, two parts that both decide what
            advantages are made of, or two whose token plans exclude each other.
    """

    name = "combined"

    def __init__(self, parts: Sequence[Signal], advantage: GroupAdvantage) -> None:
        self.parts, self.advantage = list(parts), advantage
        names = [part.name for part in parts]
        if not names or len(set(names)) < len(names) or self.name in names:
            raise ValueError(
                f"exploration.parts must be different signals, at least one, got {names}"
            )

        # by level, in the order of the list
        self.deciders = self._at(REWARD, ESTIMATOR)
        self.changers, self.adders = self._at(ADVANTAGE), self._at(LOSS)
        if len(self.deciders) > 1:
            both = " and ".join(f"{part.name} ({level_of(part)})" for part in self.deciders)
            raise ValueError(
                f"exploration.parts: {both} cannot go together, each decides by itself what "
                "advantages are made of; keep one of them"
            )

        # where the advantages come from, for those who take rewards from responses
        self.level = REWARD
        if self.changers or any(level_of(part) == ESTIMATOR for part in self.deciders):
            self.level = ESTIMATOR

        # token plans that exclude each other do so on any tokens
        self.planners = [part for part in self.parts if hasattr(part, "tokens")]
        self._merged_plan(probe_view())

        # what all parts need together, and the largest of their smallest groups
        self.needs = frozenset[str]().union(*(part.needs for part in parts))
        self.smallest_group = max(getattr(part, "smallest_group", 1) for part in parts)

    def _at(self, *levels: str) -> list[Signal]:
        """The parts that act at some levels."""
        return [part for part in self.parts if level_of(part) in levels]

    @property
    def tokens(self) -> TokenPlanner | None:
        """The plan of all parts together; None if no part plans tokens."""
        return self._merged_plan if self.planners else None

    def _merged_plan(self, view: TokenView) -> TokenPlan:
        """What the parts want together of the tokens of one update."""
        plans: list[tuple[str, TokenPlan]] = []
        for part in self.planners:
            with named_errors(part):
                plan = part.tokens(view)
                plan.check(part.name, view.token_count)
            plans.append((part.name, plan))
        return merge_plans(plans)

    def __call__(self, batch: GroupBatch) -> Shaped:
        """Let every part act in the order of the module.

        Raises:
            ValueError: a part of the level `advantage` gave no advantages, or two parts set an
                entropy bonus.
        """
        # 1. rewards, or advantages in place of the algorithm's
        results: list[tuple[Signal, Shaped]] = []
        whole = Shaped(batch.rewards_PG)
        for part in self.deciders:
            whole = ask(part, batch)
            results.append((part, whole))
        advantages_PG = whole.advantages_PG

        # 2. and 3. parts that change advantages see those of the algorithm, or of the estimator
        if self.changers and advantages_PG is None:
            scale = whole.advantage_scale
            advantages_PG, _ = self.advantage(whole.rewards_PG, batch.rewards_PG, scale)
        for part in self.changers:
            changed = ask(part, replace(batch, advantages_PG=advantages_PG))
            advantages_PG = changed.advantages_PG
            if advantages_PG is None:
                raise ValueError(f"exploration={part.name} changes advantages, but gave none")
            results.append((part, changed))

        # 4. what adds to the loss
        for part in self.adders:
            results.append((part, ask(part, batch)))
        return self._joined(whole, advantages_PG, results)

    def _joined(
        self,
        whole: Shaped,
        advantages_PG: Tensor | None,
        results: Sequence[tuple[Signal, Shaped]],
    ) -> Shaped:
        """One answer out of those of all parts."""
        joined = Shaped(
            whole.rewards_PG, advantage_scale=whole.advantage_scale, advantages_PG=advantages_PG
        )
        for part, shaped in results:
            # masks: every part has to keep a response
            kept_PG = shaped.kept_PG
            if kept_PG is not None:
                joined.keep_PG = kept_PG if joined.keep_PG is None else joined.keep_PG & kept_PG

            # the loss
            if joined.entropy_coef and shaped.entropy_coef:
                raise ValueError(
                    f"exploration.parts: {part.name} and a part before it both set an entropy bonus"
                )
            joined.entropy_coef = joined.entropy_coef or shaped.entropy_coef
            joined.token_bonus = added(joined.token_bonus, shaped.token_bonus)

            # what is written down, under the name of the part
            for name, values_PG in shaped.diagnostics.items():
                joined.diagnostics[f"{part.name}_{name}"] = values_PG
            for name, value in shaped.metrics.items():
                joined.metrics[f"{part.name}/{name}"] = value
        return joined

    def state_dict(self) -> dict[str, Any]:
        """The states of all parts, by name."""
        return {part.name: part.state_dict() for part in self.parts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the states of all parts.

        Raises:
            ValueError: the checkpoint holds the states of other parts.
        """
        names = [part.name for part in self.parts]
        if set(state) != set(names):
            raise ValueError(f"exploration.parts are {names}, the checkpoint has {sorted(state)}")
        for part in self.parts:
            part.load_state_dict(state[part.name])


def added(bonuses: list[Tensor] | None, others: list[Tensor] | None) -> list[Tensor] | None:
    """The sum of two lists of N token bonuses (T_n,), either of which may be missing."""
    if bonuses is None or others is None:
        return others if bonuses is None else bonuses
    return [one_T + other_T for one_T, other_T in zip(bonuses, others, strict=True)]
