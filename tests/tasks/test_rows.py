"""Reading data sets: local files, bad rows, missing columns."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy
import pandas as pd
import pytest

from g2rl.tasks.math import PAPER_INSTRUCTION, MathTask, math_problems
from g2rl.tasks.places import place_of
from g2rl.tasks.rows import DataError, gold_text, read_rows
from g2rl.tasks.task import stream_from_rows
from g2rl.types import Problem
from tests.support import DATA, ROOT

SHARED = ROOT.parent / "shared" / "data"


def test_jsonl_json_and_parquet_read_alike(tmp_path: Path) -> None:
    rows = [{"problem": "a", "answer": "1"}, {"problem": "b", "answer": "2"}]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    (tmp_path / "x.json").write_text(json.dumps(rows))
    pd.DataFrame(rows).to_parquet(tmp_path / "x.parquet")
    for suffix in ("jsonl", "json", "parquet"):
        assert read_rows(str(tmp_path / f"x.{suffix}")) == rows


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ('{"a": 1}\n{"a": \n', "line 2: not JSON"),
        ("[1]\n", "line 1: expected an object"),
        ('{"a": 1}\n' + '{"a":' * 100_000, "line 2: lists and objects nest more than 100"),
        (
            '{"a": 1}\n{"a": ' + "[" * 102 + "]" * 102 + "}\n",
            "line 2: lists .* make the row flatter",
        ),
        ("\n\n", "holds no rows"),
    ],
)
def test_bad_files_are_refused_with_the_place(tmp_path: Path, content: str, complaint: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=complaint):
        read_rows(str(path))


def test_a_row_may_nest_to_some_depth(tmp_path: Path) -> None:
    """A deeper one would end what copies or prints it, with an error that names no row."""
    deep: Any = 1
    for number in range(100):
        deep = [deep] if number % 2 else {"inside": deep}
    path = tmp_path / "x.json"
    path.write_text(json.dumps([{"a": deep}]))
    rows = read_rows(str(path))
    assert copy.deepcopy(rows) == rows
    path.write_text(json.dumps([{"a": 1}, {"a": [deep]}]))
    with pytest.raises(DataError, match=r"x\.json, row 2 .*nest more than 100 deep"):
        read_rows(str(path))


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    for name, content in (
        ("x.json", b'[{"a": 1},'),
        ("x.json", b"[1]"),
        ("x.parquet", b"PAR1 but no more"),
        ("x.jsonl", b'{"a": "\xff\xfe"}\n'),
        ("x.json", b'{"a": 1}'),
        ("x.json", b"[" * 100_000),
        ("x.jsonl", b'{"a":' * 100_000),
        ("x.jsonl", b'{"a": 1' + b"0" * 5000 + b"}"),
        ("x.parquet", b"PAR1" + b"\xff" * 200 + b"PAR1"),
        ("x.parquet", b"\x93NUMPY"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=str(tmp_path / name)):
            read_rows(str(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        (
            "x.jsonl",
            b'{"a": 1}\n\n{"a": "caf\xe9"}\n',
            "line 3: byte 11 of the line is 0xe9, which",
        ),
        ("x.csv", b"a,b\n1,\xff\n", "line 2: byte 3 of the line is 0xff, which is not UTF-8; save"),
        ("x.json", b'[{"a":\n"\x80"}]', "line 2: byte 2 of the line is 0x80, which is not UTF-8"),
        ("x.jsonl", '{"a": 1}'.encode("utf-16"), "line 1: byte 1 .* iconv -f UTF-16 -t UTF-8 x.js"),
    ],
)
def test_a_file_that_is_not_utf8_names_the_byte_and_the_mend(
    tmp_path: Path, name: str, content: bytes, told: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{tmp_path / name}, {told}"):
        read_rows(str(tmp_path / name))


def test_a_row_is_named_by_the_line_that_an_editor_shows(tmp_path: Path) -> None:
    # empty lines are no rows, and a value in quotes may hold line ends
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n\n\n{"a": 2}\n')
    (tmp_path / "x.csv").write_text('a,b\n1,"x\ny\nz"\n\n2,w\n"2\n",w\n')
    lines = {"jsonl": [1, 4], "csv": [2, 6, 7]}
    for suffix, expected in lines.items():
        rows = read_rows(str(tmp_path / f"x.{suffix}"))
        assert list(rows.lines) == expected
        origin = rows.origin(str(tmp_path / f"x.{suffix}"))
        assert place_of(origin, 1) == f"x.{suffix}, line {expected[1]}"

    (tmp_path / "y.csv").write_text('a,b\n1,2\n3,"x\n')
    with pytest.raises(DataError, match=r"y\.csv, line 3: not CSV \(unexpected end of data\)"):
        read_rows(str(tmp_path / "y.csv"))

    # nothing to count but rows
    pd.DataFrame([{"a": 1}]).to_parquet(tmp_path / "x.parquet")
    (tmp_path / "x.json").write_text('[{"a": 1}]')
    for suffix in ("parquet", "json"):
        origin = read_rows(str(tmp_path / f"x.{suffix}")).origin(f"x.{suffix}")
        assert place_of(origin, 0) == f"x.{suffix}, row 1 (the first is 1)"


def test_a_mark_of_the_byte_order_is_no_data(tmp_path: Path) -> None:
    for name, text in (("x.jsonl", '{"a": 1}\n'), ("x.json", '[{"a": 1}]')):
        (tmp_path / name).write_text(text, encoding="utf-8-sig")
        assert read_rows(str(tmp_path / name)) == [{"a": 1}]


@pytest.mark.parametrize(
    ("second", "complaint"),
    [
        ({"id": "a", "problem": "3?", "answer": "3"}, r"x\.jsonl: two rows share the id 'm/a'"),
        (
            {"id": "b", "problem": None, "answer": "3"},
            r"x\.jsonl, line 2: problem holds no text \(None\)",
        ),
        ({"id": "b", "problem": "  ", "answer": "3"}, r"line 2: problem holds no text"),
        ({"id": "b", "problem": 3, "answer": "3"}, r"line 2: problem holds no text \(3\)"),
    ],
)
def test_twins_and_rows_without_a_question_are_refused(
    tmp_path: Path, second: dict[str, object], complaint: str
) -> None:
    rows = [{"id": "a", "problem": "2?", "answer": "2"}, second]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match=complaint):
        math_problems("m", source=str(tmp_path / "x.jsonl"))


def test_a_missing_file_and_a_missing_column_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no file .*absent\.jsonl \(seen from "):
        read_rows(str(tmp_path / "absent.jsonl"))
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(DataError, match="is a folder, and a file is wanted"):
        read_rows(str(tmp_path / "folder.jsonl"))
    with pytest.raises(
        DataError, match=r"no column 'question'; it has \['answer', 'id', 'problem', 'solution'\]"
    ):
        math_problems("m", source=str(DATA / "math_train.jsonl"), problem_column="question")


def test_the_hub_without_network_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    # as if HF_HUB_OFFLINE=1 had been set before the libraries were imported
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="local copy"):
        read_rows("no-such-org/no-such-data-set")


def test_math_rows_become_problems_with_the_papers_prompt() -> None:
    problems, dropped = math_problems(
        "math/train", source="unused", data_dir=str(DATA), local_name="math_train.jsonl"
    )
    assert dropped == 1
    assert len(problems) == 8
    assert problems[0].prompt == f"What is $2+3$?\n{PAPER_INSTRUCTION}"
    assert problems[0].answer == "5"


def test_the_gold_is_the_last_box_where_there_is_no_answer_column(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(
        json.dumps({"problem": "p", "solution": r"so \boxed{1}, no: $\boxed{\frac{1}{2}}$."}) + "\n"
    )
    [problem] = math_problems("m", source=str(path))[0]
    assert problem.answer == r"\frac{1}{2}"
    path.write_text(json.dumps({"problem": "p", "answer": 27.0}) + "\n")
    assert math_problems("m", source=str(path))[0][0].answer == "27"


def test_every_epoch_visits_every_row_once_and_splits_agree() -> None:
    problems = [Problem(str(i), "", "") for i in range(7)]
    whole = [p.id for p in stream_from_rows(problems, seed=3, start=0, size=21)]
    for epoch in range(3):
        assert sorted(whole[7 * epoch : 7 * epoch + 7]) == sorted(p.id for p in problems)
    assert whole[:7] != whole[7:14]
    pieces = [
        p.id for i in range(0, 21, 5) for p in stream_from_rows(problems, 3, i, min(5, 21 - i))
    ]
    assert pieces == whole


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared copies of the data sets are not here")
def test_the_real_math_train_split_loses_two_empty_golds() -> None:
    task = MathTask(source="unused", data_dir=str(SHARED), local_name="math_train.jsonl")
    assert (len(task.problems), task.dropped) == (7498, 2)


@pytest.mark.parametrize(
    ("value", "gold"),
    [
        ("5 ", "5"),
        (27.0, "27"),
        (0.5, "0.5"),
        (7, "7"),
        (2**60, str(2**60)),
        (numpy.int64(7), "7"),
        (numpy.float64(2.0), "2"),
        (None, ""),
        (float("nan"), ""),
        ("NaN", ""),
        ("None", ""),
        ("null", ""),
        (" ", ""),
        ("no solution", "no solution"),
    ],
)
def test_golds_are_text_or_numbers_or_missing(value: object, gold: str) -> None:
    assert gold_text(value, "answer", "x.jsonl", 3) == gold


@pytest.mark.parametrize(
    "value", [[1, 2], {"a": 1}, True, float("inf"), 2.0**53, -1e300, numpy.array([1, 2])]
)
def test_golds_that_are_no_answer_are_refused_by_row(value: object) -> None:
    with pytest.raises(DataError, match=r"x\.jsonl, row 4 .*: answer holds"):
        gold_text(value, "answer", "x.jsonl", 3)


def test_missing_golds_are_dropped_and_counted(tmp_path: Path) -> None:
    golds = ["5", None, math.nan, 27.0, "none"]
    lines = [json.dumps({"problem": f"{n}?", "answer": gold}) for n, gold in enumerate(golds)]
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    problems, dropped = math_problems("m", source=str(tmp_path / "x.jsonl"))
    assert [problem.answer for problem in problems] == ["5", "27"]
    assert dropped == 3
