"""From graded samples to problems.parquet, results.parquet and groups.parquet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow

from g2rl.evaluation.estimates import Estimates, estimate
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
        return next(
            row["value"]
            for row in self.results
            if (row["benchmark"], row["metric"]) == (benchmark, metric)
        )

    def write(self, folder: Path) -> None:
        """Write problems.parquet, results.parquet and, where there are groups, groups.parquet."""
        kept = {name for name, _ in PROBLEMS}
        metrics = dict.fromkeys(name for row in self.problems for name in row if name not in kept)
        columns = [*PROBLEMS, *((name, pyarrow.float64()) for name in metrics)]
        write_rows(folder / "problems.parquet", self.problems, pyarrow.schema(columns))
        write_rows(folder / "results.parquet", self.results, RESULTS)
        if self.groups:
            write_rows(folder / "groups.parquet", self.groups, GROUPS)


def findings_metrics(findings: Findings) -> dict[str, float]:
    """The results under the names that training gives them: eval/math500/pass@1, .../pass@1_low,
    ..."""
    found: dict[str, float] = {}
    for row in findings.results:
        name = f"eval/{row['benchmark']}/{row['metric']}"
        values = {name: row["value"], f"{name}_low": row["low"], f"{name}_high": row["high"]}
        found |= {
            key: value
            for key, value in values.items()
            if value is not None and math.isfinite(value)
        }
    return found


def find(
    rows: Sequence[Row], ks: Mapping[str, Sequence[int]], graders: Mapping[str, Grader]
) -> Findings:
    """Estimate every metric of graded samples.

    Args:
        rows: of samples.parquet, in any order.
        ks: by benchmark; a benchmark without gets the powers of two up to its n.
        graders: by benchmark; they decide which answers are equivalent.
    """
    findings = Findings([], [], [])
    for name, problems in by_problem(rows).items():
        samples = len(problems[0])
        wanted = [k for k in ks.get(name, powers_of_two(samples)) if k <= samples]
        verdicts = [
            [Verdict(r["correct"], r["answer"], r["route"]) for r in group] for group in problems
        ]
        estimates = estimate(verdicts, wanted, graders[name])
        mine = problem_rows(problems, estimates)
        findings.problems += mine
        findings.results += result_rows(name, problems, estimates, wanted)
        findings.groups += group_rows(name, mine)
    return findings


def problem_rows(problems: Sequence[Sequence[Row]], estimates: Estimates) -> list[Row]:
    """Rows of problems.parquet for one benchmark."""
    rows = []
    for place, group in enumerate(problems):
        first = group[0]
        fixed = {
            "benchmark": first["benchmark"],
            "problem": first["problem"],
            "group": problem_of(first).meta.get("group"),
            "gold": first["gold"],
            "n": len(group),
            "c": sum(row["correct"] for row in group),
            "answers": [asdict(vote) for vote in estimates.votes[place]],
        }
        metrics = {
            name: float(values[place]) for name, values in estimates.values.items() if "@" in name
        }
        if "pass@1" in metrics:
            metrics["pass@1"] = fixed["c"] / fixed["n"]
        rows.append(fixed | metrics)
    return rows


def result_rows(
    name: str, problems: Sequence[Sequence[Row]], estimates: Estimates, ks: Sequence[int]
) -> list[Row]:
    """Rows of results.parquet for one benchmark, pass@1 first."""
    samples = len(problems[0])
    right = np.array([sum(row["correct"] for row in group) for group in problems])
    values = dict(estimates.values)
    means = mean_at_k(samples, right, 1)
    values |= {f"mean@{k}": means for k in ks}
    if 1 in ks:  # three names of one thing, to the last bit
        values |= {"pass@1": means, "maj@1": means}
    for metric, flags in (
        ("length", [[row["tokens"] for row in group] for group in problems]),
        ("truncated", [[row["finish"] == "length" for row in group] for group in problems]),
        ("unparsed", [[row["answer"] is None for row in group] for group in problems]),
        (
            "ungraded",
            [[row["route"] in ("timeout", "killed") for row in group] for group in problems],
        ),
    ):
        values[metric] = np.array(flags, dtype=float).mean(axis=1)
    rows = []
    for metric in sorted(values, key=_order):
        suffix = metric.partition("@")[2]
        errors = estimates.errors.get(metric, np.zeros(len(problems)))
        interval = bootstrap_interval(values[metric], CONFIDENCE)
        error = math.sqrt(float((errors**2).sum())) / len(errors)
        rows.append(
            {
                "benchmark": name,
                "metric": metric,
                "k": int(suffix) if suffix else None,
                "value": interval.value,
                "low": interval.low,
                "high": interval.high,
                "confidence": CONFIDENCE,
                "n_problems": len(problems),
                "n_samples": samples,
                "exact": estimates.exact.get(metric, True),
                "standard_error": error,
            }
        )
    return rows


def _order(metric: str) -> tuple[int, int, str]:
    """pass@1, pass@2, ..., mean@1, ..., maj@2, ..., then what has no k."""
    kind, _, k = metric.partition("@")
    kinds = ("pass", "mean", "maj")
    return (kinds.index(kind) if k else len(kinds), int(k or 0), kind)


def group_rows(name: str, problems: Sequence[Row]) -> list[Row]:
    """Rows of groups.parquet: pass@1 of each group of problems; none for a benchmark without
    groups."""
    members: dict[str, list[float]] = {}
    for row in problems:
        if row["group"] is not None:
            members.setdefault(row["group"], []).append(row["c"] / row["n"])
    rows = []
    for group, values in sorted(members.items()):
        interval = bootstrap_interval(values, CONFIDENCE)
        fixed = {"benchmark": name, "group": group, "metric": "pass@1", "n_problems": len(values)}
        rows.append({**fixed, **interval._asdict()})
    return rows
