"""Paired differences against numbers worked by hand."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from g2rl.analysis.comparison.paired import paired_differences, paired_rows
from g2rl.analysis.comparison.runs import COLUMNS, RunsError
from g2rl.analysis.figures import differences as paired_plots
from g2rl.analysis.tables import seeds_cell

VALUES = {
    "none": {0: 0.50, 1: 0.40, 2: 0.60},
    "g2rl": {0: 0.51, 1: 0.43, 2: 0.62, 7: 0.9},
    "evol": {5: 0.3},
}


def frame() -> pd.DataFrame:
    rows = []
    for arm, seeds in VALUES.items():
        for seed, value in seeds.items():
            rows += [(arm, seed, "r", 0, "acc", 0.1), (arm, seed, "r", 50, "acc", value)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def test_differences_pair_seeds_and_leave_out_what_only_one_arm_has() -> None:
    found = paired_differences(frame(), "acc", "none")
    assert found["g2rl"] == pytest.approx([0.01, 0.03, 0.02])
    assert found["evol"] == []
    assert "none" not in found


def test_the_interval_is_that_of_the_differences_not_of_the_arms() -> None:
    """Mean 0.02, s = 0.01, t(2) = 4.303: half width 4.303 * 0.01 / sqrt(3) = 0.0248."""
    rows = paired_rows(frame(), {"acc": "accuracy"}, "none")
    assert rows[0] == ["minus none", "seeds", "accuracy"]
    assert rows[1] == ["g2rl", "3", "+0.020 [-0.005, +0.045]"]
    assert rows[2] == ["evol", "0", "-"]


def test_one_shared_seed_has_no_interval_and_a_missing_metric_is_said() -> None:
    assert seeds_cell([0.25], 1, "+.3f") == "+0.250"
    assert seeds_cell([0.25], 3, "+.3f") == "+0.250 (1 of 3)"
    assert paired_rows(frame(), {"nothing": "nothing"}, "none")[1] == ["g2rl", "0", "-"]


def test_an_unknown_arm_is_named() -> None:
    with pytest.raises(RunsError, match=r"no arm 'nonne'.*'none', 'g2rl', 'evol'"):
        paired_differences(frame(), "acc", "nonne")


def test_the_figure_shows_every_seed_the_mean_and_its_interval(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn = []
    monkeypatch.setattr(
        paired_plots, "save_figure", lambda figure, path: drawn.append(figure) or path
    )
    paired_plots.draw_differences(frame(), {"acc": ("accuracy", "share")}, "none", Path("unused"))
    (axis,) = drawn[0].axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["g2rl", "evol"]
    line, seeds, mean = axis.get_lines()[:3]
    assert list(line.get_xdata()) == [0.0, 0.0]  # the arm that is subtracted
    assert list(seeds.get_xdata()) == pytest.approx([0.01, 0.03, 0.02])
    assert list(mean.get_xdata()) == pytest.approx([0.02])
    (bar,) = axis.collections[0].get_segments()
    assert sorted(point[0] for point in bar) == pytest.approx([-0.00484, 0.04484], abs=1e-5)
    assert len(axis.collections) == 1  # evol shares no seed
