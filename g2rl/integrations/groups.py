"""A signal on outcome rewards that another trainer has collected, response by response.

verl hands over one reward and one group id a response, in any order. Here they become whole groups,
the signal looks at them, and advantages go back in the order in which the responses came.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from g2rl.cli.build.signals import check_group_size
from g2rl.exploration.asking import ask
from g2rl.exploration.signal import Signal, all_needs
from g2rl.types import GroupBatch, Shaped

CARRIED_OUT = frozenset(
    {"rewards_PG", "advantages_PG", "advantage_scale", "diagnostics", "metrics"}
)
"""Fields of `Shaped` that end in an advantage of each response. Others are refused if set."""


@dataclass(slots=True)
class OutcomeSignal:
    """Advantages of responses by a signal of g2rl, with the advantages of verl's GRPO below it.

    Args:
        signal: shapes rewards or gives advantages.
        observers: signals that measure without effect.
        offered: needs that the columns of the caller meet, part of `g2rl.exploration.NEEDS`.
        wrong_right: the two rewards that say whether an answer is right.
        divide: divide by the spread of the group, as verl's norm_adv_by_std_in_grpo.

    Raises:
        ValueError: a signal needs what is not offered, or plans single tokens of the loss.
    """

    signal: Signal
    observers: Sequence[Signal] = ()
    offered: frozenset[str] = frozenset()
    wrong_right: tuple[float, float] = (0.0, 1.0)
    divide: bool = True
    needs: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        self.needs = all_needs([self.signal, *self.observers], encoder=False)
        who = f"signal {self.signal.name} inside verl"
        missing = self.needs - self.offered - {"advantages"}
        if missing:
            offered = sorted(self.offered | {"advantages"})
            raise ValueError(
                f"{who} or its observers need {sorted(missing)}; here there is {offered}"
            )

        # what has no advantage of a response as its result
        if callable(getattr(self.signal, "tokens", None)):
            raise ValueError(f"{who} plans single tokens of the loss, which is not supported")
        if hasattr(self.signal, "parts"):
            raise ValueError(f"{who} combines signals, which is not supported; use g2rl-train")

    def __call__(
        self,
        rewards_N: Tensor,
        lengths_N: Tensor,
        group_ids: Sequence[Any],
        columns: Mapping[str, Tensor] | None = None,
        step: int = 1,
    ) -> tuple[Tensor, dict[str, float]]:
        """Advantages of the responses, in their order, and metrics.

        Args:
            rewards_N: outcome rewards, each one of the two of `wrong_right`.
            lengths_N: response lengths in tokens.
            group_ids: of the prompt that each response belongs to, in any order.
            columns: fields of `GroupBatch` by name, (N, ...), in the order of the responses.
            step: of the training, counted from 1, as verl counts.

        Raises:
            ValueError: groups of different sizes, rewards that are no verdicts, advantages that are
                not finite, or a part of the signal that has no place in an advantage.
        """
        # members of a group one after another, and the way back
        order_N, group_size = order_by_group(group_ids)
        back_N = order_N.argsort()
        check_group_size([self.signal, *self.observers], group_size)

        # the verdicts, by group
        rewards_PG = rewards_N.float().cpu()[order_N].view(-1, group_size)
        correct_PG = self._correct(rewards_PG)
        batch = GroupBatch(
            rewards_PG=torch.where(correct_PG, 1.0, -1.0),
            correct_PG=correct_PG,
            lengths_PG=lengths_N.cpu()[order_N].view(-1, group_size),
            step=step,
        )
        for name, values_N in (columns or {}).items():
            values = values_N.cpu()[order_N]
            setattr(batch, name, values.view(-1, group_size, *values.shape[1:]))
        if "advantages" in self.needs:
            batch.advantages_PG = verl_advantages(rewards_PG, self.divide)

        # the signal decides, the observers measure
        shaped = ask(self.signal, batch)
        metrics = {f"explore/{name}": value for name, value in shaped.metrics.items()}
        for observer in self.observers:
            for name, value in ask(observer, batch).metrics.items():
                metrics[f"observe/{observer.name}/{name}"] = value
        advantages_PG = self._advantages(shaped, rewards_PG, batch.rewards_PG)
        return advantages_PG.flatten()[back_N].to(rewards_N.device), metrics

    def _correct(self, rewards_PG: Tensor) -> Tensor:
        """Which responses are right, (P, G) boolean; refuses rewards that are no verdicts."""
        # in the dtype of the rewards, so that 0.1 equals 0.1
        wrong, right = (torch.tensor(value) for value in self.wrong_right)
        is_other_PG = (rewards_PG != wrong) & (rewards_PG != right)
        if is_other_PG.any():
            raise ValueError(
                f"an outcome reward is {float(rewards_PG[is_other_PG][0])}, a signal takes "
                f"verdicts of {self.wrong_right} (G2RL_WRONG_RIGHT) without a KL penalty inside"
            )
        return rewards_PG == right

    def _advantages(self, shaped: Shaped, rewards_PG: Tensor, base_PG: Tensor) -> Tensor:
        """Advantages (P, G) of what the signal says; refuses what cannot be one."""
        who = f"signal {self.signal.name} inside verl"
        for part in parts_set(shaped) - CARRIED_OUT:
            raise ValueError(f"{who}: {part} is not supported here; use g2rl-train")

        # advantages as they are, or verl's of the rewards, in the caller's unit
        advantages_PG = shaped.advantages_PG
        if advantages_PG is None:
            wrong, right = self.wrong_right
            added_PG = (right - wrong) / 2 * (shaped.rewards_PG - base_PG)
            scale = getattr(shaped, "advantage_scale", None)
            divide = self.divide if scale is None else scale == "std"
            advantages_PG = verl_advantages(rewards_PG + added_PG, divide)
        if advantages_PG.shape != rewards_PG.shape or not advantages_PG.isfinite().all():
            raise ValueError(f"{who} gave advantages that are not finite, or of another shape")
        return advantages_PG


def parts_set(shaped: Shaped) -> set[str]:
    """Names of the fields that a signal has set, those of a later version of g2rl included."""
    # None, 0 and False are what a field holds that nobody has set
    names = {"rewards_PG"}
    for part in fields(shaped):
        value = getattr(shaped, part.name)
        is_number = isinstance(value, bool | int | float)
        if value is not None and not (is_number and value == 0):
            names.add(part.name)
    return names


def verl_advantages(rewards_PG: Tensor, divide: bool = True) -> Tensor:
    """Advantages as verl's GRPO makes them: A_i = (r_i - mean_j r_j) / (s + 1e-6).

    s is the standard deviation with Bessel's correction. A group of equal rewards has advantage 0
    up to rounding; a group of one has its reward, as verl does.

    Args:
        rewards_PG: outcome rewards.
        divide: whether to divide by the spread.
    """
    # verl takes the mean 0 and the spread 1 for a group of one
    if rewards_PG.shape[1] == 1:
        return rewards_PG / (1 + 1e-6) if divide else rewards_PG
    centred_PG = rewards_PG - rewards_PG.mean(1, keepdim=True)
    if not divide:
        return centred_PG
    return centred_PG / (rewards_PG.std(1, keepdim=True) + 1e-6)


def order_by_group(group_ids: Sequence[Any]) -> tuple[Tensor, int]:
    """An order of the N responses in which the members of a group follow one another.

    Args:
        group_ids: one a response, of any hashable kind.

    Returns:
        The order (N,), int64, groups by first appearance and their members as they come; and G.

    Raises:
        ValueError: there is no response, or groups have different sizes.
    """
    # numbers of the responses of each group, in the order of their appearance
    members: dict[Any, list[int]] = {}
    for number, group_id in enumerate(group_ids):
        members.setdefault(group_id, []).append(number)
    sizes = {len(numbers) for numbers in members.values()}
    if len(sizes) != 1:
        raise ValueError(
            f"a signal compares whole groups of one size, here are groups of {sorted(sizes)}: "
            "switch filters and several outputs of a session off"
        )
    order = [number for numbers in members.values() for number in numbers]
    return torch.tensor(order), sizes.pop()
