"""The descriptions of tables against the files of a real run, and against the page made of them."""

from __future__ import annotations

from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from docs.site.files import PAGE, PARTS, page
from g2rl.runs.columns import GEOMETRY, PROBE, ROLLOUTS, TYPES, Column, FileSchema, differences
from g2rl.runs.metric_columns import METRICS
from g2rl.runs.tracking import Tracker
from tests.columns import types_of, undescribed
from tests.exploration.test_every_signal import MAKERS, degenerate
from tests.support import metric_rows

SCHEMAS = [schema for schemas in PARTS.values() for schema in schemas]
ADDED = {"entropy", "nu", "nu_bar", "observe_evol_evol_novelty", "first_alike", "feature_norm"}
"""What the settings of the finished run add to geometry/, beside the cosines."""


def test_the_files_of_a_run_are_as_described(finished_run: Path) -> None:
    assert undescribed(finished_run) == []


def test_the_tables_of_a_run_hold_exactly_these_columns(finished_run: Path) -> None:
    def columns(kind: str, step: int) -> list[str]:
        return parquet.read_schema(finished_run / kind / f"step_{step:06d}.parquet").names

    assert columns("rollouts", 1) == ROLLOUTS.names
    assert columns("probe", 0) == PROBE.names
    assert set(columns("geometry", 1)) == {*GEOMETRY.names, *ADDED, "cosine"}


def test_every_metric_of_a_run_has_a_line_of_its_own(finished_run: Path) -> None:
    """No stand-in for a whole name: {benchmark}, {k} and {class} stand inside one."""
    for row in metric_rows(finished_run):
        for name in row:
            column = METRICS.column(name)
            assert column is not None, name
            if not name.startswith("observe/"):
                assert "{signal}" not in column.name, name


def test_every_column_and_metric_of_a_signal_has_a_line_of_its_own() -> None:
    geometry = {column.name for column in GEOMETRY.columns}
    metrics = {column.name for column in METRICS.columns}
    for name, make in MAKERS.items():
        if name == "combined":
            continue
        shaped = make(4)(degenerate(4, 1))
        assert shaped.diagnostics.keys() <= geometry, name
        for quantity in shaped.metrics:
            column = METRICS.column(f"explore/{quantity}")
            assert column is not None, f"{name}: {quantity}"
            assert column.name in metrics
            assert "{signal}" not in column.name
        for values in shaped.diagnostics.values():
            assert values.dtype.is_floating_point, name


def test_the_page_is_made_of_the_descriptions() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m docs.site.files"


def test_descriptions_are_whole() -> None:
    places = [schema.place for schema in SCHEMAS]
    assert len(set(places)) == len(places)
    for schema in SCHEMAS:
        names = [column.name for column in schema.columns]
        assert len(set(names)) == len(names), schema.place
        for column in schema.columns:
            assert column.type in TYPES, (schema.place, column.name)
            assert column.meaning, (schema.place, column.name)
            assert (column.shape != "") == (column.type in ("floats", "texts", "objects"))


def test_what_differs_from_a_description_is_named(tmp_path: Path) -> None:
    schema = FileSchema(
        "a.parquet",
        "a command",
        "a row",
        (
            Column("there", "int", "x"),
            Column("gone", "int", "x"),
            Column("pass@{k}", "float", "x", when="for each k"),
        ),
    )
    parquet.write_table(
        pyarrow.table({"there": ["text"], "pass@4": [0.5], "new": [1]}), tmp_path / "a.parquet"
    )
    assert differences(schema, types_of(tmp_path / "a.parquet")) == [
        "a.parquet: there is text, described as int",
        "a.parquet: the column new is not described",
        "a.parquet: there is no column gone",
    ]


def test_a_file_without_a_description_is_named(tmp_path: Path) -> None:
    (tmp_path / "new.jsonl").write_text('{"step": 1}\n', encoding="utf-8")
    assert undescribed(tmp_path) == [f"{tmp_path / 'new.jsonl'} is not described"]
    with pytest.raises(AssertionError, match="holds no table"):
        undescribed(tmp_path / "empty")


def test_a_column_of_nothing_keeps_its_type(tmp_path: Path) -> None:
    """In a step in which no answer could be read, `answer` is text all the same."""
    columns: dict[str, list[object]] = {name: [] for name in ROLLOUTS.names}
    for column in ROLLOUTS.columns:
        example = {"text": "x", "int": 1, "bool": True}[column.type]
        columns[column.name].append(None if column.name == "answer" else example)
    path = Tracker(tmp_path).table("rollouts", 1, columns)
    assert types_of(path) == [(column.name, column.type) for column in ROLLOUTS.columns]
