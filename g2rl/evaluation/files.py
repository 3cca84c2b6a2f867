"""The files of an evaluation: what each holds, and how it is read back.

    parts/NAME/part_00003.parquet   samples of some problems, while the evaluation is under way
    samples.parquet                 one row a sample, with all that grading it again needs
    problems.parquet                one row a problem: n, c, answers, and every pass@k and maj@k
    results.parquet                 long form: one row a benchmark and metric, with its interval
    groups.parquet                  pass@1 by subject, category or family, where a benchmark has them

Every file appears whole or not at all, and holds nothing that depends on the clock.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from g2rl.runs.files import atomic_path
from g2rl.runs.tables import storable
from g2rl.tasks.benchmarks.benchmark import Benchmark
from g2rl.tasks.grading.verifier import Verifier
from g2rl.types import Completion, Problem, Verdict

Row = dict[str, Any]

SAMPLES = pyarrow.schema(
    [
        ("benchmark", pyarrow.string()),
        ("problem", pyarrow.string()),
        ("index", pyarrow.int64()),  # place of the problem in its benchmark
        ("sample", pyarrow.int64()),
        ("prompt", pyarrow.string()),  # before the chat template
        ("gold", pyarrow.string()),
        ("completion", pyarrow.string()),
        ("answer", pyarrow.string()),  # extracted; null when none could be read
        ("correct", pyarrow.bool_()),
        ("route", pyarrow.string()),  # the rule that decided
        ("tokens", pyarrow.int64()),
        ("finish", pyarrow.string()),  # stop or length
        ("verifier", pyarrow.string()),
        ("meta", pyarrow.string()),  # JSON: what the verifier needs beside the gold
    ]
)
KS = b"g2rl.ks"
"""Key of the file's metadata under which the ks of each benchmark stand, as JSON."""


class EvaluationError(ValueError):
    """A file of an evaluation cannot be used; the message names it and the mend."""


def sample_rows(
    benchmark: Benchmark,
    places: Sequence[int],
    completions: Sequence[Sequence[Completion]],
    verdicts: Sequence[Sequence[Verdict]],
) -> list[Row]:
    """Rows of samples.parquet for the problems at `places`; lone surrogates are replaced."""
    rows: list[Row] = []
    for place, group, judged in zip(places, completions, verdicts, strict=True):
        problem = benchmark.problems[place]
        fixed = {
            "benchmark": benchmark.name,
            "problem": storable(problem.id),
            "index": place,
            "prompt": storable(problem.prompt),
            "gold": storable(problem.answer),
            "verifier": verifier_name(benchmark.verifier),
            "meta": storable(json.dumps(dict(problem.meta), ensure_ascii=False)),
        }

        # one row a sample
        for number, (completion, verdict) in enumerate(zip(group, judged, strict=True)):
            response = {"sample": number, "completion": storable(completion.text)}
            length = {"tokens": len(completion.token_ids), "finish": completion.finish}
            rows.append({**fixed, **response, **judgement(verdict), **length})
    return rows


def judgement(verdict: Verdict) -> Row:
    """The columns that grading fills."""
    answer = None if verdict.answer is None else storable(verdict.answer)
    return {"answer": answer, "correct": verdict.correct, "route": verdict.route}


def verifier_name(verifier: Verifier) -> str:
    """Where a verifier's class lives, e.g. "g2rl.tasks.grading.math.MathVerifier"."""
    return f"{type(verifier).__module__}.{type(verifier).__qualname__}"


def problem_of(row: Row) -> Problem:
    """The problem of a row of samples.parquet."""
    return Problem(row["problem"], row["prompt"], row["gold"], json.loads(row["meta"]))


def write_rows(
    path: Path,
    rows: Iterable[Row],
    schema: pyarrow.Schema,
    metadata: Mapping[bytes, bytes] | None = None,
) -> None:
    """Write rows as parquet, whole or not at all."""
    table = pyarrow.Table.from_pylist(list(rows), schema=schema.with_metadata(metadata))
    with atomic_path(path) as aside:
        parquet.write_table(table, aside)


def read_samples(path: Path) -> tuple[list[Row], dict[str, list[int]]]:
    """Rows of a samples file, in order of benchmark, problem and sample, and the ks of each
    benchmark.

    The ks are missing from a file that another program wrote.

    Raises:
        EvaluationError: no such file, not parquet, a missing column, no row, or a sample that
        stands twice.
    """
    if not path.is_file():
        raise EvaluationError(f"{path}: no such file")
    try:
        table = parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise EvaluationError(f"{path} cannot be read as parquet ({error})") from error

    # everything that grading again needs must be there
    missing = [name for name in SAMPLES.names if name not in table.column_names]
    if missing:
        raise EvaluationError(
            f"{path} has no column {', '.join(missing)}: not written by g2rl-eval"
        )
    rows: list[Row] = table.select(SAMPLES.names).to_pylist()
    if not rows:
        raise EvaluationError(f"{path} holds no samples")

    # in the order in which benchmarks appear
    order = {
        name: place for place, name in enumerate(dict.fromkeys(row["benchmark"] for row in rows))
    }
    rows.sort(key=lambda row: (order[row["benchmark"]], row["index"], row["sample"]))

    # no sample twice
    seen = {(row["benchmark"], row["problem"], row["sample"]) for row in rows}
    if len(seen) < len(rows):
        raise EvaluationError(f"{path} holds {len(rows) - len(seen)} samples twice")
    return rows, json.loads((table.schema.metadata or {}).get(KS, b"{}"))


def write_samples(path: Path, rows: Sequence[Row], ks: Mapping[str, Sequence[int]]) -> None:
    """Write samples.parquet; `ks` by benchmark travel with it."""
    listed = {name: list(values) for name, values in ks.items()}
    write_rows(path, rows, SAMPLES, {KS: json.dumps(listed).encode()})


def by_problem(rows: Sequence[Row]) -> dict[str, list[list[Row]]]:
    """Samples as benchmark -> problems -> samples, in the order of the rows.

    Raises:
        EvaluationError: problems of one benchmark with different numbers of samples.
    """
    # benchmark -> problem -> samples
    found: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        found.setdefault(row["benchmark"], {}).setdefault(row["problem"], []).append(row)

    # estimators need equally many samples of each problem
    for name, problems in found.items():
        sizes = sorted({len(group) for group in problems.values()})
        if len(sizes) > 1:
            raise EvaluationError(
                f"{name}: problems have between {sizes[0]} and {sizes[-1]} samples; all need equally many"
            )
    return {name: list(problems.values()) for name, problems in found.items()}
