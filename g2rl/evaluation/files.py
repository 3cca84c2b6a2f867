"""The files of an evaluation: what each holds, and how samples are written and read back.

    parts/NAME/part_00003.parquet   samples of some problems, while the evaluation is under way
    samples.parquet                 one row a sample, with everything that grading it again needs
    problems.parquet                one row a problem: n, c, answers, and every pass@k and maj@k
    results.parquet                 one row for each benchmark and metric, with its interval
    groups.parquet                  pass@1 by subject, category or family, if a benchmark has them

A file appears whole or not at all, and holds nothing that depends on the clock.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from g2rl.runs.columns import (
    ANSWER,
    COMPLETION,
    CORRECT,
    FINISH,
    PROMPT,
    TOKENS,
    Column,
    FileSchema,
)
from g2rl.runs.files import atomic_path
from g2rl.runs.tables import storable
from g2rl.tasks.benchmarks.benchmark import Benchmark
from g2rl.tasks.grading.registry import SETTING
from g2rl.tasks.grading.verifier import Verifier
from g2rl.tasks.places import why_no
from g2rl.types import Completion, Problem, Verdict

Row = dict[str, Any]
"""One row of a table, by column."""

BENCHMARK = Column("benchmark", "text", "name of the benchmark")
PROBLEM = Column("problem", "text", "id of the problem")
GOLD = Column("gold", "text", "the right answer, as the benchmark gives it")

SAMPLES = FileSchema(
    "samples.parquet",
    "g2rl eval",
    "one sample",
    (
        BENCHMARK,
        PROBLEM,
        Column("index", "int", "place of the problem in its benchmark, from 0"),
        Column("sample", "int", "number among the problem's samples, from 0"),
        PROMPT,
        GOLD,
        COMPLETION,
        ANSWER,
        CORRECT,
        Column("route", "text", "the rule that decided, or why none did"),
        TOKENS,
        FINISH,
        Column("verifier", "text", "class of the verifier, and its settings behind a colon"),
        Column("meta", "text", "JSON: what the verifier needs beside the gold"),
    ),
)
"""Also of parts/NAME/part_*.parquet, while the evaluation is under way."""
KS = b"g2rl.ks"
"""Key of the file's metadata that holds the ks of each benchmark, as JSON."""


class EvaluationError(ValueError):
    """A file of an evaluation cannot be used; the message names it and says what to do."""


def sample_rows(
    benchmark: Benchmark,
    places: Sequence[int],
    completions: Sequence[Sequence[Completion]],
    verdicts: Sequence[Sequence[Verdict]],
) -> list[Row]:
    """Rows of samples.parquet for some problems of a benchmark.

    Lone surrogates in texts are replaced, because parquet cannot store them.

    Args:
        benchmark: the problems.
        places: of the problems in the benchmark.
        completions: of each of these problems.
        verdicts: on these completions.
    """
    rows: list[Row] = []
    for place, group, verdicts_of_problem in zip(places, completions, verdicts, strict=True):
        # what all samples of the problem have in common
        problem = benchmark.problems[place]
        problem_columns = {
            "benchmark": benchmark.name,
            "problem": storable(problem.id),
            "index": place,
            "prompt": storable(problem.prompt),
            "gold": storable(problem.answer),
            "verifier": verifier_name(benchmark.verifier),
            "meta": storable(json.dumps(dict(problem.meta), ensure_ascii=False)),
        }

        # the samples of a problem share its columns
        samples = zip(group, verdicts_of_problem, strict=True)
        for number, (completion, verdict) in enumerate(samples):
            row = {
                **problem_columns,
                "sample": number,
                "completion": storable(completion.text),
                **verdict_columns(verdict),
                "tokens": len(completion.token_ids),
                "finish": completion.finish,
            }
            rows.append(row)
    return rows


def verdict_columns(verdict: Verdict) -> Row:
    """The columns that grading fills, and that grading again replaces."""
    answer = None if verdict.answer is None else storable(verdict.answer)
    return {"answer": answer, "correct": verdict.correct, "route": verdict.route}


def verifier_name(verifier: Verifier) -> str:
    """Where a verifier's class is defined, and its settings behind a colon if it has any.

    E.g. "g2rl.tasks.grading.math.MathVerifier" or
    "g2rl.tasks.grading.math.MathVerifier:boxed_only".
    """
    class_path = f"{type(verifier).__module__}.{type(verifier).__qualname__}"
    settings = getattr(verifier, "identity", "")
    return (
        f"{class_path}{SETTING}{settings}" if isinstance(settings, str) and settings else class_path
    )


