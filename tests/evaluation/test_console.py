"""What is said beside a comparison: what its intervals cover."""

from __future__ import annotations

import numpy as np
import pytest

from g2rl.evaluation.console import coverage_note
from g2rl.formulas.estimators import bootstrap_interval


def rows(baseline_runs: int, other_runs: int) -> list[dict[str, int]]:
    return [{"baseline_runs": baseline_runs, "other_runs": other_runs}]


@pytest.mark.parametrize(("runs", "other_runs"), [(1, 1), (5, 1), (1, 30)])
def test_one_run_of_an_arm_says_nothing_about_methods(runs: int, other_runs: int) -> None:
    assert "nothing about methods" in coverage_note(rows(runs, other_runs))


def test_few_runs_are_too_narrow_and_many_are_not() -> None:
    assert "too narrow" in coverage_note(rows(3, 8))
    assert "too narrow" not in coverage_note(rows(30, 20))


def test_a_bootstrap_of_eight_covers_what_the_note_says() -> None:
    generator = np.random.default_rng(0)
    intervals = [bootstrap_interval(values) for values in generator.normal(size=(800, 8))]
    covered = np.mean([low <= 0 <= high for _, low, high in intervals])
    print(f"covered: {covered:.3f}")
    assert covered == pytest.approx(0.89, abs=0.025)
    assert "89 %" in coverage_note(rows(8, 8))
