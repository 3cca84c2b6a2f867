"""Contrasts between arms: the family is what was stated, and only what survives it is in bold."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from g2rl.analysis.comparison.contrasts import (
    contrast_frame,
    contrast_rows,
    contrasts,
    explanation,
    p_text,
)
from g2rl.analysis.comparison.runs import COLUMNS, RunsError
from g2rl.formulas.contrasts import detectable_difference, holm, paired_contrast

NOISE = (0.00, 0.01, -0.01, 0.005, -0.005)
SHIFTS = {"near": 0.002, "far": 0.2, "single": 0.1, "stranger": 0.5}


def frame() -> pd.DataFrame:
    """Five seeds of four arms and one of another; `stranger` shares no seed with `none`."""
    rows = []
    for seed in range(5):
        for metric in ("acc", "cov"):
            rows.append(("none", seed, "r", 9, metric, 0.3 + 0.1 * seed))
        for arm, shift in SHIFTS.items():
            if arm == "single" and seed > 0:
                continue
            shown_seed = seed + 100 if arm == "stranger" else seed
            for metric, sign in (("acc", 1), ("cov", -1)):
                value = 0.3 + 0.1 * seed + sign * shift + NOISE[seed]
                rows.append((arm, shown_seed, "r", 9, metric, value))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def test_p_values_are_adjusted_over_the_stated_family() -> None:
    found = {
        (one.arm, one.metric): one for one in contrasts(frame(), ["acc", "cov"], "none", ["acc"])
    }
    near = paired_contrast([0.002 + noise for noise in NOISE])
    far = paired_contrast([0.2 + noise for noise in NOISE])
    assert found["near", "acc"].result == pytest.approx(near)

    # four members, of which two cannot be tested and count nevertheless
    adjusted = holm([near.p_value, far.p_value, math.nan, math.nan])
    assert found["near", "acc"].adjusted == pytest.approx(adjusted[0])
    assert found["far", "acc"].adjusted == pytest.approx(adjusted[1], rel=1e-6)
    assert {one.family for key, one in found.items() if key[1] == "acc"} == {4}
    assert found["far", "acc"].detectable == pytest.approx(
        detectable_difference(float(np.std(NOISE, ddof=1)), 5, 0.05 / 4)
    )
    assert found["far", "acc"].stands_out
    assert not found["near", "acc"].stands_out

    # outside the family nothing stands out, however small p is
    assert found["far", "cov"].result is not None
    assert found["far", "cov"].result.p_value < 1e-4
    assert found["far", "cov"].family == 0
    assert not found["far", "cov"].stands_out


def test_cells_say_what_is_adjusted_and_what_cannot_be_tested() -> None:
    found = contrasts(frame(), ["acc", "cov"], "none", ["acc"])
    headings = {"acc": "accuracy", "cov": "coverage"}
    rows = {(row[0], row[1]): row[2:] for row in contrast_rows(found, headings, "none")}
    assert rows["accuracy", "far"][1].startswith("**+0.200 [")
    assert rows["accuracy", "far"][3].startswith("**")
    assert not rows["accuracy", "near"][1].startswith("**")
    assert rows["coverage", "far"][3] == "unadjusted"
    assert rows["accuracy", "single"] == ["1", "+0.100", "-", "-", "-"]
    assert rows["accuracy", "stranger"] == ["0", "-", "-", "-", "-"]

    text = explanation(found, "none")
    assert "4 members" in text
    assert "1 of them stand out" in text
    assert "0.05 / 4" in text


def test_numbers_are_those_of_the_contrasts() -> None:
    table = contrast_frame(contrasts(frame(), ["acc"], "none", ["acc"]), "none").set_index("arm")
    assert table.loc["far", "difference"] == pytest.approx(0.2)
    assert table.loc["far", "low"] < 0.2 < table.loc["far", "high"]
    assert table.loc["stranger", "seeds"] == 0
    assert math.isnan(table.loc["single", "p"])
    assert set(table["family"]) == {4}


def test_what_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match="family names cov"):
        contrasts(frame(), ["acc"], "none", ["cov"])
    with pytest.raises(RunsError, match="no arm 'nonne'"):
        contrasts(frame(), ["acc"], "nonne", ["acc"])
    assert contrasts(frame().query("arm == 'none'"), ["acc"], "none", ["acc"]) == []


def test_small_p_values_are_not_called_zero() -> None:
    assert [p_text(p) for p in (0.0004, 0.0123, 1.0, math.nan)] == ["<0.001", "0.012", "1.000", "-"]
