"""From graded samples to the tables problems.parquet, results.parquet and groups.parquet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow

from g2rl.evaluation.estimates import (
    CONFIDENCE,
    Estimates,
    GradedSamples,
    interval_over_problems,
    measure_samples,
)
from g2rl.evaluation.files import (
    BENCHMARK,
    GOLD,
    PROBLEM,
    Row,
    problem_of,
    samples_by_problem,
    write_rows,
)
from g2rl.runs.columns import Column, FileSchema
from g2rl.tasks.benchmarks.benchmark import powers_of_two
from g2rl.tasks.grading.grader import Grader
from g2rl.types import Verdict

ANSWERS = pyarrow.list_(
    pyarrow.struct(
        [("answer", pyarrow.string()), ("count", pyarrow.int64()), ("correct", pyarrow.int64())]
    )
)
PROBLEMS = FileSchema(
    "problems.parquet",
    "g2rl eval",
    "one problem",
    (
        BENCHMARK,
        PROBLEM,
        Column("group", "text", "subject, category or family", nullable="there are no groups"),
        GOLD,
        Column("n", "int", "samples", "samples"),
        Column("c", "int", "right samples", "samples"),
        Column(
            "answers",
            "objects",
            "classes of equivalent answers, the most frequent first: answer (text, null for none), "
            "count and correct (int)",
            shape="(classes,)",
        ),
        Column(
            "pass@{k}",
            "float",
            "chance that one of k samples is right, unbiased",
            "share",
            when="for each k of benchmark.ks",
            nullable="the benchmark has another k",
        ),
        Column(
            "maj@{k}",
            "float",
            "chance that the most frequent of k answers is right",
            "share",
            when="for each k above 1",
            nullable="the benchmark has another k",
        ),
    ),
)
RESULTS = FileSchema(
    "results.parquet",
    "g2rl eval",
    "one metric of one benchmark",
    (
        BENCHMARK,
        Column(
            "metric",
            "text",
            "pass@k, maj@k, mean@k, distinct, length, truncated, unparsed or ungraded",
        ),
        Column("k", "int", "the k of its name", nullable="the metric has none"),
        Column("value", "float", "mean over problems", "that of the metric"),
        Column("low", "float", "lower end of the bootstrap interval over problems", "the same"),
        Column("high", "float", "upper end", "the same"),
        Column("confidence", "float", "coverage of the interval", "share"),
        Column("n_problems", "int", "problems of the benchmark", "problems"),
        Column("n_samples", "int", "samples of each problem", "samples"),
        Column("exact", "bool", "false if subsets of samples were drawn, not enumerated"),
        Column("standard_error", "float", "Monte Carlo error of the value", "that of the metric"),
    ),
)
GROUPS = FileSchema(
    "groups.parquet",
    "g2rl eval",
    "one group of problems, if the benchmark has groups",
    (
        BENCHMARK,
        Column("group", "text", "subject, category or family"),
        Column("metric", "text", "pass@1"),
        Column("value", "float", "mean over the problems of the group", "share"),
        Column("low", "float", "lower end of the bootstrap interval over these problems", "share"),
        Column("high", "float", "upper end", "share"),
        Column("n_problems", "int", "problems of the group", "problems"),
    ),
)


@dataclass(slots=True)
class Findings:
    """The tables of an evaluation, as lists of rows."""

    problems: list[Row]
    """Of problems.parquet: one row a problem."""
    results: list[Row]
    """Of results.parquet: one row for each benchmark and metric."""
    groups: list[Row]
    """Of groups.parquet: one row for each group of problems; empty without groups."""

    def value(self, benchmark: str, metric: str) -> float:
        """The value of a metric, e.g. ``value("math500", "pass@1")``.

        Raises:
            KeyError: the benchmark does not have this metric.
        """
        for row in self.results:
            if row["benchmark"] == benchmark and row["metric"] == metric:
                return row["value"]
        raise KeyError(f"{benchmark}: {metric}")

    def write(self, folder: Path) -> None:
        """Write problems.parquet, results.parquet and, if there are groups, groups.parquet."""
        # benchmarks may have different k: a column for each metric that any problem has
        fixed_names = set(PROBLEMS.names)
        metric_names: dict[str, None] = {}
        for row in self.problems:
            for name in row:
                if name not in fixed_names:
                    metric_names[name] = None
        columns = PROBLEMS.arrow({"answers": ANSWERS})
        for name in metric_names:
            columns = columns.append(pyarrow.field(name, pyarrow.float64()))

        write_rows(folder / "problems.parquet", self.problems, columns)
        write_rows(folder / "results.parquet", self.results, RESULTS.arrow())
        if self.groups:
            write_rows(folder / "groups.parquet", self.groups, GROUPS.arrow())


def findings_metrics(findings: Findings) -> dict[str, float]:
    """The results under the names that training gives them: eval/math500/pass@1, .../pass@1_low."""
    metrics: dict[str, float] = {}
    for row in findings.results:
        name = f"eval/{row['benchmark']}/{row['metric']}"
        values = {name: row["value"], f"{name}_low": row["low"], f"{name}_high": row["high"]}

        # trackers take finite numbers only
        for key, value in values.items():
            if value is not None and math.isfinite(value):
                metrics[key] = value
    return metrics


def tables_of(
    rows: Sequence[Row], ks: Mapping[str, Sequence[int]], graders: Mapping[str, Grader]
) -> Findings:
    """Compute the tables of an evaluation from its graded samples.

    Args:
        rows: of samples.parquet, in any order.
        ks: the k of pass@k and maj@k of each benchmark; a benchmark that is missing here gets the
            powers of two up to its number of samples.
        graders: of each benchmark; they decide which answers are equivalent.

    Raises:
        EvaluationError: problems of one benchmark have different numbers of samples.
    """
    findings = Findings([], [], [])
    for benchmark, problems in samples_by_problem(rows).items():
        # k above the number of samples cannot be estimated
        sample_count = len(problems[0])
        wanted_ks = ks.get(benchmark, powers_of_two(sample_count))
        possible_ks = [k for k in wanted_ks if k <= sample_count]
        samples = graded_samples(problems)
        estimates = measure_samples(samples, possible_ks, graders[benchmark])

        # the same estimates, problem by problem and over all problems
        rows_of_problems = problem_rows(problems, estimates)
        findings.problems += rows_of_problems
        findings.results += result_rows(benchmark, sample_count, estimates, possible_ks)
        findings.groups += group_rows(benchmark, rows_of_problems)
    return findings


def graded_samples(problems: Sequence[Sequence[Row]]) -> GradedSamples:
    """Rows of samples.parquet, by problem, as `measure_samples` takes them."""
    verdicts: list[list[Verdict]] = []
    lengths: list[list[int]] = []
    finishes: list[list[str]] = []
    for rows in problems:
        verdicts.append([Verdict(row["correct"], row["answer"], row["route"]) for row in rows])
        lengths.append([row["tokens"] for row in rows])
        finishes.append([row["finish"] for row in rows])
    return GradedSamples(verdicts, lengths, finishes)


def accuracies(estimates: Estimates) -> dict[str, np.ndarray]:
    """Each pass@k and maj@k on each problem, (B,), with pass@1 exactly c/n."""
    values: dict[str, np.ndarray] = {}
    for name, values_B in estimates.values.items():
        if name == "pass@1":
            values[name] = estimates.right_shares
        elif "@" in name:
            values[name] = values_B
    return values


def problem_rows(problems: Sequence[Sequence[Row]], estimates: Estimates) -> list[Row]:
    """Rows of problems.parquet for one benchmark.

    Args:
        problems: rows of samples.parquet, by problem.
        estimates: of these samples.
    """
    # what all samples of a problem share stands in the first of its rows
    accuracy_values = accuracies(estimates)
    rows: list[Row] = []
    for place, samples in enumerate(problems):
        first = samples[0]
        row: Row = {
            "benchmark": first["benchmark"],
            "problem": first["problem"],
            "group": problem_of(first).meta.get("group"),
            "gold": first["gold"],
            "n": len(samples),
            "c": sum(sample["correct"] for sample in samples),
            "answers": [asdict(vote) for vote in estimates.votes[place]],
        }

        # a column for each accuracy
        for name, values_B in accuracy_values.items():
            row[name] = float(values_B[place])
        rows.append(row)
    return rows


def result_rows(
    benchmark: str, sample_count: int, estimates: Estimates, ks: Sequence[int]
) -> list[Row]:
    """Rows of results.parquet for one benchmark, pass@1 first.

    Args:
        benchmark: its name.
        sample_count: samples of each problem.
        estimates: of these samples.
        ks: of pass@k and maj@k.
    """
    values = {**estimates.values, **accuracies(estimates), **estimates.grading_shares}

    # the mean over the samples is known by a name for each k, and is the vote of one too
    for k in ks:
        values[f"mean@{k}"] = estimates.right_shares
        if k == 1:
            values["maj@1"] = estimates.right_shares

    # the long form needs no new column for a new metric
    rows: list[Row] = []
    for metric in sorted(values, key=_order):
        interval = interval_over_problems(values[metric])
        k_text = metric.partition("@")[2]
        rows.append(
            {
                "benchmark": benchmark,
                "metric": metric,
                "k": int(k_text) if k_text else None,
                "value": interval.value,
                "low": interval.low,
                "high": interval.high,
                "confidence": CONFIDENCE,
                "n_problems": len(values[metric]),
                "n_samples": sample_count,
                "exact": estimates.exact.get(metric, True),
                "standard_error": _standard_error(estimates, metric),
            }
        )
    return rows


def _standard_error(estimates: Estimates, metric: str) -> float:
    """Monte Carlo standard error of a metric's mean over problems; 0 where nothing was drawn."""
    if metric not in estimates.errors:
        return 0.0

    # the draws of different problems are independent: variances add up
    errors_B = estimates.errors[metric]
    return math.sqrt(float((errors_B**2).sum())) / len(errors_B)


def _order(metric: str) -> tuple[int, int, str]:
    """Sort key: pass@1, pass@2, ..., mean@1, ..., maj@1, ..., then metrics without a k."""
    kind, _, k = metric.partition("@")
    if not k:
        return 3, 0, kind
    return ("pass", "mean", "maj").index(kind), int(k), kind


def group_rows(benchmark: str, problems: Sequence[Row]) -> list[Row]:
    """Rows of groups.parquet for one benchmark: pass@1 of each group of problems.

    Args:
        benchmark: its name.
        problems: rows of problems.parquet; those without a group are left out.
    """
    # most benchmarks have no groups: then there is no row
    accuracies_of_group: dict[str, list[float]] = {}
    for row in problems:
        if row["group"] is not None:
            accuracies_of_group.setdefault(row["group"], []).append(row["c"] / row["n"])

    # one row a group, in the order of their names
    rows: list[Row] = []
    for group, values in sorted(accuracies_of_group.items()):
        interval = interval_over_problems(values)
        rows.append(
            {
                "benchmark": benchmark,
                "group": group,
                "metric": "pass@1",
                "value": interval.value,
                "low": interval.low,
                "high": interval.high,
                "n_problems": len(values),
            }
        )
    return rows
