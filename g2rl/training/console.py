"""What the user sees of a training run: a progress bar, a line a step, a final table."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.table import Table

from g2rl.evaluation.evaluate import EvalResult
from g2rl.formulas.pairs import CORRECT_CORRECT, CORRECT_WRONG, metric_suffix
from g2rl.runs.layout import RunFolder
from g2rl.runs.progress import progress_bar
from g2rl.runs.terminal import has_width

REWARD = "train/reward"
STEP_LINE = (
    ("train/accuracy", "accuracy", ".3f"),
    (REWARD, "reward", ".3f"),
    ("train/length", "length", ".1f"),
    ("train/entropy", "entropy", ".3f"),
    ("update/kl", "kl", ".4f"),
    ("update/clip_fraction", "clipped", ".3f"),
    ("explore/nu_mean", "nu", ".3f"),
    ("explore/cosine", "cosine", "+.3f"),
    ("time/step", "s", ".1f"),
)
SAME = 1e-6
"""Means that differ by less are the same, up to the rounding of float32."""
PROBE_ROWS = (
    ("probe/cosine", "gradient cosine, all pairs"),
    (f"probe/cosine{metric_suffix(CORRECT_CORRECT)}", f"gradient cosine, {CORRECT_CORRECT}"),
    (f"probe/cosine{metric_suffix(CORRECT_WRONG)}", f"gradient cosine, {CORRECT_WRONG}"),
    ("probe/negative_pairs", "negative pairs"),
)


class Reporter(Protocol):
    """Tells the user what a run is doing."""

    def say(self, text: str) -> None:
        """Print a line."""
        ...

    def begin(self, first_step: int, steps: int) -> None:
        """Training begins after `first_step` steps that are done already, out of `steps`."""
        ...

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """A step is done."""
        ...

    def phase(
        self, name: str, total: int | None = None
    ) -> AbstractContextManager[Callable[[int], None]]:
        """Show what is going on inside a step; the context yields a callable that advances it."""
        ...

    def evaluated(self, step: int, result: EvalResult) -> None:
        """A benchmark has been evaluated."""
        ...

    def samples(self, texts: Sequence[str]) -> None:
        """A few of its responses, as text."""
        ...

    def end(self) -> None:
        """Training has ended."""
        ...

    def close(self) -> None:
        """Give the terminal back, whatever has happened."""
        ...


class ConsoleReporter:
    """Progress on the terminal; lines only where it is not one.

    Args:
        run_dir: the run's folder, named at the end.
        console: where to print; None takes standard output.
    """

    def __init__(self, run_dir: Path, console: Console | None = None) -> None:
        self.run_dir = run_dir
        self.console = console or Console(highlight=False, soft_wrap=True)
        self.progress = progress_bar(self.console, width=12)
        self._main: Any = None
        self._pays_otherwise = False
        """Whether the rewards of this run are no verdicts."""

    def say(self, text: str) -> None:
        self.console.print(text, markup=False)

    def say_parts(self, head: str, parts: Sequence[str]) -> None:
        """Print a line of several parts; it is broken between parts where the terminal ends."""
        self.say(in_lines(head, parts, self.width))

    @property
    def width(self) -> int:
        """Columns of the terminal; a file has as many as a line needs."""
        return self.console.width if has_width(self.console) else sys.maxsize

    def begin(self, first_step: int, steps: int) -> None:
        self.steps = steps
        self.progress.start()
        self._main = self.progress.add_task("training", total=steps, completed=first_step)

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        # rewards of the user's own have a column, from the first step on that shows them
        if REWARD in metrics and not repeats_accuracy(metrics):
            self._pays_otherwise = True

        # what this run does not measure has no place in its line
        values: list[str] = []
        for name, label, number_format in STEP_LINE:
            if name in metrics and (name != REWARD or self._pays_otherwise):
                values.append(f"{label} {metrics[name]:{number_format}}")

        # padded, so that the lines of all steps stand in columns
        digits = len(str(self.steps))
        self.say_parts(f"step {step:>{digits}}/{self.steps}", values)
        self.progress.update(self._main, completed=step)

    @contextmanager
    def phase(self, name: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        # gone when the phase is over
        task = self.progress.add_task(name, total=total)
        try:
            yield lambda count: self.progress.advance(task, count)
        finally:
            self.progress.remove_task(task)

    def evaluated(self, step: int, result: EvalResult) -> None:
        # every share with its interval
        accuracies: list[str] = []
        for name, interval in result.intervals.items():
            limits = f"[{interval.low:.3f}, {interval.high:.3f}]"
            accuracies.append(f"{name} {interval.value:.3f} {limits}")
        self.say_parts(f"eval {result.name} after step {step}:", accuracies)

    def samples(self, texts: Sequence[str]) -> None:
        for text in texts:
            self.say(text)

    def end(self) -> None:
        self.progress.stop()

    def close(self) -> None:
        self.progress.stop()

    def summary(
        self,
        rows: Sequence[tuple[str, str, str]],
        plots: Sequence[Path],
        report: Path | None = None,
    ) -> None:
        """Print the table of before and after, and where everything is."""
        title = "before and after training, 95 % bootstrap intervals over problems"
        table = Table("", "before", "after", title=title)

        # before and after, side by side
        for row in rows:
            table.add_row(*row)
        self.console.print(table)

        # where to find what the run has made
        model = RunFolder(self.run_dir).model
        self.say(f"plots: {', '.join(str(shorter(path)) for path in plots)}")
        if report is not None:
            self.say(f"report: {shorter(report)}  (open it in a browser)")
        self.say(f"model: {shorter(model)}  (Hugging Face format)")
        self.say(f"done: {shorter(self.run_dir)}")


class SilentReporter:
    """Says nothing; for every rank but the first."""

    def say(self, text: str) -> None:
        pass

    def begin(self, first_step: int, steps: int) -> None:
        pass

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        pass

    @contextmanager
    def phase(self, name: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        yield lambda count: None

    def evaluated(self, step: int, result: EvalResult) -> None:
        pass

    def samples(self, texts: Sequence[str]) -> None:
        pass

    def end(self) -> None:
        pass

    def close(self) -> None:
        pass


def repeats_accuracy(metrics: Mapping[str, float]) -> bool:
    """Whether the mean reward says what the accuracy says, as rewards of -1 and 1, or 0 and 1, do.

    Reward functions of the user's own pay anything, and then the reward is what training raises.
    """
    accuracy, reward = metrics["train/accuracy"], metrics[REWARD]
    return any(abs(reward - same) < SAME for same in (2 * accuracy - 1, accuracy))


def in_lines(head: str, parts: Sequence[str], width: int) -> str:
    """A head and parts, two spaces between them, in lines of at most `width` columns.

    A part is never broken; lines after the first are indented.
    """
    lines = [head]
    for part in parts:
        # one space behind a colon, two between parts
        longer = f"{lines[-1]} {part}" if lines[-1].endswith(":") else f"{lines[-1]}  {part}"
        if len(longer) > width:
            lines.append(f"    {part}")
        else:
            lines[-1] = longer
    return "\n".join(lines)


def shorter(path: Path) -> Path:
    """The path relative to the working folder, where it lies below that."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def summary_rows(
    before: Mapping[str, float], after: Mapping[str, float], benchmarks: Sequence[str]
) -> list[tuple[str, str, str]]:
    """Rows of the final table: a label, the value before and the value after training.

    Args:
        before, after: the first and the last row of metrics.jsonl.
        benchmarks: names of the held-out problem sets, in the order of the table.
    """
    metrics: list[tuple[str, str]] = []
    for benchmark in benchmarks:
        prefix = f"eval/{benchmark}/"
        for name in before:
            if name.startswith(prefix) and _is_shown(name):
                metrics.append((name, f"{benchmark} {name.removeprefix(prefix)}"))

    # the probe comes last: it is about gradients, not about accuracy
    metrics += PROBE_ROWS
    return [(label, _cell(before, name), _cell(after, name)) for name, label in metrics]


def _is_shown(name: str) -> bool:
    """Whether a held-out metric has a row of its own: no interval bounds, no grader's counts, and
    no mean@n, which is pass@1 under another name."""
    is_bound = name.endswith(("_low", "_high"))
    return not (is_bound or "/verify/" in name or "/mean@" in name)


def _cell(row: Mapping[str, float], name: str) -> str:
    """A value with its interval, where the row has one."""
    if name not in row:
        return "-"

    # means over problems have intervals, other values have none
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    if low is None:
        return f"{row[name]:.3f}"
    return f"{row[name]:.3f} [{low:.3f}, {high:.3f}]"
