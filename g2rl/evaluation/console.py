"""What g2rl-eval prints: progress, a line for each part, tables of results and of differences."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console

from g2rl.evaluation.files import Row
from g2rl.evaluation.tables import Findings
from g2rl.runs.progress import progress_bar
from g2rl.runs.terminal import output, print_table

LINE_SECONDS = 30.0
"""Time between two lines of progress, if the output is not a terminal."""
WIDTH = 118
"""Columns of tables, if the output is not a terminal."""
FEW_RUNS = 20
"""Training runs of an arm below which a bootstrap over them is clearly too narrow."""
DIFFERENCES = "other - baseline in points of %, with 95 % paired bootstrap intervals over problems"
"""Title of a comparison."""
RESULT_COLUMNS = (
    "problems",
    "n",
    "k",
    "pass@1",
    "maj@k",
    "pass@k",
    "no answer",
    "cut off",
    "tokens",
)


class EvalReporter:
    """Prints progress as a bar on a terminal, and as a line from time to time elsewhere.

    Args:
        console: where to print; None: standard output.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or output(WIDTH)

    def say(self, text: str) -> None:
        """Print a line as it is."""
        self.console.print(text, markup=False, soft_wrap=True)

    @contextmanager
    def phase(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show the progress of one part; yields a callable that takes newly finished samples.

        Args:
            name: of what is going on.
            total: number of samples of this part.
        """
        # a bar needs a terminal; a log file gets lines
        if not self.console.is_terminal:
            yield self._lines(name, total)
            return
        with progress_bar(self.console) as progress:
            task = progress.add_task(name, total=total)
            yield lambda count: progress.advance(task, count)

    def _lines(self, name: str, total: int) -> Callable[[int], None]:
        """Progress without a terminal: at most one line every `LINE_SECONDS`."""
        done, last_line = 0, time.monotonic()

        def advance(count: int) -> None:
            nonlocal done, last_line
            done += count

            # no line for the last sample: the results follow at once
            if time.monotonic() - last_line >= LINE_SECONDS and done < total:
                last_line = time.monotonic()
                self.say(f"{name}: {done} of {total} samples of this part")

        return advance

    def findings(self, findings: Findings, title: str) -> None:
        """Print the results."""
        heading = f"{title}: % with 95 % bootstrap intervals over problems"
        print_table(self.console, result_table(findings), heading)

    def comparison(self, rows: Sequence[Row]) -> None:
        """Print one table for each arm that is compared with the baseline.

        Args:
            rows: of comparison.parquet.
        """
        # labels may be long paths: they stand above the table, not in it
        rows_of_other: dict[str, list[Row]] = {}
        for row in rows:
            rows_of_other.setdefault(row["other"], []).append(row)

        self.say(f"baseline: {rows[0]['baseline']}")
        for other, other_rows in rows_of_other.items():
            self.say(f"other: {other}")
            print_table(self.console, comparison_table(other_rows), DIFFERENCES, labels=2)
        self.say(coverage_note(rows))


def result_table(findings: Findings) -> list[list[str]]:
    """One row a benchmark: accuracies in percent with their 95 % intervals, at the largest k.

    mean@k is left out: it is pass@1, by another name.
    """
    # results are in long form: one row for each benchmark and metric
    rows_of: dict[str, dict[str, Row]] = {}
    for row in findings.results:
        rows_of.setdefault(row["benchmark"], {})[row["metric"]] = row

    table = [["benchmark", *RESULT_COLUMNS]]
    for benchmark, row_of_metric in rows_of.items():
        table.append([benchmark, *_result_cells(row_of_metric)])
    return table


def _result_cells(row_of_metric: dict[str, Row]) -> list[str]:
    """The cells of one benchmark under `RESULT_COLUMNS`.

    Args:
        row_of_metric: the benchmark's rows of results.parquet, by metric.
    """
    # how much was sampled, and the largest k that this allows
    k = max(row["k"] for row in row_of_metric.values() if row["k"])
    first = row_of_metric["pass@1"]
    cells = [str(first["n_problems"]), str(first["n_samples"]), str(k)]

    # accuracies come with their intervals
    for name in ("pass@1", f"maj@{k}", f"pass@{k}"):
        cells.append(_accuracy_cell(row_of_metric[name]) if name in row_of_metric else "-")

    # of the rest the values are enough
    for name in ("unparsed", "truncated"):
        cells.append(f"{100 * row_of_metric[name]['value']:.1f}")
    cells.append(f"{row_of_metric['length']['value']:.0f}")
    return cells


def _accuracy_cell(row: Row) -> str:
    """An accuracy in percent and its interval; "~" marks one that was drawn, not enumerated."""
    sign = "" if row["exact"] else "~"
    return f"{sign}{100 * row['value']:.1f} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"


def coverage_note(rows: Sequence[Row]) -> str:
    """What the intervals of a comparison cover, and what they do not.

    Args:
        rows: of comparison.parquet.
    """
    # the arm with the fewest runs limits what can be said
    runs = min(min(row["baseline_runs"], row["other_runs"]) for row in rows)
    if runs == 1:
        return (
            "The intervals are about new problems for these very models. With one training run of "
            "an arm they say nothing about methods: in simulations of equal methods such 95 % "
            "intervals contained 0 in 45 to 75 % of the cases. For methods, give several seeds of "
            "each arm: compare=[[A0,A1,A2],[B0,B1,B2]]"
        )
    if runs < FEW_RUNS:
        return (
            f"The intervals resample problems and the {runs} or more training runs of each arm. A "
            f"bootstrap of few is too narrow: of 8 it covers 89 % instead of 95, of fewer "
            "less. g2rl-analyze compare has t-intervals over seeds"
        )
    return f"The intervals resample problems and the {runs} or more training runs of each arm"


def comparison_table(rows: Sequence[Row]) -> list[list[str]]:
    """One row for each benchmark and metric: both values, their difference and its interval.

    Args:
        rows: of comparison.parquet, with one other arm.
    """
    # values in percent, differences in points of it and with their sign
    table = [["benchmark", "metric", "problems", "baseline", "other", "difference"]]
    for row in rows:
        low, high = f"{100 * row['low']:+.1f}", f"{100 * row['high']:+.1f}"
        table.append(
            [
                row["benchmark"],
                row["metric"],
                str(row["n_problems"]),
                f"{100 * row['baseline_value']:.1f}",
                f"{100 * row['other_value']:.1f}",
                f"{100 * row['difference']:+.1f} [{low}, {high}]",
            ]
        )
    return table
