"""Signals inside TRL's RLOOTrainer: advantages by hand, and what is refused.

That training without a signal is TRL's own, to the last bit, is tested in `test_trl.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("trl")
from trl import RLOOTrainer

from g2rl.cli.config.choices import choices
from g2rl.exploration import GroupBatch, Shaped
from g2rl.exploration.g2rl import GradientGuided
from g2rl.integrations.rewards import VerifierReward
from g2rl.integrations.trl_rloo import ExplorationRLOOTrainer, leave_one_out
from g2rl.policy.loading import LoadedModel
from g2rl.tasks.countdown import Countdown
from tests.integrations.small_trl import GROUP, RIGHT, Watch, one_batch, trainer

VERDICTS = [1.0 if number in RIGHT else 0.0 for number in range(2 * GROUP)]
NO_KL = {"beta": 0.0}


def by_hand(rewards: list[float]) -> list[float]:
    """Each reward less the mean of the others of its group."""
    found: list[float] = []
    for start in range(0, len(rewards), GROUP):
        group = rewards[start : start + GROUP]
        for reward in group:
            found.append(reward - (sum(group) - reward) / (GROUP - 1))
    return found


def rloo(tiny: LoadedModel, folder: Path, **options: Any) -> Any:
    return trainer(tiny, folder, ExplorationRLOOTrainer, **options)


def close(found: Any, expected: Any) -> None:
    torch.testing.assert_close(torch.as_tensor(found), torch.as_tensor(expected), rtol=0, atol=1e-5)


def ramp(batch: GroupBatch) -> Tensor:
    """Something that differs from response to response."""
    return 0.1 * torch.arange(1.0, 1.0 + batch.rewards_PG.numel()).view_as(batch.rewards_PG)


def test_shaped_rewards_are_compared_with_the_others_of_their_group(
    tiny: LoadedModel, tmp_path: Path
) -> None:
    """A signal's change of 1 is worth half of what lies between wrong and right."""
    seen: list[tuple[GroupBatch, Shaped]] = []

    def say(batch: GroupBatch) -> Shaped:
        shaped = GradientGuided()(batch)
        seen.append((batch, shaped))
        return shaped

    watch = Watch("features", say=say)
    made = rloo(tiny, tmp_path, signal=watch, settings=NO_KL)
    output = one_batch(made)
    [(batch, shaped)] = seen
    assert batch.rewards_PG.flatten().tolist() == [2 * verdict - 1 for verdict in VERDICTS]
    added = ((shaped.rewards_PG - batch.rewards_PG) / 2).flatten()
    assert float(added.abs().max()) > 1e-3
    close(output["advantages"], by_hand((torch.tensor(VERDICTS) + added).tolist()))
    assert made._metrics["train"]["rewards/exploration/mean"] == pytest.approx(
        [float(added.mean())]
    )


@pytest.mark.parametrize("normalize", [False, True])
def test_advantages_of_a_signal_are_used_as_they_are(
    normalize: bool, tiny: LoadedModel, tmp_path: Path
) -> None:
    """It sees plain TRL's advantages, and the loss gets what it returns."""
    settings = {**NO_KL, "normalize_advantages": normalize}
    plain = one_batch(trainer(tiny, tmp_path, RLOOTrainer, settings=settings))["advantages"]
    watch = Watch("advantages", level="advantage")
    watch.say = lambda batch: Shaped(
        batch.rewards_PG, advantages_PG=batch.advantages_PG + ramp(batch)
    )
    made = rloo(tiny, tmp_path, signal=watch, settings=settings)
    output = one_batch(made)
    [batch] = watch.batches
    assert batch.advantages_PG is not None
    close(batch.advantages_PG.flatten(), plain)
    close(output["advantages"], plain + ramp(batch).flatten())
    close(list(made._logs["advantages"]), output["advantages"])


