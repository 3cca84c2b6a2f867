"""Dynamic sampling: groups that are all right or all wrong are replaced before the step learns.

DAPO (arXiv 2503.14476, section 3.2). Such groups have no advantage under GRPO. A step draws its P
prompts, keeps the mixed groups, and draws as many new prompts as are missing, in at most
`algorithm.sampling_rounds` rounds. What is still missing then is filled up with uniform groups, the
first that were drawn, so that a step always has P groups.

Prompts are taken from the task's stream one after the other, and none is taken twice. Their number
so far is part of the checkpoint, so a resumed run draws what the uninterrupted one would have
drawn.

Difference from DAPO's code: that draws whole batches of a fixed size, throws away what is more than
P, and stops the run when its rounds (10) are used up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from g2rl.engines.rollouts import Rollouts
from g2rl.tasks.grading.grader import Grader
from g2rl.training.stages import Sampler
from g2rl.types import Completion, Problem, Verdict
from g2rl.world import World


@dataclass(slots=True, frozen=True)
class _Group:
    """One prompt and its graded responses."""

    problem: Problem
    prompt: list[int]
    completions: list[Completion]
    verdicts: list[Verdict]

    @property
    def right_count(self) -> int:
        """Number of right responses."""
        return sum(verdict.correct for verdict in self.verdicts)

    @property
    def is_mixed(self) -> bool:
        """Whether some responses are right and some wrong."""
        return 0 < self.right_count < len(self.verdicts)


@dataclass(slots=True)
class _Draw:
    """What a step has drawn so far."""

    mixed: list[_Group] = field(default_factory=list)
    uniform: list[_Group] = field(default_factory=list)
    rounds: int = 0

    @property
    def prompt_count(self) -> int:
        """Prompts drawn so far."""
        return len(self.mixed) + len(self.uniform)

    def metrics(self, wanted: int) -> dict[str, float]:
        """How much was drawn for `wanted` groups, and how good it was before groups were replaced.

        train/accuracy is that of the groups that were kept, so it is no accuracy of the policy;
        sample/accuracy is.
        """
        # all that was drawn, whether it was kept or not
        groups = [*self.mixed, *self.uniform]
        response_count = sum(len(group.verdicts) for group in groups)
        return {
            "sample/rounds": float(self.rounds),
            "sample/prompts": float(len(groups)),
            "sample/mixed": len(self.mixed) / len(groups),
            "sample/filled_up": (wanted - len(self.mixed)) / wanted,
            "sample/accuracy": sum(group.right_count for group in groups) / response_count,
        }


@dataclass(slots=True, frozen=True)
class Refilled:
    """The rollouts of a step, graded."""

    rollouts: Rollouts
    verdicts: list[Verdict]
    metrics: dict[str, float]


class DynamicSampler:
    """Draws the rollouts of a step in rounds until P groups are mixed.

    Args:
        sampler: draws prompts and responses.
        grader: judges every round before the next.
        prompt_count: P.
        rounds: the most rounds of a step, >= 1.
        world: the ranks, which divide every round; all see all verdicts and decide alike.
    """

    def __init__(
        self, sampler: Sampler, grader: Grader, prompt_count: int, rounds: int, world: World
    ) -> None:
        self.sampler, self.grader, self.world = sampler, grader, world
        self.prompt_count, self.rounds = prompt_count, rounds
        self.consumed = 0

    def __call__(self, step: int) -> Refilled:
        """Draw and grade the rollouts of a step."""
        # round by round, as many prompts as are missing
        draw = _Draw()
        while draw.rounds < self.rounds and len(draw.mixed) < self.prompt_count:
            self._round(step, draw)
        self.consumed += draw.prompt_count

        # mixed groups in the order of the stream, then uniform ones if rounds did not suffice
        missing = self.prompt_count - len(draw.mixed)
        groups = draw.mixed + draw.uniform[:missing]

        # in the form in which a plain step has them
        verdicts: list[Verdict] = []
        for group in groups:
            verdicts += group.verdicts
        rollouts = Rollouts(
            [group.problem for group in groups],
            [group.prompt for group in groups],
            [group.completions for group in groups],
        )
        return Refilled(rollouts, verdicts, draw.metrics(self.prompt_count))

    def _round(self, step: int, draw: _Draw) -> None:
        """Draw and grade as many prompts as are missing, and sort their groups."""
        # places go on counting, so that no two prompts of a step share random numbers
        rollouts = self.sampler.draw(
            step,
            start=self.consumed + draw.prompt_count,
            first_place=draw.prompt_count,
            count=self.prompt_count - len(draw.mixed),
        )

        # the ranks divide the grading, and all of them see all verdicts
        own_verdicts = self.grader.submit(self.world.deal(rollouts.items)).result()
        verdicts = self.world.collect(own_verdicts)
        draw.rounds += 1

        # group by group
        group_size = rollouts.shape[1]
        for place, problem in enumerate(rollouts.problems):
            group = _Group(
                problem,
                rollouts.prompts[place],
                rollouts.completions[place],
                verdicts[place * group_size : (place + 1) * group_size],
            )
            if group.is_mixed:
                draw.mixed.append(group)
            else:
                draw.uniform.append(group)  # kept, in case that the rounds do not suffice

    def state_dict(self) -> dict[str, Any]:
        """How many prompts of the stream have been drawn."""
        return {"consumed": self.consumed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue behind the prompts that a checkpoint's run had drawn.

        Raises:
            ValueError: the checkpoint does not say how many these are.
        """
        # type, because true and false are whole numbers in Python
        consumed = state.get("consumed")
        if type(consumed) is not int or consumed < 0:
            raise ValueError(
                "algorithm.sampling_rounds: the checkpoint does not say how many prompts were "
                f"drawn, it holds {dict(state)}"
            )
        self.consumed = consumed
