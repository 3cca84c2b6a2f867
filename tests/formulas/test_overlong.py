"""Soft overlong punishment at the paper's own lengths, and by hand."""

from __future__ import annotations

import pytest
import torch

from g2rl.formulas.overlong import OverlongShaping


@pytest.mark.parametrize(
    ("length", "lost"),
    [(0, 0.0), (16_384, 0.0), (17_408, 0.25), (18_432, 0.5), (20_480, 1.0), (30_000, 1.0)],
)
def test_the_papers_lengths(length: int, lost: float) -> None:
    """DAPO: L_max = 20,480 and L_cache = 4,096 = 0.2 L_max; Eq. 13 gives minus these numbers."""
    shaping = OverlongShaping(buffer=0.2, max_tokens=20_480)
    assert shaping(torch.tensor([[length]])).item() == pytest.approx(lost, abs=1e-6)


def test_the_penalty_scales_the_loss() -> None:
    """L_max = 10 and a buffer of 4: from 6 tokens on, 1/4 a token, times 2."""
    shaping = OverlongShaping(buffer=0.4, penalty=2.0, max_tokens=10)
    found = shaping(torch.tensor([[6, 7, 8], [9, 10, 1]]))
    assert found.flatten().tolist() == pytest.approx([0.0, 0.5, 1.0, 1.5, 2.0, 0.0])


@pytest.mark.parametrize("settings", [{}, {"buffer": 0.5, "penalty": 0.0}])
def test_nothing_is_lost_where_it_is_off(settings: dict[str, float]) -> None:
    shaping = OverlongShaping(max_tokens=4, **settings)
    assert not shaping.is_on
    assert (shaping(torch.tensor([[0, 4, 400]])) == 0).all()


def test_a_buffer_of_the_whole_limit_makes_every_token_cost() -> None:
    assert OverlongShaping(1.0, 1.0, 4)(torch.tensor([0, 1, 4])).tolist() == [0.0, 0.25, 1.0]


@pytest.mark.parametrize("bad", [{"buffer": -0.1}, {"buffer": 1.1}, {"penalty": -1.0}])
def test_settings_are_checked(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"algorithm\.overlong_"):
        OverlongShaping(**bad)
