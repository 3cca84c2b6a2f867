"""From graded samples to problems.parquet, results.parquet and groups.parquet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow

from g2rl.evaluation.estimates import Estimates, GradedSamples, measure
from g2rl.evaluation.files import Row, by_problem, problem_of, write_rows
from g2rl.formulas.estimators import bootstrap_interval, mean_at_k
from g2rl.tasks.benchmarks.benchmark import powers_of_two
from g2rl.tasks.grading.grader import Grader
from g2rl.types import Verdict

CONFIDENCE = 0.95
ANSWERS = pyarrow.list_(
    pyarrow.struct(
        [("answer", pyarrow.string()), ("count", pyarrow.int64()), ("correct", pyarrow.int64())]
    )
)
PROBLEMS = [
    ("benchmark", pyarrow.string()),
    ("problem", pyarrow.string()),
    ("group", pyarrow.string()),  # subject, category or family; null without
    ("gold", pyarrow.string()),
    ("n", pyarrow.int64()),
    ("c", pyarrow.int64()),
    ("answers", ANSWERS),  # classes of equivalent answers, most frequent first
]
RESULTS = pyarrow.schema(
    [
        ("benchmark", pyarrow.string()),
        ("metric", pyarrow.string()),  # pass@1, maj@16, mean@16, length, truncated, ...
        ("k", pyarrow.int64()),  # null where the metric has none
        ("value", pyarrow.float64()),
        ("low", pyarrow.float64()),  # bounds of the bootstrap interval over problems
        ("high", pyarrow.float64()),
        ("confidence", pyarrow.float64()),
        ("n_problems", pyarrow.int64()),
        ("n_samples", pyarrow.int64()),  # of each problem
        ("exact", pyarrow.bool_()),  # false: subsets were drawn, see standard_error
        ("standard_error", pyarrow.float64()),  # Monte Carlo error of the value
    ]
)
GROUPS = pyarrow.schema(
    [
        ("benchmark", pyarrow.string()),
        ("group", pyarrow.string()),
        *[
            (name, RESULTS.field(name).type)
            for name in ("metric", "value", "low", "high", "n_problems")
        ],
    ]
)


@dataclass(slots=True)
class Findings:
    """The tables of an evaluation."""

    problems: list[Row]
    results: list[Row]
    groups: list[Row]

    def value(self, benchmark: str, metric: str) -> float:
        """The value of a metric, e.g. ``value("math500", "pass@1")``."""
        for row in self.results:
            if row["benchmark"] == benchmark and row["metric"] == metric:
                return row["value"]
        raise KeyError(f"{benchmark}: {metric}")

    def write(self, folder: Path) -> None:
        """Write problems.parquet, results.parquet and, where there are groups, groups.parquet."""
        # every metric that a problem has is a column behind the fixed ones
        fixed_names = {name for name, _ in PROBLEMS}
        metric_names: dict[str, None] = {}
        for row in self.problems:
            for name in row:
                if name not in fixed_names:
                    metric_names[name] = None
        columns = [*PROBLEMS, *((name, pyarrow.float64()) for name in metric_names)]

        write_rows(folder / "problems.parquet", self.problems, pyarrow.schema(columns))
        write_rows(folder / "results.parquet", self.results, RESULTS)
        if self.groups:
            write_rows(folder / "groups.parquet", self.groups, GROUPS)


def findings_metrics(findings: Findings) -> dict[str, float]:
    """The results under the names that training gives them: eval/math500/pass@1, .../pass@1_low."""
    metrics: dict[str, float] = {}
    for row in findings.results:
        name = f"eval/{row['benchmark']}/{row['metric']}"
        values = {name: row["value"], f"{name}_low": row["low"], f"{name}_high": row["high"]}
        for key, value in values.items():
            if value is not None and math.isfinite(value):
                metrics[key] = value
    return metrics


def tables_of(
    rows: Sequence[Row], ks: Mapping[str, Sequence[int]], graders: Mapping[str, Grader]
) -> Findings:
    """Estimate every metric of graded samples.

    Args:
        rows: of samples.parquet, in any order.
        ks: by benchmark; a benchmark without gets the powers of two up to its n.
        graders: by benchmark; they decide which answers are equivalent.
    """
    findings = Findings([], [], [])
    for benchmark, problems in by_problem(rows).items():
        sample_count = len(problems[0])
        possible_ks = ks.get(benchmark, powers_of_two(sample_count))
        wanted_ks = [k for k in possible_ks if k <= sample_count]
        estimates = measure(graded_samples(problems), wanted_ks, graders[benchmark])

        rows_of_problems = problem_rows(problems, estimates)
        findings.problems += rows_of_problems
        findings.results += result_rows(benchmark, problems, estimates, wanted_ks)
        findings.groups += group_rows(benchmark, rows_of_problems)
    return findings


def graded_samples(problems: Sequence[Sequence[Row]]) -> GradedSamples:
    """Rows of samples.parquet, by problem, as `measure` takes them."""
    verdicts: list[list[Verdict]] = []
    for group in problems:
        verdicts.append([Verdict(row["correct"], row["answer"], row["route"]) for row in group])
    return GradedSamples(
        verdicts,
        [[row["tokens"] for row in group] for group in problems],
        [[row["finish"] for row in group] for group in problems],
    )


def problem_rows(problems: Sequence[Sequence[Row]], estimates: Estimates) -> list[Row]:
    """Rows of problems.parquet for one benchmark."""
    rows: list[Row] = []
    for place, group in enumerate(problems):
        first = group[0]
        row: Row = {
            "benchmark": first["benchmark"],
            "problem": first["problem"],
            "group": problem_of(first).meta.get("group"),
            "gold": first["gold"],
            "n": len(group),
            "c": sum(sample["correct"] for sample in group),
            "answers": [asdict(vote) for vote in estimates.votes[place]],
        }
        for name, values in estimates.values.items():
            if "@" in name:
                row[name] = float(values[place])
        if "pass@1" in row:  # the share itself, exact where the product of pass@k rounds
            row["pass@1"] = row["c"] / row["n"]
        rows.append(row)
    return rows


def result_rows(
    benchmark: str, problems: Sequence[Sequence[Row]], estimates: Estimates, ks: Sequence[int]
) -> list[Row]:
    """Rows of results.parquet for one benchmark, pass@1 first."""
    # the mean over samples has a name for each k, and for k = 1 two more
    sample_count = len(problems[0])
    right_counts = np.array([sum(row["correct"] for row in group) for group in problems])
    means = mean_at_k(sample_count, right_counts, 1)
    names_of_the_mean = [f"mean@{k}" for k in ks]
    if 1 in ks:
        names_of_the_mean += ["pass@1", "maj@1"]
    values = {**estimates.values, **estimates.shares, **dict.fromkeys(names_of_the_mean, means)}

    rows: list[Row] = []
    for metric in sorted(values, key=_order):
        interval = bootstrap_interval(values[metric], CONFIDENCE)
        errors = estimates.errors.get(metric, np.zeros(len(problems)))
        k = metric.partition("@")[2]
        rows.append(
            {
                "benchmark": benchmark,
                "metric": metric,
                "k": int(k) if k else None,
                "value": interval.value,
                "low": interval.low,
                "high": interval.high,
                "confidence": CONFIDENCE,
                "n_problems": len(problems),
                "n_samples": sample_count,
                "exact": estimates.exact.get(metric, True),
                "standard_error": math.sqrt(float((errors**2).sum())) / len(errors),
            }
        )
    return rows


def _order(metric: str) -> tuple[int, int, str]:
    """pass@1, pass@2, ..., mean@1, ..., maj@2, ..., then what has no k."""
    kind, _, k = metric.partition("@")
    kinds = ("pass", "mean", "maj")
    return (kinds.index(kind) if k else len(kinds), int(k or 0), kind)


def group_rows(benchmark: str, problems: Sequence[Row]) -> list[Row]:
    """Rows of groups.parquet: pass@1 of each group of problems; none for a benchmark without groups."""
    accuracies: dict[str, list[float]] = {}
    for row in problems:
        if row["group"] is not None:
            accuracies.setdefault(row["group"], []).append(row["c"] / row["n"])

    rows: list[Row] = []
    for group, values in sorted(accuracies.items()):
        interval = bootstrap_interval(values, CONFIDENCE)
        rows.append(
            {
                "benchmark": benchmark,
                "group": group,
                "metric": "pass@1",
                "n_problems": len(values),
                **interval._asdict(),
            }
        )
    return rows
