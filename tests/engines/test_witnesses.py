"""Which responses are watched, and what is written down of them."""

from __future__ import annotations

import math

import pytest
import torch

from g2rl.engines.witnesses import TOKENS, Witnesses, choose

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("count", "chosen"),
    [
        (0, []),
        (1, [0]),
        (2, [0, 1]),
        (4, [0, 1, 2, 3]),
        (10, [0, 3, 6, 9]),
        (256, [0, 85, 170, 255]),
    ],
)
def test_a_few_rows_are_spread_over_all(count: int, chosen: list[int]) -> None:
    assert choose(range(count)) == chosen


def test_log_probs_follow_a_row_through_a_shrinking_batch() -> None:
    witnesses = Witnesses(0.5, {7: [], 4: []})
    logits = torch.tensor([[0.0, 1.0], [2.0, 0.0], [0.0, 0.0]])
    expected = (logits / 0.5).log_softmax(-1)

    witnesses.enter([4, 5, 7], CPU)
    witnesses.see(logits, torch.tensor([1, 0, 0]), 0)
    witnesses.leave()
    witnesses.enter([7], CPU)  # 4 has stopped
    witnesses.see(logits[1:2], torch.tensor([1]), 1)
    witnesses.leave()
    assert witnesses.logps[4] == pytest.approx([float(expected[0, 1])])
    assert witnesses.logps[7] == pytest.approx([float(expected[2, 0]), float(expected[1, 1])])

    # nobody is watched any more
    witnesses.enter([9], CPU)
    witnesses.see(logits[:1], torch.tensor([0]), 2)
    witnesses.leave()
    assert len(witnesses.logps[7]) == 2


def test_the_end_of_a_long_response_is_passed_over() -> None:
    witnesses = Witnesses(1.0, {0: []})
    witnesses.enter([0], CPU)
    for t in range(TOKENS + 5):
        witnesses.see(torch.zeros(1, 4), torch.tensor([2]), t)
    witnesses.leave()
    assert witnesses.logps[0] == pytest.approx([-math.log(4)] * TOKENS)