@pytest.mark.parametrize("normalize", [False, True])
def test_a_signal_that_wants_no_division(
    normalize: bool, tiny: LoadedModel, tmp_path: Path
) -> None:
    """RLOO divides by no spread, unless it normalizes all advantages."""
    watch = Watch(say=lambda batch: Shaped(batch.rewards_PG, advantage_scale="none"))
    settings = {"beta": 0.05, "normalize_advantages": normalize}
    made = rloo(tiny, tmp_path, signal=watch, settings=settings)
    if normalize:
        with pytest.raises(ValueError, match="watch inside TRL: advantage_scale is not supported"):
            one_batch(made)
    else:
        close(one_batch(made)["advantages"], by_hand(VERDICTS))


def test_responses_that_nobody_judged_take_part_in_no_mean() -> None:
    rewards_N = torch.tensor([1.0, 0.0, torch.nan, 0.5, torch.nan, torch.nan, 3.0, torch.nan])
    close(leave_one_out(rewards_N, 4, False), [0.75, -0.75, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])


LOSS, LEFT_OUT = "RLOO's loss is one of whole sequences", "keep_PG is not supported here"
REFUSED = {
    "clip_cov": LOSS,
    "combined": LOSS,
    "entropy": LOSS,
    "entropy_advantage": LOSS,
    "entropy_controller": LOSS,
    "forking_tokens": LOSS,
    "kl_cov": LOSS,
    "nsr": LEFT_OUT,
}
"""Signals that the loss has no place for."""


@pytest.mark.parametrize("name", choices("exploration"))
def test_every_signal_works_or_is_refused_by_name(
    name: str, tiny: LoadedModel, tmp_path: Path
) -> None:
    reward = VerifierReward(Countdown().verifier)
    options: dict[str, Any] = {"signal": name, "reward_funcs": reward, "answers": reward}
    options |= {"encoder": "ngram", "partition": "answer"}
    options["settings"] = {"beta": 0.05} if name == "repexp" else NO_KL  # looks at the reference
    if name in REFUSED:
        with pytest.raises(ValueError, match=f"signal {name}.* inside TRL.*{REFUSED[name]}"):
            one_batch(rloo(tiny, tmp_path, **options))
    else:
        advantages = one_batch(rloo(tiny, tmp_path, **options))["advantages"]
        assert advantages.isfinite().all()
        assert len(advantages) == 2 * GROUP


@pytest.mark.parametrize(
    ("message", "options", "settings"),
    [
        ("reward_clip_range", {"signal": "g2rl"}, {"reward_clip_range": (-1.0, 1.0)}),
        ("set beta=0", {"signal": "passk"}, {"beta": 0.05}),
        ("set beta=0", {"signal": "g2rl", "observers": ["uniqueness"]}, {"beta": 0.05}),
        ("whole sequences", {"signal": ["passk", "clip_cov"]}, {}),
    ],
)
def test_refused_before_training(
    message: str,
    options: dict[str, Any],
    settings: dict[str, Any],
    tiny: LoadedModel,
    tmp_path: Path,
) -> None:
    reward = VerifierReward(Countdown().verifier)
    options = {"partition": "answer", "reward_funcs": reward, "answers": reward, **options}
    with pytest.raises(ValueError, match=f"signal .* inside TRL.*{message}"):
        rloo(tiny, tmp_path, settings=settings, **options)


@pytest.mark.parametrize("part", ["entropy_coef", "token_bonus", "keep_PG", "advantage_scale"])
def test_parts_without_a_place_are_refused(part: str, tiny: LoadedModel, tmp_path: Path) -> None:
    def say(batch: GroupBatch) -> Shaped:
        lengths = batch.lengths_PG.flatten().tolist()
        values = {
            "entropy_coef": 0.1,
            "token_bonus": [torch.zeros(length) for length in lengths],
            "keep_PG": torch.ones(2, GROUP, dtype=torch.bool),
            "advantage_scale": "std",
        }
        return Shaped(batch.rewards_PG, **{part: values[part]})

    watch = Watch(say=say)
    with pytest.raises(ValueError, match=f"watch inside TRL: {part} is not supported here"):
        one_batch(rloo(tiny, tmp_path, signal=watch, settings=NO_KL))
