"""What signals may ask for, at which level they act, and what a batch offers them."""

from __future__ import annotations

import pytest
import torch

from g2rl.exploration.signal import NEEDS, Signal, Stateless, all_needs, level_of
from g2rl.types import GroupBatch, Shaped


def probe(needs: frozenset[str], level: str = "reward") -> Signal:
    """A signal that changes nothing."""

    class Probe(Stateless):
        name = "probe"

        def __call__(self, batch: GroupBatch) -> Shaped:
            return Shaped(batch.rewards_PG)

    signal = Probe()
    signal.needs, signal.level = needs, level
    return signal


def test_needs_are_joined_and_unknown_ones_refused() -> None:
    signals = [probe(frozenset({"logps"})), probe(frozenset({"hidden", "logps"}))]
    assert all_needs(signals, encoder=False) == {"logps", "hidden"}
    with pytest.raises(ValueError, match="'telepathy'"):
        all_needs([probe(frozenset({"telepathy"}))], encoder=False)


def test_a_partition_needs_a_partitioner_and_what_that_one_needs() -> None:
    signal = probe(frozenset({"partition"}))
    with pytest.raises(ValueError, match="partition=answer"):
        all_needs([signal], encoder=False)
    assert all_needs([signal], False, frozenset({"texts"})) == {"partition", "texts"}
    with pytest.raises(ValueError, match="encoder=ngram"):
        all_needs([signal], False, frozenset({"embeddings"}))


def test_a_signal_without_a_level_acts_on_rewards_and_a_made_up_level_is_refused() -> None:
    class Old:
        name = "old"

    assert level_of(Old()) == "reward"
    assert level_of(probe(NEEDS, "loss")) == "loss"
    with pytest.raises(ValueError, match="'tokens of luck'"):
        level_of(probe(NEEDS, "tokens of luck"))


def test_both_reward_conventions_and_the_mean_log_probability() -> None:
    batch = GroupBatch(
        rewards_PG=torch.tensor([[1.0, -1.0, 1.0]]),
        correct_PG=torch.tensor([[True, False, True]]),
        lengths_PG=torch.tensor([[4, 2, 0]]),
    )
    assert batch.r01_PG.tolist() == [[1.0, 0.0, 1.0]]
    assert batch.logp_mean_PG is None
    batch.logp_sum_PG = torch.tensor([[-2.0, -3.0, 0.0]])
    assert batch.logp_mean_PG.tolist() == [[-0.5, -1.5, 0.0]]


def test_a_response_takes_part_if_both_masks_keep_it() -> None:
    shaped = Shaped(torch.zeros(2, 2))
    assert shaped.kept_PG is None
    shaped.keep_P = torch.tensor([True, False])
    assert shaped.kept_PG.tolist() == [[True, True], [False, False]]
    shaped.keep_PG = torch.tensor([[True, False], [True, True]])
    assert shaped.kept_PG.tolist() == [[True, False], [False, False]]
