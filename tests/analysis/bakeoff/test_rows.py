"""Stored rows of a bake-off: written once, read back, replaced, and asked for the best rate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from g2rl.analysis.bakeoff.rows import Row, add_row, best_rate, read_rows, write_rows


def row(
    arm: str = "grpo", rate: str = "1e-3", seed: int = 0, last: dict[str, float] | None = None
) -> Row:
    identity: dict[str, Any] = {"task": "detour", "arm": arm, "rate": rate, "seed": seed}
    return {
        **identity,
        "protocol": "p",
        "curve": [{"step": 0, "pass@1": 0.3}, {"step": 9, **(last or {})}],
    }


def test_a_later_row_of_a_run_replaces_an_earlier_one(tmp_path: Path) -> None:
    for value in (0.1, 0.2):
        add_row(tmp_path, row(last={"pass@1": value}))
    add_row(tmp_path, row(seed=1, last={"pass@1": 0.5}))
    rows = read_rows([tmp_path, tmp_path / "nowhere"])
    found = rows.find({"task": "detour", "arm": "grpo", "rate": "1e-3", "seed": 0})
    assert found is not None
    assert found["curve"][-1]["pass@1"] == 0.2
    assert len(rows.of("detour")) == 2


def test_a_row_of_another_protocol_is_not_the_row_of_a_run(tmp_path: Path) -> None:
    add_row(tmp_path, row())
    identity = {"task": "detour", "arm": "grpo", "rate": "1e-3", "seed": 0}
    rows = read_rows([tmp_path])
    assert rows.find({**identity, "protocol": "p"}) is not None
    assert rows.find({**identity, "protocol": "q"}) is None


def test_half_a_line_at_the_end_is_forgotten_and_one_before_is_refused(tmp_path: Path) -> None:
    add_row(tmp_path, row())
    file = tmp_path / "detour.jsonl"
    whole = file.read_text()
    file.write_text(whole + '{"task": "det')
    assert len(read_rows([tmp_path]).by_key) == 1

    # the next row does not follow the half line
    add_row(tmp_path, row(seed=7))
    assert [one["seed"] for one in read_rows([tmp_path]).of("detour")] == [0, 7]

    file.write_text('{"task": "det\n' + whole)
    with pytest.raises(ValueError, match=r"detour\.jsonl, line 1: not JSON"):
        read_rows([tmp_path])


def test_rows_are_written_in_one_order(tmp_path: Path) -> None:
    for seed in (3, 1, 2):
        add_row(tmp_path / "a", row(seed=seed))
    write_rows(tmp_path / "b", read_rows([tmp_path / "a"]))
    lines = (tmp_path / "b" / "detour.jsonl").read_text()
    assert [one["seed"] for one in read_rows([tmp_path / "b"]).of("detour")] == [1, 2, 3]
    write_rows(tmp_path / "b", read_rows([tmp_path / "b"]))
    assert (tmp_path / "b" / "detour.jsonl").read_text() == lines


def test_the_best_rate_needs_every_rate() -> None:
    low = row(rate="1e-4", last={"pass@1": 0.5, "pass@32": 0.9})  # mean 0.70
    high = row(rate="1e-3", last={"pass@1": 0.7, "pass@32": 0.8})  # mean 0.75
    metrics = ("pass@1", "pass@32")
    assert best_rate([low, high], metrics) == "1e-3"
    assert best_rate([low, high], ("pass@32",)) == "1e-4"
    assert best_rate([low, None], metrics) is None
    twin = row(rate="2e-4", last={"pass@1": 0.5, "pass@32": 0.9})
    assert best_rate([low, twin], metrics) == "1e-4"
