"""What g2rl-eval shows: a progress bar, a line a part, one table a suite, one a comparison."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich import box
from rich.console import Console
from rich.table import Table

from g2rl.evaluation.files import Row
from g2rl.evaluation.tables import Findings
from g2rl.runs.progress import progress_bar

LINE_SECONDS = 30.0
WIDTH = 118  # of tables where the output is no terminal


class EvalReporter:
    """Progress on the terminal; lines only where it is not one."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        if not self.console.is_terminal:
            self.console = Console(highlight=False, width=WIDTH)

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)

    @contextmanager
    def phase(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show a bar over `total` samples; yields a callable that advances it."""
        if not self.console.is_terminal:
            yield self._lines(name, total)
            return
        with progress_bar(self.console) as progress:
            task = progress.add_task(name, total=total)
            yield lambda count: progress.advance(task, count)

    def _lines(self, name: str, total: int) -> Callable[[int], None]:
        """Progress where there is no terminal: a line from time to time."""
        done, spoken = 0, time.monotonic()

        def advance(count: int) -> None:
            nonlocal done, spoken
            done += count
            if time.monotonic() - spoken >= LINE_SECONDS and done < total:
                spoken = time.monotonic()
                self.say(f"{name}: {done} of {total} samples of this part")

        return advance

    def findings(self, findings: Findings, title: str) -> None:
        self.console.print(results_table(findings, title))

    def comparison(self, rows: Sequence[Row]) -> None:
        self.say(f"baseline: {rows[0]['baseline']}")
        for other in dict.fromkeys(row["other"] for row in rows):
            self.say(f"other: {other}")
            self.console.print(comparison_table([row for row in rows if row["other"] == other]))


def results_table(findings: Findings, title: str) -> Table:
    """One line a benchmark: accuracies in percent with their 95 % intervals, at the largest k."""
    # the columns
    heading = f"{title}: % with 95 % bootstrap intervals over problems"
    table = Table(title=heading, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("benchmark")
    names = (
        "problems",
        "n",
        "k",
        "pass@1",
        "mean@k",
        "maj@k",
        "pass@k",
        "no answer",
        "cut off",
        "tokens",
    )
    for name in names:
        table.add_column(name, justify="right", no_wrap="@" in name)
    for benchmark in dict.fromkeys(row["benchmark"] for row in findings.results):
        # accuracies at the largest k, then shares and lengths
        rows = {row["metric"]: row for row in findings.results if row["benchmark"] == benchmark}
        k = max(row["k"] for row in rows.values() if row["k"])
        shown = [
            _cell(rows[name]) if name in rows else "-"
            for name in ("pass@1", f"mean@{k}", f"maj@{k}", f"pass@{k}")
        ]
        shares = [f"{100 * rows[name]['value']:.1f}" for name in ("unparsed", "truncated")]

        # one line a benchmark
        first = rows["pass@1"]
        table.add_row(
            benchmark,
            str(first["n_problems"]),
            str(first["n_samples"]),
            str(k),
            *shown,
            *shares,
            f"{rows['length']['value']:.0f}",
        )
    return table


def _cell(row: Row) -> str:
    sign = "" if row["exact"] else "~"
    return f"{sign}{100 * row['value']:.1f}\n[{100 * row['low']:.1f}, {100 * row['high']:.1f}]"


def comparison_table(rows: Sequence[Row]) -> Table:
    """One line a benchmark and metric: both values, the difference and its paired interval."""
    title = "other - baseline in points of %, with 95 % paired bootstrap intervals over problems"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("benchmark", "metric", "problems", "baseline", "other", "difference", "interval"):
        table.add_column(name, justify="left" if name in ("benchmark", "metric") else "right")
    for row in rows:
        table.add_row(
            row["benchmark"],
            row["metric"],
            str(row["n_problems"]),
            f"{100 * row['baseline_value']:.1f}",
            f"{100 * row['other_value']:.1f}",
            f"{100 * row['difference']:+.1f}",
            f"[{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]",
        )
    return table
