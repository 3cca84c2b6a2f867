"""One rollout batch: P problems and the G responses that were sampled for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from g2rl.engines.graded_text import graded_item
from g2rl.formulas.feature_sums import first_alike
from g2rl.policy.batching import Sequences
from g2rl.types import Completion, Problem

Item = TypeVar("Item")


@dataclass(slots=True)
class Rollouts:
    """P whole groups of G responses.

    Wherever the N = P * G responses stand in one list or tensor, they are prompt-major: response g
    of prompt p is number n = p * G + g.
    """

    problems: list[Problem]
    prompts: list[list[int]]
    """Token ids of the P prompts."""
    completions: list[list[Completion]]
    """P lists of G completions."""

    @property
    def shape(self) -> tuple[int, int]:
        """(P, G)."""
        return len(self.problems), len(self.completions[0])

    @property
    def flat(self) -> list[Completion]:
        """The N completions in one list."""
        return [completion for group in self.completions for completion in group]

    @property
    def sequences(self) -> Sequences:
        """Token ids of the N prompt-response pairs."""
        # the G responses of a group share one list of prompt tokens
        _, group_size = self.shape
        prompts: list[list[int]] = []
        for prompt in self.prompts:
            prompts += [prompt] * group_size
        return Sequences(prompts, [completion.token_ids for completion in self.flat])

    @property
    def first_alike_PG(self) -> Tensor:
        """For each response, the place of the first one of its group with the same tokens."""
        return first_alike([[one.token_ids for one in group] for group in self.completions])

    @property
    def sampler_logps(self) -> list[Tensor] | None:
        """Log-probabilities by the engine that sampled: N tensors (T_n,), float32.

        None if the engine reports none.

        Raises:
            ValueError: the engine reports them for some responses or some tokens only.
        """
        # greedy samples have none either
        completions = self.flat
        if all(completion.logps is None for completion in completions):
            return None

        # from here on every token of every response must have one
        logps_N: list[Tensor] = []
        for completion in completions:
            logps = completion.logps
            if logps is None or len(logps) != len(completion.token_ids):
                raise ValueError(
                    "the engine must report a log-probability for every token of every response, "
                    "or none"
                )
            logps_N.append(torch.tensor(logps, dtype=torch.float32))
        return logps_N

    @property
    def items(self) -> list[tuple[str, Problem]]:
        """The N pairs (response text, problem) that the grader judges."""
        items: list[tuple[str, Problem]] = []
        for problem, group in zip(self.problems, self.completions, strict=True):
            for completion in group:
                items.append(graded_item(completion.text, completion.finish, problem))
        return items

    @property
    def group_N(self) -> Tensor:
        """Number of the prompt that each response belongs to, (N,), int64."""
        prompt_count, group_size = self.shape
        return torch.arange(prompt_count).repeat_interleave(group_size)


def grouped(values_N: Tensor, shape: tuple[int, int]) -> Tensor:
    """View values of N = P * G responses, (N, ...), by group: (P, G, ...)."""
    return values_N.reshape(*shape, *values_N.shape[1:])


def in_groups(items: Sequence[Item], group_size: int) -> list[list[Item]]:
    """P lists of G out of N = P * G items, prompt-major."""
    groups: list[list[Item]] = []
    for start in range(0, len(items), group_size):
        groups.append(list(items[start : start + group_size]))
    return groups
