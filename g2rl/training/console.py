"""What the user sees: a progress bar, a line a step, a final table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from g2rl.evaluation.evaluate import EvalResult
from g2rl.runs.progress import progress_bar

LINE = (
    ("train/accuracy", "accuracy", ".3f"),
    ("train/length", "length", ".1f"),
    ("train/entropy", "entropy", ".3f"),
    ("update/kl", "kl", ".4f"),
    ("update/clip_fraction", "clipped", ".3f"),
    ("explore/nu_mean", "nu", ".3f"),
    ("explore/cosine", "cosine", "+.3f"),
    ("time/step", "s", ".1f"),
)
PROBE_ROWS = (
    ("probe/cosine", "gradient cosine, all pairs"),
    ("probe/cosine_correct_correct", "gradient cosine, correct-correct"),
    ("probe/cosine_correct_wrong", "gradient cosine, correct-wrong"),
    ("probe/negative_pairs", "negative pairs"),
)


class ConsoleReporter:
    """Progress on the terminal; lines only where it is not one."""

    def __init__(self, run_dir: Path, console: Console | None = None) -> None:
        self.run_dir = run_dir
        self.console = console or Console(highlight=False, soft_wrap=True)
        self.progress = progress_bar(self.console, width=12)
        self._main: Any = None

    def say(self, text: str) -> None:
        self.console.print(text, markup=False)

    def begin(self, first_step: int, steps: int) -> None:
        self.steps = steps
        self.progress.start()
        self._main = self.progress.add_task("training", total=steps, completed=first_step)

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        shown = [f"{label} {metrics[name]:{form}}" for name, label, form in LINE if name in metrics]
        self.say(f"step {step:>{len(str(self.steps))}}/{self.steps}  {'  '.join(shown)}")
        self.progress.update(self._main, completed=step)

    @contextmanager
    def phase(self, name: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        """Show what is going on inside a step; yields a callable that advances it."""
        task = self.progress.add_task(name, total=total)
        try:
            yield lambda count: self.progress.advance(task, count)
        finally:
            self.progress.remove_task(task)

    def evaluated(self, step: int, result: EvalResult) -> None:
        shown = "  ".join(
            f"{n} {i.value:.3f} [{i.low:.3f}, {i.high:.3f}]" for n, i in result.intervals.items()
        )
        self.say(f"eval {result.name} after step {step}: {shown}")

    def end(self) -> None:
        self.progress.stop()

    def close(self) -> None:
        self.progress.stop()

    def summary(self, rows: Sequence[tuple[str, str, str]], plots: Sequence[Path]) -> None:
        """The table before -> after, and where everything is."""
        table = Table(
            "",
            "before",
            "after",
            title="before and after training, 95 % bootstrap intervals over problems",
        )
        for row in rows:
            table.add_row(*row)
        self.console.print(table)
        self.say(f"plots: {', '.join(str(shorter(path)) for path in plots)}")
        self.say(f"model: {shorter(self.run_dir / 'model')}  (Hugging Face format)")
        self.say(f"done: {shorter(self.run_dir)}")


class SilentReporter:
    """Says nothing: of every rank but the first."""

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

    def end(self) -> None:
        pass

    def close(self) -> None:
        pass


def shorter(path: Path) -> Path:
    """Relative to the working folder where the path is below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def summary_rows(
    before: Mapping[str, float], after: Mapping[str, float], benchmarks: Sequence[str]
) -> list[tuple[str, str, str]]:
    """Rows of the final table from the first and the last row of metrics.jsonl."""

    def cell(row: Mapping[str, float], key: str) -> str:
        if key not in row:
            return "-"
        low, high = row.get(f"{key}_low"), row.get(f"{key}_high")
        return f"{row[key]:.3f}" + ("" if low is None else f" [{low:.3f}, {high:.3f}]")

    names = [
        (key, f"{benchmark} {key.removeprefix(f'eval/{benchmark}/')}")
        for benchmark in benchmarks
        for key in before
        if key.startswith(f"eval/{benchmark}/")
        and not key.endswith(("_low", "_high"))
        and "/verify/" not in key
        and "/mean@" not in key  # pass@1 by another name
    ]
    return [(label, cell(before, key), cell(after, key)) for key, label in [*names, *PROBE_ROWS]]
