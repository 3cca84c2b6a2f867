"""NSR, PSR and W-REINFORCE: three tables, and who takes part."""

from __future__ import annotations

import pytest

from g2rl.exploration.nsr import NegativeReinforcement
from tests.exploration.groups import batch_of


@pytest.mark.parametrize(
    ("mode", "advantages", "keep"),
    [
        ("nsr", [1.0, -1.0, 1.0, -1.0], [False, True, False, True]),
        ("psr", [1.0, -1.0, 1.0, -1.0], [True, False, True, False]),
        ("weighted", [0.1, -1.0, 0.1, -1.0], None),
    ],
)
def test_trap_the_other_class_is_removed_and_not_zeroed(
    mode: str, advantages: list[float], keep: list[bool] | None
) -> None:
    """What removal means for the update: tests/whole/test_invariance.py."""
    shaped = NegativeReinforcement(mode)(batch_of([[1, 0, 1, 0]]))
    assert shaped.advantages_PG[0].tolist() == pytest.approx(advantages)
    assert (shaped.kept_PG if keep is None else shaped.kept_PG[0].tolist()) == keep


def test_there_is_no_baseline_so_uniform_groups_teach() -> None:
    shaped = NegativeReinforcement("weighted", weight=0.5)(batch_of([[1, 1], [0, 0]]))
    assert shaped.advantages_PG.tolist() == [[0.5, 0.5], [-1.0, -1.0]]


def test_removed_responses_are_scored_beforehand() -> None:
    assert NegativeReinforcement("nsr").needs == NegativeReinforcement("psr").needs == {"entropy"}
    assert NegativeReinforcement("weighted").needs == frozenset()


def test_wrong_settings_are_named() -> None:
    for settings in ({"mode": "both"}, {"weight": -0.1}):
        with pytest.raises(ValueError, match=r"exploration\.(mode|weight)"):
            NegativeReinforcement(**settings)
