"""Group advantages: the one place where rewards become advantages.

GRPO (arXiv 2402.03300; arXiv 2512.15687, Eq. 2):   A_i = (r_i - mean_j r_j) / sqrt(var_j r_j + eps)
Dr. GRPO (arXiv 2503.20783):                        A_i =  r_i - mean_j r_j

with the population variance of the group. A *uniform* group is one whose base rewards are all
equal. Plain GRPO gives its responses advantage 0. A signal that shapes rewards makes them differ a
little, and dividing by this small spread would make advantages of order one from it. The setting
`uniform_groups` says what happens instead:

    shape   standardise like any group (the behaviour arXiv 2512.15687 implies)
    drop    advantage 0
    floor   divide by max(sqrt(var + eps), floor)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SCALES = ("std", "none")
UNIFORM_POLICIES = ("shape", "drop", "floor")


@dataclass(slots=True, frozen=True)
class GroupAdvantage:
    """Advantage of each response within its group.

    Args:
        scale: "std" divides by the group's standard deviation, "none" does not (Dr. GRPO).
        eps: added to the variance.
        uniform_groups: policy for groups whose base rewards are all equal.
        floor: smallest divisor for such groups under "floor", in reward units.
    """

    scale: str = "std"
    eps: float = 1e-6
    uniform_groups: str = "shape"
    floor: float = 0.5

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            raise ValueError(
                f"algorithm.advantage_scale must be one of {SCALES}, got {self.scale!r}"
            )
        if self.uniform_groups not in UNIFORM_POLICIES:
            raise ValueError(
                f"algorithm.uniform_groups must be one of {UNIFORM_POLICIES}, "
                f"got {self.uniform_groups!r}"
            )

        # both are divided by
        for key, value in (("advantage_eps", self.eps), ("uniform_floor", self.floor)):
            if value <= 0:
                raise ValueError(f"algorithm.{key} must be > 0, got {value}")

    def __call__(
        self,
        rewards_PG: Tensor,
        base_rewards_PG: Tensor,
        scale: str | None = None,
        correct_PG: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, float]]:
        """Advantages of the shaped rewards, and metrics.

        A group of one response has advantage 0: its reward is its mean.

        Args:
            rewards_PG: shaped rewards.
            base_rewards_PG: rewards of the verifier, which say what groups are uniform.
            scale: "std" or "none" for this batch; None takes the setting.
            correct_PG: boolean verdicts, for the metrics; None takes base rewards above 0.

        Returns:
            The advantages (P, G), and what `advantage_metrics` says of them.

        Raises:
            ValueError: another scale.
        """
        scale = self.scale if scale is None else scale
        if scale not in SCALES:
            raise ValueError(f"the scale of advantages must be one of {SCALES}, got {scale!r}")

        # a response is compared with the mean of its own group
        centred_PG = centred(rewards_PG)

        # the divisor of each group
        uniform_P = uniform_groups(base_rewards_PG)
        divisor_P = torch.ones_like(uniform_P, dtype=rewards_PG.dtype)
        if scale == "std":
            divisor_P = (centred_PG.square().mean(-1) + self.eps).sqrt()
        if self.uniform_groups == "floor":
            divisor_P = torch.where(uniform_P, divisor_P.clamp_min(self.floor), divisor_P)

        # a uniform group that is dropped teaches nothing
        advantages_PG = centred_PG / divisor_P.unsqueeze(-1)
        if self.uniform_groups == "drop":
            advantages_PG = advantages_PG.masked_fill(uniform_P.unsqueeze(-1), 0.0)

        return advantages_PG, advantage_metrics(advantages_PG, base_rewards_PG, correct_PG)


def centred(rewards_PG: Tensor) -> Tensor:
    """Rewards minus the mean of their group, (P, G); exactly 0 in a group of equal rewards.

    The mean of equal rewards need not be that reward: 16 times 1.3 has another mean in float32. So
    a group counts as equal if its rewards differ by no more than rounding: four units of the last
    place of the largest.
    """
    # what is left of a difference that is rounding alone would be divided by sqrt(eps)
    spread_P1 = rewards_PG.amax(-1, keepdim=True) - rewards_PG.amin(-1, keepdim=True)
    largest_P1 = rewards_PG.abs().amax(-1, keepdim=True)
    is_equal_P1 = spread_P1 <= 4 * torch.finfo(rewards_PG.dtype).eps * largest_P1

    # in all other groups the difference is that of the reward and its mean
    centred_PG = rewards_PG - rewards_PG.mean(-1, keepdim=True)
    return centred_PG.masked_fill(is_equal_P1, 0.0)


def uniform_groups(base_rewards_PG: Tensor) -> Tensor:
    """Which groups have base rewards that are all equal, (P,) boolean."""
    return (base_rewards_PG == base_rewards_PG[:, :1]).all(-1)


def advantage_metrics(
    advantages_PG: Tensor, base_rewards_PG: Tensor, correct_PG: Tensor | None = None
) -> dict[str, float]:
    """What a batch of advantages looks like, whoever made them.

    Args:
        advantages_PG: advantages of P groups.
        base_rewards_PG: rewards of the verifier, which say what groups are uniform.
        correct_PG: boolean verdicts; None takes base rewards above 0, which graded rewards are not
            to be judged by.

    Returns:
        The shares of groups that are uniform and correct, uniform and wrong, or have no advantage
        other than 0, and the mean magnitude of the advantages.
    """
    # a uniform group is solved if its first response is right
    uniform_P = uniform_groups(base_rewards_PG)
    if correct_PG is None:
        correct_PG = base_rewards_PG > 0
    solved_P = uniform_P & correct_PG[:, 0]
    failed_P = uniform_P & ~solved_P

    # a group in which every advantage is 0 teaches nothing
    without_contrast_P = (advantages_PG == 0).all(-1)
    return {
        "uniform_correct": solved_P.float().mean().item(),
        "uniform_wrong": failed_P.float().mean().item(),
        "zero_advantage": without_contrast_P.float().mean().item(),
        "abs_mean": advantages_PG.abs().mean().item(),
    }