def problem_of(row: Row) -> Problem:
    """The problem of a row of samples.parquet."""
    return Problem(row["problem"], row["prompt"], row["gold"], json.loads(row["meta"]))


def write_rows(
    path: Path,
    rows: Iterable[Row],
    schema: pyarrow.Schema,
    metadata: Mapping[bytes, bytes] | None = None,
) -> None:
    """Write a parquet file that appears whole or not at all.

    Args:
        path: of the file.
        rows: of the table; a column that a row lacks becomes null.
        schema: the columns and their types.
        metadata: goes into the file's schema.
    """
    table = pyarrow.Table.from_pylist(list(rows), schema=schema.with_metadata(metadata))
    with atomic_path(path) as aside:
        parquet.write_table(table, aside)


def write_samples(path: Path, rows: Sequence[Row], ks: Mapping[str, Sequence[int]]) -> None:
    """Write samples.parquet, with the ks of each benchmark in its metadata."""
    plain_ks = {benchmark: list(values) for benchmark, values in ks.items()}
    write_rows(path, rows, SAMPLES.arrow(), {KS: json.dumps(plain_ks).encode()})


def read_samples(path: Path) -> tuple[list[Row], dict[str, list[int]]]:
    """Read a samples file.

    Returns:
        The rows in order of benchmark, problem and sample, and the ks of each benchmark. A file
        that another program wrote has no ks: then these are empty.

    Raises:
        EvaluationError: there is no such file, it is not parquet, it lacks a column, it has no row,
            or it holds a sample twice.
    """
    absent = why_no("file", path)
    if absent:
        raise EvaluationError(f"{absent}; name the samples.parquet of an evaluation")
    try:
        table = parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise EvaluationError(f"{path} cannot be read as parquet ({error})") from error

    # any program may have written it: grading again needs every column
    rows = _rows_of(table, path)
    if not rows:
        raise EvaluationError(f"{path} holds no samples")

    # benchmarks stay in the order in which they first appear
    order: dict[str, int] = {}
    for row in rows:
        order.setdefault(row["benchmark"], len(order))
    rows.sort(key=lambda row: (order[row["benchmark"]], row["index"], row["sample"]))

    # a sample that counts twice would shift every estimate
    sample_ids = {(row["benchmark"], row["problem"], row["sample"]) for row in rows}
    if len(sample_ids) < len(rows):
        raise EvaluationError(f"{path} holds {len(rows) - len(sample_ids)} samples twice")
    try:
        return rows, dict(json.loads((table.schema.metadata or {}).get(KS, b"{}")))
    except (ValueError, TypeError, RecursionError) as error:
        raise EvaluationError(f"{path}: the ks in its metadata cannot be read ({error})") from error


def _rows_of(table: pyarrow.Table, path: Path) -> list[Row]:
    """The rows of a table of samples, of which every value is of its type.

    Raises:
        EvaluationError: a column is missing or of another type, or a value is.
    """
    missing = [name for name in SAMPLES.names if name not in table.column_names]
    if missing:
        raise EvaluationError(
            f"{path} has no column {', '.join(missing)}: not written by g2rl-eval"
        )

    # types are those that were written, not those that the file claims
    try:
        table = table.select(SAMPLES.names).cast(SAMPLES.arrow())
    except (pyarrow.ArrowException, ValueError) as error:
        raise EvaluationError(f"{path}: not written by g2rl-eval ({error})") from error

    # a cell is empty only where its description says what that means
    for column in SAMPLES.columns:
        if not column.nullable and table[column.name].null_count:
            raise EvaluationError(f"{path}: the column {column.name} has a row without a value")
    return table.to_pylist()


def samples_by_problem(rows: Sequence[Row]) -> dict[str, list[list[Row]]]:
    """Group rows of samples.parquet: benchmark -> problems -> samples, in the order of the rows.

    Raises:
        EvaluationError: problems of one benchmark have different numbers of samples.
    """
    samples_of: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        problems = samples_of.setdefault(row["benchmark"], {})
        problems.setdefault(row["problem"], []).append(row)

    # the estimators take equally many samples of each problem
    grouped: dict[str, list[list[Row]]] = {}
    for benchmark, problems in samples_of.items():
        grouped[benchmark] = list(problems.values())
        sizes = sorted({len(samples) for samples in problems.values()})
        if len(sizes) > 1:
            raise EvaluationError(
                f"{benchmark}: problems have between {sizes[0]} and {sizes[-1]} samples; all need "
                "equally many"
            )
    return grouped
