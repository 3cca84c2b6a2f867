"""Compare evaluations: paired bootstrap intervals of the differences to the first one.

The samples of two checkpoints answer the same problems, so each resample draws one set of problems
for both. An arm may be several training runs (seeds); then its runs are resampled as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas

from g2rl.evaluation.files import BENCHMARK, EvaluationError, Row
from g2rl.formulas.estimators import paired_bootstrap
from g2rl.runs.columns import Column, FileSchema

Arm = tuple[str, Sequence[pandas.DataFrame]]
"""Its label, and the problems.parquet of each of its runs."""

COMPARISON = FileSchema(
    "comparison.parquet",
    "g2rl eval compare=[...]",
    "one metric of one benchmark, of one arm against the first",
    (
        BENCHMARK,
        Column("metric", "text", "pass@k or maj@k"),
        Column("k", "int", "the k of its name"),
        Column("baseline", "text", "label of the first arm"),
        Column("other", "text", "label of the arm that is compared with it"),
        Column("baseline_value", "float", "mean over problems and runs", "share"),
        Column("other_value", "float", "mean over problems and runs", "share"),
        Column("difference", "float", "other - baseline", "share"),
        Column("low", "float", "lower end of its 95 % paired bootstrap interval", "share"),
        Column("high", "float", "upper end", "share"),
        Column("n_problems", "int", "problems that both have answered", "problems"),
        Column("baseline_runs", "int", "training runs (seeds) of the first arm", "runs"),
        Column("other_runs", "int", "training runs (seeds) of the other arm", "runs"),
    ),
)


def problems_file(folder: Path) -> Path:
    """Find the problems.parquet of an evaluation.

    Args:
        folder: that g2rl-eval wrote, or that holds one such folder, or a run with one below eval/.

    Raises:
        EvaluationError: there is no evaluation, or there are several, which are listed.
    """
    if (folder / "problems.parquet").is_file():
        return folder / "problems.parquet"

    # the evaluations of a run lie below RUN/eval/
    paths = sorted(folder.glob("*/problems.parquet"))
    if not paths:
        paths = sorted(folder.glob("eval/*/problems.parquet"))
    if len(paths) == 1:
        return paths[0]
    if paths:
        places = ", ".join(str(path.parent) for path in paths)
        raise EvaluationError(f"{folder} holds several evaluations: {places}")
    raise EvaluationError(
        f"{folder} holds no finished evaluation (no problems.parquet); run g2rl-eval first"
    )


def compare(arms: Mapping[str, Sequence[Path]]) -> list[Row]:
    """Compare every arm after the first with the first.

    Args:
        arms: label -> folders of g2rl-eval, one for each training run.

    Returns:
        Rows of comparison.parquet.

    Raises:
        EvaluationError: there are fewer than two arms, or the evaluations do not hold the same
            problems.
    """
    if len(arms) < 2:
        raise EvaluationError("a comparison needs at least two evaluations, the baseline first")

    # every file is read once, however many arms it is compared with
    loaded_arms: list[Arm] = []
    for label, folders in arms.items():
        tables = [pandas.read_parquet(problems_file(folder)) for folder in folders]
        loaded_arms.append((label, tables))

    # the baseline's first run decides which benchmarks are compared
    baseline, *others = loaded_arms
    _, baseline_tables = baseline
    benchmarks = list(dict.fromkeys(baseline_tables[0]["benchmark"]))
    rows: list[Row] = []
    for other in others:
        for benchmark in benchmarks:
            rows += _comparison_rows(benchmark, baseline, other)
    return rows


def _comparison_rows(benchmark: str, baseline: Arm, other: Arm) -> list[Row]:
    """One row for each metric that all runs of both arms have on a benchmark."""
    baseline_label, baseline_tables = baseline
    other_label, other_tables = other
    runs = [_problems_of(benchmark, table) for table in (*baseline_tables, *other_tables)]

    # pairing needs the same problems in every run
    for run in runs:
        if list(run.index) != list(runs[0].index):
            both = len(run.index.intersection(runs[0].index))
            raise EvaluationError(
                f"{benchmark}: the evaluations hold different problems ({len(runs[0])} and "
                f"{len(run)}, {both} in both); evaluate with the same benchmark settings"
            )

    rows: list[Row] = []
    for metric in _shared_metrics(runs):
        # S runs, the baseline's first, and B problems
        values_SB = np.stack([run[metric].to_numpy() for run in runs])
        baseline_SB = values_SB[: len(baseline_tables)]
        other_SB = values_SB[len(baseline_tables) :]
        interval = paired_bootstrap(other_SB, baseline_SB)
        rows.append(
            {
                "benchmark": benchmark,
                "metric": metric,
                "k": int(metric.partition("@")[2]),
                "baseline": baseline_label,
                "other": other_label,
                "baseline_value": float(baseline_SB.mean()),
                "other_value": float(other_SB.mean()),
                "difference": interval.value,
                "low": interval.low,
                "high": interval.high,
                "n_problems": values_SB.shape[1],
                "baseline_runs": len(baseline_SB),
                "other_runs": len(other_SB),
            }
        )
    return rows


def _shared_metrics(runs: Sequence[pandas.DataFrame]) -> list[str]:
    """Names of the "@k" metrics that every run has on every problem."""
    names: list[str] = []
    for name in runs[0].columns:
        if "@" in name and all(name in run and run[name].notna().all() for run in runs):
            names.append(name)
    return names


def _problems_of(benchmark: str, table: pandas.DataFrame) -> pandas.DataFrame:
    """The rows of one benchmark, with the problem's id as index, sorted by it."""
    return table[table["benchmark"] == benchmark].set_index("problem").sort_index()
