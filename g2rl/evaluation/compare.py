"""Compare evaluations: paired bootstrap intervals of the difference to the first.

The samples of two checkpoints answer the same problems, so each resample draws one set of problems
for both; where an arm is several training runs (seeds), its runs are resampled too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas
import pyarrow

from g2rl.evaluation.files import EvaluationError, Row
from g2rl.formulas.estimators import paired_bootstrap

COMPARISON = pyarrow.schema(
    [
        ("benchmark", pyarrow.string()),
        ("metric", pyarrow.string()),
        ("k", pyarrow.int64()),
        ("baseline", pyarrow.string()),
        ("other", pyarrow.string()),
        ("baseline_value", pyarrow.float64()),
        ("other_value", pyarrow.float64()),
        ("difference", pyarrow.float64()),  # other - baseline
        ("low", pyarrow.float64()),  # 95 % bootstrap bounds of the difference
        ("high", pyarrow.float64()),
        ("n_problems", pyarrow.int64()),
        ("baseline_runs", pyarrow.int64()),
        ("other_runs", pyarrow.int64()),
    ]
)


def problems_file(folder: Path) -> Path:
    """The problems.parquet of a folder that g2rl-eval wrote, or of its only subfolder that has one.

    Raises:
        EvaluationError: there is none, or several, which are listed.
    """
    if (folder / "problems.parquet").is_file():
        return folder / "problems.parquet"

    # one level further down, as under RUN/eval/
    found = sorted(folder.glob("*/problems.parquet")) or sorted(
        folder.glob("eval/*/problems.parquet")
    )
    if len(found) == 1:
        return found[0]
    if found:
        raise EvaluationError(
            f"{folder} holds several evaluations: {', '.join(str(p.parent) for p in found)}"
        )
    raise EvaluationError(
        f"{folder} holds no finished evaluation (no problems.parquet); run g2rl-eval first"
    )


def compare(arms: Mapping[str, Sequence[Path]]) -> list[Row]:
    """Rows of comparison.parquet: every arm after the first against the first.

    Args:
        arms: label -> folders of g2rl-eval, one a training run.

    Raises:
        EvaluationError: fewer than two arms, or evaluations that do not hold the same problems.
    """
    if len(arms) < 2:
        raise EvaluationError("a comparison needs at least two evaluations, the baseline first")

    # the problems of every run of every arm
    tables = {
        label: [pandas.read_parquet(problems_file(folder)) for folder in folders]
        for label, folders in arms.items()
    }

    # each arm against the first, benchmark by benchmark
    baseline, *others = tables
    rows = []
    for other in others:
        for benchmark in dict.fromkeys(tables[baseline][0]["benchmark"]):
            rows += _rows(benchmark, (baseline, tables[baseline]), (other, tables[other]))
    return rows


def _rows(
    benchmark: str,
    baseline: tuple[str, Sequence[pandas.DataFrame]],
    other: tuple[str, Sequence[pandas.DataFrame]],
) -> list[Row]:
    """Every metric that all runs of both arms have on a benchmark."""
    # all runs must have answered the same problems
    runs = [_of(benchmark, table) for table in (*baseline[1], *other[1])]
    for run in runs:
        if list(run.index) != list(runs[0].index):
            both = len(run.index.intersection(runs[0].index))
            raise EvaluationError(
                f"{benchmark}: the evaluations hold different problems ({len(runs[0])} and {len(run)}, "
                f"{both} in both); evaluate with the same benchmark settings"
            )

    # metrics that all of them have
    metrics = [
        name
        for name in runs[0].columns
        if "@" in name and all(name in run and run[name].notna().all() for run in runs)
    ]
    rows = []
    for metric in metrics:
        # (runs, problems): the baseline's runs first
        values = np.stack([run[metric].to_numpy() for run in runs])
        first, second = values[: len(baseline[1])], values[len(baseline[1]) :]
        interval = paired_bootstrap(second, first)
        rows.append(
            {
                "benchmark": benchmark,
                "metric": metric,
                "k": int(metric.partition("@")[2]),
                "baseline": baseline[0],
                "other": other[0],
                "baseline_value": float(first.mean()),
                "other_value": float(second.mean()),
                "difference": interval.value,
                "low": interval.low,
                "high": interval.high,
                "n_problems": values.shape[1],
                "baseline_runs": len(first),
                "other_runs": len(second),
            }
        )
    return rows


def _of(benchmark: str, table: pandas.DataFrame) -> pandas.DataFrame:
    """The problems of a benchmark by id, sorted."""
    return table[table["benchmark"] == benchmark].set_index("problem").sort_index()
