"""What a packed micro-batch holds, and how rows are divided among micro-batches."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import pytest
import torch

from g2rl.policy.batching import Sequences
from g2rl.policy.packing import (
    KEYS_SHARE,
    computed_tokens,
    form_micro_batch,
    packed_tokens,
    plan_batches,
)

CPU = torch.device("cpu")
LONG, SHORT, LONE = list(range(5, 15)), [20, 21, 22], [30]
SEQUENCES = Sequences(
    [LONG, LONG, LONG, LONG, SHORT, SHORT, SHORT, LONE],
    [[3] * 4, [8] * 11, [7], [5] * 4, [], [1, 2], [3], [9, 8, 7]],
)


def budgeted(sequences: Sequences, part: Sequence[int]) -> int:
    """What a micro-batch counts against a budget, written down once more.

    Packed: every prompt once, every response, and an eighth of every whole row. Padded, where
    packing saves less than a tenth of the tokens: all rows as long as the longest.
    """
    prompts = {tuple(sequences.prompts[n]) for n in part}
    whole = [len(sequences.prompts[n]) + len(sequences.responses[n]) for n in part]
    padded = len(part) * max(whole)
    packed = sum(map(len, prompts)) + sum(len(sequences.responses[n]) for n in part)
    return packed + sum(whole) // 8 if packed <= 0.9 * padded else padded


def test_a_group_computes_its_prompt_once_and_no_last_tokens() -> None:
    prompt = list(range(34))
    few_shot = Sequences([prompt] * 8, [[40 + n] * 6 for n in range(8)])
    rows = list(range(8))
    batch = form_micro_batch(few_shot, rows, CPU, sharing=True)
    assert batch.input_ids_BL.shape == (1, 34 + 8 * 5)
    assert form_micro_batch(few_shot, rows, CPU, sharing=False).input_ids_BL.shape == (8, 40)
    assert batch.position_ids_BL[0, :44].tolist() == [*range(34), *range(34, 39), *range(34, 39)]

    # nothing is gained where nothing is shared and nothing padded
    alone = Sequences([[n, 1, 2] for n in rows], few_shot.responses)
    assert form_micro_batch(alone, rows, CPU, sharing=True).layout is None


@pytest.mark.parametrize("budget", [1, 12, 24, 40, 1000])
def test_every_row_is_in_one_micro_batch_within_the_budget(budget: int) -> None:
    rows = [0, 1, 2, 3, 5, 6, 7]
    plan = plan_batches(SEQUENCES, rows, budget, sharing=True)
    assert sorted(chain(*plan)) == rows
    for part in plan:
        counted = budgeted(SEQUENCES, part)
        assert computed_tokens(SEQUENCES, [part], sharing=True) == counted
        assert len(part) == 1 or counted <= budget
    assert (budget < 1000) == (len(plan) > 1)


def test_the_budget_counts_what_is_computed_and_the_keys_of_every_response() -> None:
    few_shot = Sequences([list(range(34))] * 8, [[7] * 6] * 8)
    assert packed_tokens(few_shot, range(8)) == 34 + 8 * 6
    expected = 34 + 8 * 6 + 8 * 40 // KEYS_SHARE
    assert computed_tokens(few_shot, [range(8)], sharing=True) == expected
    assert computed_tokens(few_shot, [range(8)], sharing=False) == 8 * 40
    assert len(plan_batches(few_shot, range(8), expected, sharing=True)) == 1
    assert len(plan_batches(few_shot, range(8), expected - 1, sharing=True)) == 2


def test_micro_batches_are_filled_before_another_begins() -> None:
    """Six groups of four: 20 tokens of a prompt, four times 5, and an eighth of four times 25."""
    prompts = [[p] * 20 for p in range(6) for _ in range(4)]
    alike = Sequences(prompts, [[7] * 5] * 24)
    for budget, groups in ((52, 1), (104, 1), (105, 2), (156, 2), (157, 3), (315, 6)):
        plan = plan_batches(alike, range(24), budget, sharing=True)
        assert [len(part) for part in plan] == [4 * groups] * (6 // groups)
        assert all(budgeted(alike, part) <= budget for part in plan)


def test_the_parts_of_a_large_group_are_filled_too() -> None:
    group = Sequences([[5] * 20] * 12, [[7] * 5] * 12)
    plan = plan_batches(group, range(12), 52, sharing=True)
    assert [len(part) for part in plan] == [4, 4, 4]
