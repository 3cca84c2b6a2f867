"""Cue-GRPO and UARL by hand."""

from __future__ import annotations

import pytest
import torch

from g2rl.exploration.uniqueness import Uniqueness
from tests.exploration.groups import batch_of

ADVANTAGES = torch.tensor([[1.0, 1.0, 1.0, -3.0, -3.0]])


def given(partition: list[int], verdicts: list[int]) -> object:
    return batch_of([verdicts], partition_PG=torch.tensor([partition]), advantages_PG=ADVANTAGES)


def test_cue_keeps_the_credit_of_right_responses_and_all_of_the_wrong() -> None:
    """Right clusters of 2 and 1, alpha 1: weights 1/2, 1/2, 1 of mean 2/3 -> 3/4, 3/4, 3/2."""
    batch = given([0, 0, 5, 0, 5], [1, 1, 1, 0, 0])
    found = Uniqueness(alpha=1.0)(batch).advantages_PG[0].tolist()
    assert found == pytest.approx([0.75, 0.75, 1.5, -3.0, -3.0])
    assert sum(found) == pytest.approx(float(ADVANTAGES.sum()))


def test_uarl_weighs_every_response_by_its_cluster_among_all() -> None:
    """Clusters of 3 and 2 of the whole group, alpha 1/2, no renormalisation."""
    batch = given([0, 0, 5, 0, 5], [1, 1, 1, 0, 0])
    found = Uniqueness(alpha=0.5, variant="uarl")(batch).advantages_PG[0].tolist()
    third, half = 3**-0.5, 2**-0.5
    assert found == pytest.approx([third, third, half, -3 * third, -3 * half])


@pytest.mark.parametrize("partition", [[0, 1, 2, 3, 4], [9, 9, 9, 9, 9]])
def test_trap_a_partition_without_contrast_is_plain_grpo(partition: list[int]) -> None:
    found = Uniqueness()(given(partition, [1, 1, 1, 0, 0])).advantages_PG
    torch.testing.assert_close(found, ADVANTAGES)


def test_a_group_without_right_responses_is_left_alone() -> None:
    found = Uniqueness()(given([0, 0, 1, 1, 1], [0, 0, 0, 0, 0])).advantages_PG
    assert torch.equal(found, ADVANTAGES)


def test_what_is_missing_or_wrong_is_named() -> None:
    with pytest.raises(ValueError, match="advantages and a partition"):
        Uniqueness()(batch_of([[1, 0]]))
    for settings in ({"alpha": -1.0}, {"variant": "rare"}):
        with pytest.raises(ValueError, match="exploration"):
            Uniqueness(**settings)
