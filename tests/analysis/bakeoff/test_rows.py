"""Stored rows of a bake-off: written once, read back, replaced, and asked for the best rate."""

from __future__ import annotations

import fcntl
import json
import math
import resource
from pathlib import Path
from typing import Any

import pytest

from g2rl.analysis.bakeoff.rows import Row, add_row, best_rate, read_rows, write_rows
from tests.support import in_this_thread


def row(
    arm: str = "grpo", rate: str = "1e-3", seed: int = 0, last: dict[str, float] | None = None
) -> Row:
    identity: dict[str, Any] = {"task": "detour", "arm": arm, "rate": rate, "seed": seed}
    before = {"step": 0, "pass@1": 0.3, "distinct": 2.0}
    return {
        **identity,
        "overrides": ["exploration=none"],
        "protocol": "p",
        "command": "g2rl-train",
        "cpu_seconds": 1.5,
        "curve": [before, {**before, "step": 9, **(last or {})}],
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


def test_a_whole_line_is_never_forgotten(tmp_path: Path) -> None:
    add_row(tmp_path, row())
    file = tmp_path / "detour.jsonl"
    whole = file.read_text()
    for damaged in (whole + '{"task": "det\n', "\ufeff" + whole, "\ufeff" + whole + whole):
        file.write_text(damaged, encoding="utf-8")
        with pytest.raises(ValueError, match=r"detour\.jsonl, line \d: not JSON"):
            read_rows([tmp_path])
    file.write_bytes(b"\xff" + whole.encode())
    with pytest.raises(ValueError, match=r"detour\.jsonl, line 1: .* is not UTF-8"):
        read_rows([tmp_path])


def test_any_sign_may_stand_in_a_text_and_empty_lines_between_rows(tmp_path: Path) -> None:
    lines = [{**row(seed=seed), "command": "a\u2028b\x85c"} for seed in (0, 1)]
    text = "\n\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    (tmp_path / "detour.jsonl").write_text(text + "\r\n", encoding="utf-8")
    assert [one["command"] for one in read_rows([tmp_path]).of("detour")] == ["a\u2028b\x85c"] * 2


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


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (None, "it is NoneType and no object"),
        ([1, 2], "it is list and no object"),
        ({"arm": ["grpo"]}, "'arm' must be a text"),
        ({"seed": "0"}, "'seed' must be a whole number"),
        ({"seed": True}, "'seed' must be a whole number"),
        ({"cpu_seconds": 10**400}, "'cpu_seconds' must be a finite number"),
        (
            {"curve": [{"step": 0, "pass@1": 0.5, "distinct": 1, "train/entropy": "low"}]},
            "'train/entropy' in 'curve' is no number",
        ),
        ({"overrides": "exploration=none"}, "'overrides' must be a list of texts"),
        ({"cpu_seconds": math.nan}, "'cpu_seconds' must be a finite number"),
        ({"curve": []}, "'curve' must be a list of evaluations"),
        ({"curve": [7]}, "an evaluation of 'curve' is no object"),
        ({"curve": [{"step": 0, "pass@1": 0.5}]}, "lacks 'distinct'"),
        ({"curve": [{"step": 0, "pass@1": math.nan, "distinct": 1}]}, "'pass@1' in 'curve'"),
        ({"curve": [{"step": 0, "pass@1": True, "distinct": 1}]}, "'pass@1' in 'curve'"),
    ],
)
def test_a_line_that_is_no_row_is_refused_with_its_place(
    change: Any, fault: str, tmp_path: Path
) -> None:
    """Rows are handed from one person to another: whatever stands there, there is a sentence."""
    value = {**row(), **change} if isinstance(change, dict) else change
    file = tmp_path / "detour.jsonl"
    add_row(tmp_path, row())
    with file.open("a") as out:
        out.write(json.dumps(value) + "\n")
    with pytest.raises(ValueError, match=r"detour\.jsonl, line 2: no row of a bake-off, ") as told:
        read_rows([tmp_path])
    assert fault in str(told.value)

    # a run does not store what nobody could read
    if isinstance(change, dict):
        before = file.read_text()
        with pytest.raises(ValueError, match="this run has no row"):
            add_row(tmp_path, value)
        assert file.read_text() == before


def test_what_a_training_step_measured_may_be_nan(tmp_path: Path) -> None:
    add_row(tmp_path, row(last={"train/entropy": math.nan}))
    assert len(read_rows([tmp_path]).by_key) == 1


def test_stored_rows_survive_a_disk_that_fills_up(tmp_path: Path) -> None:
    for seed in range(20):
        add_row(tmp_path, row(seed=seed))
    rows = read_rows([tmp_path])
    stored = (tmp_path / "detour.jsonl").read_text()

    # a file may have half of what is to be written
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(stored) // 2, limits[1]))
    try:
        with pytest.raises(OSError, match="no room in"):
            write_rows(tmp_path, rows)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "detour.jsonl").read_text() == stored
    assert [file.name for file in tmp_path.iterdir()] == ["detour.jsonl"]


def test_a_row_waits_until_another_process_has_written_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs may end at once; without the lock, one could cut off the other's half line."""
    locks: list[int] = []
    real = fcntl.flock

    def flock(out: Any, kind: int) -> None:
        locks.append(kind)
        real(out, kind)
        # with the lock in hand, another writer has none to get
        with (tmp_path / "detour.jsonl").open("a+b") as other, pytest.raises(BlockingIOError):
            real(other, fcntl.LOCK_EX | fcntl.LOCK_NB)

    monkeypatch.setattr(fcntl, "flock", in_this_thread(real, flock))
    add_row(tmp_path, row())
    assert locks == [fcntl.LOCK_EX]
