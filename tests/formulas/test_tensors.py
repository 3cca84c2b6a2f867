"""Small tensor functions on hand-worked cases, and on degenerate rows: never NaN."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from g2rl.formulas.tensors import (
    EXP_LIMIT,
    bounded_exp,
    cosine_matrix,
    midrank,
    minmax,
    segment_mean,
    segment_sum,
    unit_rows,
    unit_rows_float64,
)

DEGENERATE = [0.0, -0.0, 1.0, -1.0, 0.5, 1e-45, -1e-38, 1e-30, 1e-13, 1e-6, 1e10, 1e30, -3e38, 3e38]
rows = st.lists(st.sampled_from(DEGENERATE), min_size=3, max_size=3)
groups = st.lists(rows, min_size=1, max_size=6)


def test_unit_rows_by_hand() -> None:
    unit, zero = unit_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, -2.0]]))
    torch.testing.assert_close(unit, torch.tensor([[0.6, 0.8], [0.0, 0.0], [0.0, -1.0]]))
    assert zero.tolist() == [False, True, False]


def test_unit_rows_of_huge_and_tiny_vectors_neither_overflow_nor_vanish() -> None:
    unit, zero = unit_rows(torch.tensor([[3e38, 3e38], [3e-10, 4e-10], [1e-13, 0.0]]))
    half = math.sqrt(0.5)
    torch.testing.assert_close(unit, torch.tensor([[half, half], [0.6, 0.8], [0.0, 0.0]]))
    assert zero.tolist() == [False, False, True]  # a norm of at most 1e-12 counts as zero


def test_unit_rows_widens_bfloat16_and_keeps_float64() -> None:
    assert unit_rows(torch.ones(2, 3, dtype=torch.bfloat16))[0].dtype == torch.float32
    unit, _ = unit_rows(torch.ones(2, 3, dtype=torch.float64))
    torch.testing.assert_close(
        unit, torch.full((2, 3), 3**-0.5, dtype=torch.float64), rtol=1e-15, atol=0
    )


def test_in_float64_only_a_row_of_zeros_has_no_direction() -> None:
    unit, norm = unit_rows_float64(torch.tensor([[3e38, 4e38 / 2], [1e-45, 0.0], [0.0, 0.0]]))
    assert unit.norm(dim=-1).tolist() == pytest.approx([1.0, 1.0, 0.0], abs=1e-15)
    assert norm[1] > 0
    assert norm[2] == 0
    assert unit.dtype == norm.dtype == torch.float64


@settings(max_examples=300, deadline=None)
@given(groups)
def test_unit_rows_have_norm_one_or_are_flagged_zero(vectors: list[list[float]]) -> None:
    unit, zero = unit_rows(torch.tensor(vectors))
    true_norms = torch.tensor(vectors).double().norm(dim=-1)
    assert torch.equal(zero, true_norms <= 1e-12)
    torch.testing.assert_close(unit.double().norm(dim=-1), (~zero).double(), rtol=0, atol=1e-6)


def test_cosine_matrix_by_hand() -> None:
    """S_ij = v_i.v_j / (|v_i| |v_j|), S_ii = 1, zero rows have S = 0 against all others."""
    cosine, zero = cosine_matrix(torch.tensor([[[2.0, 0.0], [1.0, 1.0], [-5.0, 0.0], [0.0, 0.0]]]))
    c = math.sqrt(0.5)
    expected = [[[1, c, -1, 0], [c, 1, -c, 0], [-1, -c, 1, 0], [0, 0, 0, 1]]]
    torch.testing.assert_close(cosine, torch.tensor(expected))
    assert zero.tolist() == [[False, False, False, True]]


@settings(max_examples=300, deadline=None)
@given(groups)
def test_cosine_matrix_of_degenerate_groups(vectors: list[list[float]]) -> None:
    """Symmetric, finite, within [-1, 1], 1 on the diagonal, and the float64 cosine elsewhere."""
    cosine, zero = cosine_matrix(torch.tensor([vectors]))
    wide = torch.tensor(vectors).double()
    unit = torch.where(
        zero[0][:, None], 0.0, wide / wide.norm(dim=-1, keepdim=True).clamp_min(1e-300)
    )
    expected = (unit @ unit.T).fill_diagonal_(1.0)
    torch.testing.assert_close(cosine[0].double(), expected, rtol=0, atol=1e-6)
    assert cosine.abs().max() <= 1


def test_minmax_by_hand_and_floor() -> None:
    values = torch.tensor([[1.0, 3.0, 2.0], [5.0, 5.0, 5.0], [0.0, 1e-7, 2e-7]])
    torch.testing.assert_close(
        minmax(values, floor=1e-6), torch.tensor([[0, 1, 0.5], [0, 0, 0], [0, 0, 0]])
    )
    torch.testing.assert_close(minmax(values)[2], torch.tensor([0.0, 0.5, 1.0]))
    assert minmax(torch.tensor([[7.0]])).tolist() == [[0.0]]


def test_midrank_by_hand() -> None:
    values = torch.tensor([[10.0, 30.0, 20.0], [1.0, 1.0, 2.0], [4.0, 4.0, 4.0]])
    expected = torch.tensor([[0, 1, 0.5], [0.25, 0.25, 1.0], [0.5, 0.5, 0.5]])
    torch.testing.assert_close(midrank(values), expected)
    assert midrank(torch.tensor([[7.0]])).tolist() == [[0.0]]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(DEGENERATE), min_size=1, max_size=6))
def test_minmax_and_midrank_of_degenerate_values(values: list[float]) -> None:
    for scaled in (midrank(torch.tensor([values])), minmax(torch.tensor([values]).double())):
        assert scaled.isfinite().all()
        assert scaled.min() >= 0
        assert scaled.max() <= 1


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=2, max_size=7))
def test_midrank_is_the_mean_rank_over_tie_orders(values: list[int]) -> None:
    """Rank of v = mean position of its ties in the sorted list, over G - 1."""
    ordered = sorted(values)
    ranks = [[i for i, w in enumerate(ordered) if w == v] for v in values]
    expected = [sum(r) / len(r) / (len(values) - 1) for r in ranks]
    torch.testing.assert_close(midrank(torch.tensor([values]))[0], torch.tensor(expected))


def test_segment_sum_and_mean_by_hand() -> None:
    values, segments = torch.tensor([1.0, 2.0, 3.0, 10.0]), torch.tensor([0, 0, 0, 2])
    assert segment_sum(values, segments, 4).tolist() == [6.0, 0.0, 10.0, 0.0]
    assert segment_mean(values, segments, 4).tolist() == [2.0, 0.0, 10.0, 0.0]


def test_segment_mean_gradient_is_one_over_the_length() -> None:
    values = torch.ones(4, requires_grad=True)
    segment_mean(values, torch.tensor([0, 0, 0, 2]), 4).sum().backward()
    assert values.grad.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 1.0])


def test_bounded_exp_is_exact_below_its_limit_and_its_tangent_above() -> None:
    below = torch.tensor([-math.inf, -1e30, -3.0, 0.0, 2.5, EXP_LIMIT])
    assert torch.equal(bounded_exp(below), below.exp())
    above = torch.tensor([EXP_LIMIT + 1, 1e3, 1e30], dtype=torch.float64)
    assert bounded_exp(above).tolist() == pytest.approx(
        [math.exp(EXP_LIMIT) * (1 + x - EXP_LIMIT) for x in above.tolist()]
    )
    assert torch.isfinite(bounded_exp(torch.tensor([1e30]))).all()
    assert bounded_exp(torch.tensor([math.nan])).isnan().all(), "bad numbers must stay visible"


def test_the_slope_of_bounded_exp_is_that_of_exp_up_to_its_limit() -> None:
    values = torch.tensor([-1e30, 0.0, EXP_LIMIT - 1e-9, EXP_LIMIT, 11.0, 1e30]).double()
    values.requires_grad_(True)
    bounded_exp(values).sum().backward()
    top = math.exp(EXP_LIMIT)
    assert values.grad.tolist() == pytest.approx([0, 1, top, top, top, top])
