"""The command-line grader: order, atomic output, and refusals that say which line to mend."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from g2rl.cli import grade as audit
from g2rl.runs.columns import differences
from tests.columns import types_of
from tests.support import in_this_thread

CASES = [
    {"kind": "math", "gold": "1/2", "prediction": r"\boxed{0.5}", "id": "a"},
    {"kind": "mcq", "gold": "B", "prediction": "The answer is (B)."},
    {"kind": "math", "gold": "x+1", "prediction": r"\boxed{1+x}"},
    {"kind": "mcq", "gold": "B", "prediction": "The answer is 5 cm.", "choices": ["5 m", "5 cm"]},
    {
        "kind": "mcq",
        "gold": "B",
        "prediction": "The answer is 5 m.",
        "meta": {"choices": ["5 m", "5 cm"]},
    },
    {"kind": "math", "gold": "3", "prediction": "I give up\ud800\u2028"},
]


def write(path: Path, rows: list[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_verdicts_come_in_the_order_of_the_cases(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "verdicts.jsonl"
    assert (
        audit.main(
            [str(write(tmp_path / "cases.jsonl", CASES)), "--out", str(out), "--workers", "1"]
        )
        == 0
    )
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["correct"], row["answer"], row["route"]) for row in rows] == [
        (True, "0.5", "number"),
        (True, "B", "letter"),
        (True, "1+x", "math"),
        (True, "B", "text"),
        (False, "A", "text"),
        (False, None, "unparsed"),
    ]
    assert rows[0]["id"] == "a"
    assert "id" not in rows[1]
    assert all(row["seconds"] >= 0 for row in rows)
    assert differences(audit.VERDICTS, types_of(out)) == []
    assert "4 of 6 right" in capsys.readouterr().out
    assert [path.name for path in out.parent.iterdir()] == ["verdicts.jsonl"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("[1]", "holds a JSON list; write an object"),
        ("{", "not JSON"),
        ("caf\udce9", "byte 4 of the line is 0xe9, which is not UTF-8; save the file as UTF-8"),
        ('{"kind": "math", "gold": "1"}', 'has no "prediction"; add it'),
        ('{"kind": "math", "gold": 1, "prediction": ""}', '"gold" is a int; write it as a string'),
        ('{"kind": "code", "gold": "1", "prediction": ""}', "use one of math, mcq"),
        ('{"kind": "math", "gold": " ", "prediction": ""}', '"gold" is empty'),
        (
            '{"kind": "mcq", "gold": "A", "prediction": "", "choices": "AB"}',
            "a list of 2 to 26 strings",
        ),
    ],
)
def test_malformed_rows_are_refused_by_line(
    row: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = tmp_path / "cases.jsonl"
    text = json.dumps(CASES[0]) + "\n\n" + row + "\n"
    cases.write_text(text, encoding="utf-8", errors="surrogateescape")
    out = tmp_path / "verdicts.jsonl"
    with pytest.raises(SystemExit, match="2"):
        audit.main([str(cases), "--out", str(out)])
    error = capsys.readouterr().err
    assert "cases.jsonl, line 3: " in error
    assert message in error
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["none.jsonl", "--out", "o"], "error: there is no file none.jsonl (seen from "),
        (["folder", "--out", "o"], "error: folder is a folder, and a file is wanted"),
        (["cases.jsonl", "--out", "folder"], "--out folder is a folder"),
        (
            ["cases.jsonl", "out=cases.jsonl/o"],
            "error: cases.jsonl is a file, and a folder is wanted",
        ),
        (["cases.jsonl", "--out", "o", "--timeout", "0"], "--timeout must be above 0, got 0"),
        (["cases.jsonl", "--out", "o", "workers=0"], "--workers must be at least 1, got 0"),
    ],
)
def test_files_and_options_that_cannot_be_used_are_refused(
    words: list[str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "cases.jsonl", CASES)
    (tmp_path / "folder").mkdir()
    with pytest.raises(SystemExit) as stopped:
        audit.main(words)
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert told in said
    assert "Errno" not in said


def test_a_failed_write_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "verdicts.jsonl"
    out.write_text("old")

    def fail(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", in_this_thread(os.fsync, fail))
    with pytest.raises(SystemExit, match="2"):
        audit.main([str(write(tmp_path / "cases.jsonl", CASES[1:2])), "--out", str(out)])
    assert capsys.readouterr().err == "error: disk full\n"
    assert out.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cases.jsonl", "verdicts.jsonl"]


def test_an_empty_file_gives_an_empty_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "verdicts.jsonl"
    assert audit.main([str(write(tmp_path / "cases.jsonl", [])), "--out", str(out)]) == 0
    assert out.read_text() == ""
    assert "cases.jsonl holds no case" in capsys.readouterr().err
