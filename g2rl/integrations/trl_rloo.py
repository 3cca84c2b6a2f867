"""TRL's RLOOTrainer with a signal of g2rl: `ExplorationRLOOTrainer`.

RLOO compares every reward with the mean of the others of its group, takes the KL penalty into the
rewards, and has one ratio a sequence. So a signal that shapes rewards or gives advantages has its
place, and one that acts on tokens, on entropy or on who takes part has none.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from g2rl.exploration.signal import ADVANTAGE, ESTIMATOR, LOSS, level_of
from g2rl.integrations.trl import ExploringTrainer, SummedRewards
from g2rl.types import GroupBatch, Shaped

# behind the module that says how to install TRL where it is missing
from trl import RLOOTrainer  # isort: skip
from trl.trainer.utils import nanstd  # isort: skip


def leave_one_out(rewards_N: Tensor, group_size: int, normalize: bool) -> Tensor:
    """What TRL's RLOO makes of rewards: A_i = r_i - mean over j != i of r_j.

    Ahmadian et al. 2024 (arXiv 2402.14740), equation 8.

    Args:
        rewards_N: prompt-major; NaN for a response that nobody judged.
        group_size: G.
        normalize: subtract the mean of all advantages, and divide by their standard deviation with
            Bessel's correction, + 1e-4.

    Returns:
        (N,), 0 where the reward is NaN or the only one of its group. A group of equal rewards has
        advantage 0, unless they are normalized.
    """
    # a response that nobody judged takes part in no mean
    rewards_PG = rewards_N.view(-1, group_size)
    others_P1 = (~rewards_PG.isnan()).sum(1, keepdim=True) - 1
    baseline_PG = (rewards_PG.nansum(1, keepdim=True) - rewards_PG) / others_P1
    advantages_N = rewards_N - baseline_PG.flatten()

    # over the whole batch, as TRL does it
    if normalize:
        advantages_N = (advantages_N - torch.nanmean(advantages_N)) / (nanstd(advantages_N) + 1e-4)
    return advantages_N.nan_to_num(0.0)


@dataclass(slots=True, kw_only=True)
class LeaveOneOut(SummedRewards):
    """The rule of TRL's RLOO."""

    normalize: bool
    """`RLOOConfig.normalize_advantages`."""

    def of_totals(self, totals_N: Tensor, scale: str | None) -> Tensor:
        """See `SummedRewards`.

        Raises:
            ValueError: a signal that wants rewards divided by the spread of their group.
        """
        if scale == "std":
            raise ValueError("advantage_scale='std' inside TRL's RLOO, which divides by no spread")
        return leave_one_out(totals_N, self.group_size, self.normalize)


class ExplorationRLOOTrainer(ExploringTrainer, RLOOTrainer):
    """RLOOTrainer whose rewards or advantages a signal of g2rl shapes.

    Its arguments beside those of RLOOTrainer, and what it logs, are those of
    `g2rl.integrations.trl.ExplorationGRPOTrainer`.

    Raises:
        ValueError: a signal, an observer or a setting of TRL that does not go together with this;
            the message names it.
    """

    def _make_rule(self) -> LeaveOneOut:
        """What TRL's RLOO makes of rewards."""
        return LeaveOneOut(
            normalize=self.normalize_advantages,
            group_size=self.num_generations,
            unit=self._unit(),
        )

    def _refuse_own(self, who: str) -> None:
        """Refuse signals of the loss, and settings that change rewards behind the signal."""
        # a combined signal acts wherever one of its parts acts
        signal = self._explorer.signal
        levels = {level_of(part) for part in getattr(signal, "parts", [signal])}
        if LOSS in levels:
            raise ValueError(
                f"{who} acts on tokens or entropies of the loss, and RLOO's loss is one of whole "
                "sequences; use ExplorationGRPOTrainer or g2rl-train"
            )
        if self.reward_clip_range:
            raise ValueError(
                f"{who}: reward_clip_range would cut off what the signal adds; leave it unset"
            )

        # TRL takes the KL penalty into the rewards after the signal has acted
        if self.beta != 0 and (levels & {ESTIMATOR, ADVANTAGE} or "advantages" in self._needs):
            raise ValueError(
                f"{who} or its observers look at advantages or replace them, and the KL penalty of "
                f"beta={self.beta} inside them would be lost: set beta=0, or use a signal of "
                "rewards"
            )

    def _take_in(self, shaped: Shaped, batch: GroupBatch, judged_P: Tensor) -> None:
        """As for every trainer; a signal that wants no division by a spread gets none anyway."""
        if getattr(shaped, "advantage_scale", None) == "none" and not self.normalize_advantages:
            shaped = replace(shaped, advantage_scale=None)
        super()._take_in(shaped, batch, judged_P)
