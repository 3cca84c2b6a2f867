"""An entropy bonus whose coefficient is steered towards a target entropy.

Skywork-OR1 (arXiv 2505.22312); TRL has it as entropy_target and entropy_coef_delta. With the mean
token entropy e of the responses of a step and the coefficient c, which begins at `start`:

    bonus of the step    c if e <= target, else 0
    afterwards           c += delta if e <= target, else c -= delta, kept within [least, most]

TRL decides on the bonus of a step by the entropy of the step before, and gives none in the first;
here the entropy of the step itself is known before its update. The coefficient is part of the
checkpoint.
"""

from __future__ import annotations

import math
from typing import Any

from g2rl.exploration.signal import missing_need
from g2rl.types import GroupBatch, Shaped


class EntropyController:
    """A controlled entropy bonus as a signal; rewards stay as they are.

    Args:
        target: mean token entropy in nats, > 0. TRL's default of 0.2 acts on a collapsed policy
            only.
        delta: change of the coefficient in a step, > 0.
        start: first coefficient, in loss units per nat.
        least, most: bounds of the coefficient.

    Raises:
        ValueError: a setting that cannot be.
    """

    name = "entropy_controller"
    level = "loss"
    needs = frozenset({"entropy"})

    def __init__(
        self,
        target: float = 0.2,
        delta: float = 0.005,
        start: float = 0.0,
        least: float = 0.0,
        most: float = 1.0,
    ) -> None:
        # an entropy is never below 0, so such a target would never be missed
        if target <= 0 or delta <= 0:
            raise ValueError(
                f"exploration.target and exploration.delta must be > 0, got {target} and {delta}"
            )

        # the coefficient begins within its bounds
        if not 0 <= least <= start <= most:
            raise ValueError(
                "exploration: need 0 <= least <= start <= most, "
                f"got least={least}, start={start}, most={most}"
            )
        self.target, self.delta, self.least, self.most = target, delta, least, most
        self.coefficient = start

    def __call__(self, batch: GroupBatch) -> Shaped:
        """Give the bonus of a step, and move the coefficient for the next.

        Raises:
            ValueError: the batch carries no entropies.
        """
        if batch.entropy_PG is None:
            raise missing_need(self.name, "entropies")

        # the mean over tokens; a step without any moves nothing
        lengths_PG = batch.lengths_PG.double()
        token_count = float(lengths_PG.sum())
        if token_count == 0:
            return Shaped(rewards_PG=batch.rewards_PG)
        entropy = float((batch.entropy_PG.double() * lengths_PG).sum()) / token_count

        # too little entropy asks for more bonus
        is_low = entropy <= self.target
        bonus = self.coefficient if is_low else 0.0
        change = self.delta if is_low else -self.delta
        self.coefficient = min(max(self.coefficient + change, self.least), self.most)
        return Shaped(
            rewards_PG=batch.rewards_PG,
            entropy_coef=bonus,
            metrics={"entropy_controlled": entropy, "entropy_coefficient": bonus},
        )

    def state_dict(self) -> dict[str, Any]:
        """The coefficient of the next step."""
        return {"coefficient": self.coefficient}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue with a checkpoint's coefficient.

        Raises:
            ValueError: the checkpoint holds something else.
        """
        # one number, and nothing of another signal
        coefficient = state.get("coefficient")
        if set(state) != {"coefficient"} or not isinstance(coefficient, int | float):
            raise ValueError(
                f"exploration={self.name}: the checkpoint holds {sorted(state)}, not a coefficient"
            )

        # bounds belong to the settings, which do not change when a run is continued
        if not math.isfinite(coefficient) or not self.least <= coefficient <= self.most:
            raise ValueError(
                f"exploration={self.name}: the checkpoint's coefficient {coefficient} is outside "
                f"[{self.least}, {self.most}]"
            )
        self.coefficient = float(coefficient)
