"""Cells and markdown, captions, and which modules load matplotlib."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from g2rl.analysis.captions import one_or_mixed, sampled_and_scored, sampled_with_features
from g2rl.analysis.tables import interval_cell, is_share, markdown, seeds_cell
from tests import commands

IMPORTING = """
import importlib
import sys

# the commands of the tests have imported both before
for name in list(sys.modules):
    if name.partition(".")[0] in ("g2rl", {library!r}):
        del sys.modules[name]
for name in {modules!r}.split(", "):
    importlib.import_module("g2rl.analysis." + name)
sys.exit({library!r} in sys.modules)
"""


def test_undefined_values_and_bounds_are_left_out_of_a_cell() -> None:
    assert interval_cell(0.5, 0.25, 0.75) == "0.500 [0.250, 0.750]"
    assert interval_cell(0.5, -0.25, 0.75, "+.2f") == "+0.50 [-0.25, +0.75]"
    for nothing in (None, np.nan):
        assert interval_cell(0.5, nothing, nothing) == "0.500"
        assert interval_cell(nothing, nothing, nothing) == "-"
        assert interval_cell(nothing, 0.0, 1.0, undefined="undefined") == "undefined"


def test_a_cell_says_when_some_seeds_are_missing() -> None:
    assert seeds_cell([], 3) == "-"
    assert seeds_cell([0.25], 1) == "0.250"
    assert seeds_cell([0.25], 3, "+.3f") == "+0.250 (1 of 3)"


def test_markdown_aligns_columns_and_needs_no_heading_above_the_names() -> None:
    rows = [["", "size"], ["a", "1"], ["b", ""]]
    assert markdown(rows) == "| | size |\n|---|---|\n| a | 1 |\n| b |  |"
    assert markdown(rows, right_aligned=["size"]).splitlines()[1] == "|---|---:|"


def test_captions_name_temperatures_and_truncation() -> None:
    assert sampled_and_scored(0.6, 0.9, 50, 1.0) == (
        "sampled at temperature 0.6, top-p 0.9 and top-k 50; p_t scored at temperature 1"
    )
    assert sampled_and_scored(0.6, 1.0, 0, None) == (
        "sampled at temperature 0.6, no truncation; p_t scored at temperature 0.6"
    )
    assert sampled_with_features(1.0, 1.0, 0, 0.6) == (
        "sampled at temperature 1 with no truncation; Φ at temperature 0.6"
    )
    assert one_or_mixed(["a", "a"]) == "a"
    assert one_or_mixed(["b", "a", "b"]) == "mixed: a | b"


@pytest.mark.parametrize(
    ("modules", "library"),
    [
        ("captions, palette", "matplotlib"),
        ("captions, palette", "torch"),
        ("tables, stored", "matplotlib"),
        ("tables, stored", "torch"),
        ("geometry.report, figures.geometry, figures.group, figures.ends", "torch"),
    ],
)
def test_only_modules_that_draw_or_compute_load_their_library(
    modules: str, library: str, tmp_path: Path
) -> None:
    done = commands.run(["-c", IMPORTING.format(modules=modules, library=library)], tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_interval_of_a_share_ends_at_its_bounds() -> None:
    # mean 0.05, s = 0.05, t(0.975; 2) = 4.303: 0.05 +- 0.124
    assert seeds_cell([0.0, 0.05, 0.1], 3) == "0.050 [-0.074, 0.174]"
    assert seeds_cell([0.0, 0.05, 0.1], 3, is_share=True) == "0.050 [0.000, 0.174]"
    assert seeds_cell([1.0, 0.95, 0.9], 3, is_share=True) == "0.950 [0.826, 1.000]"
    assert seeds_cell([0.5], 1, is_share=True) == "0.500", "one seed has no interval"
    for name in ("eval/countdown/pass@4", "hard/pass@16", "train/accuracy", "probe/negative_pairs"):
        assert is_share(name), name
    for name in ("train/length", "probe/cosine", "eval/countdown/distinct", "distinct", "mine/x"):
        assert not is_share(name), name
