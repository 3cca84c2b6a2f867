"""What the user sees of a run: lines that fit the terminal, and a few responses."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from g2rl.evaluation.evaluate import EvalResult
from g2rl.tasks.benchmarks.countdown import countdown_benchmark
from g2rl.training.console import ConsoleReporter, in_lines, summary_rows
from g2rl.training.validation import shown_samples
from g2rl.types import Completion, Verdict
from tests.support import metric_rows


def reporter_on(folder: Path) -> tuple[ConsoleReporter, io.StringIO]:
    """A reporter on a terminal of 80 columns, and what it prints."""
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=True, color_system=None, highlight=False)
    return ConsoleReporter(folder, console), out


def result_of(problems: int = 3) -> EvalResult:
    shares = np.linspace(0, 1, problems)
    return EvalResult(
        "countdown",
        [[1]] * problems,
        [[Completion([1, 2], "stop", f"answer {i}")] for i in range(problems)],
        [[Verdict(i % 2 == 0, str(i), "string")] for i in range(problems)],
        dict.fromkeys(("pass@1", "pass@4", "pass@16", "maj@4", "maj@16"), shares),
    )


def test_no_line_of_a_run_is_over_80_columns(finished_run: Path) -> None:
    reporter, out = reporter_on(finished_run)
    rows = metric_rows(finished_run)
    reporter.steps = 1000
    reporter.evaluated(1000, result_of())
    reporter.say_parts("step 1000/1000", [f"name{i} {i}.123" for i in range(12)])
    reporter.summary(summary_rows(rows[0], rows[-1], ["countdown"]), [])
    lines = out.getvalue().splitlines()
    table = [line for line in lines if "/" not in line]
    assert max(map(len, table)) <= 80
    assert sum("maj@16" in line for line in lines) == 1
    assert any(line.startswith("    ") for line in lines)


def test_the_line_of_a_step_shows_the_reward_where_it_is_no_verdict(tmp_path: Path) -> None:
    reporter, out = reporter_on(tmp_path)
    reporter.begin(0, 9)
    reporter.step(1, {"train/accuracy": 0.25, "train/reward": -0.5})
    reporter.step(2, {"train/accuracy": 0.25, "train/reward": 0.25})
    reporter.step(3, {"train/accuracy": 0.0, "train/reward": 0.137})
    reporter.step(4, {"train/accuracy": 0.0, "train/reward": 0.0})
    reporter.close()
    lines = [line for line in out.getvalue().splitlines() if "accuracy" in line]
    assert ["reward" in line for line in lines] == [False, False, True, True]
    assert "reward 0.137" in lines[2]


def test_a_line_is_broken_between_its_parts_only() -> None:
    parts = ["pass@1 0.5 [0.1, 0.9]", "pass@4 0.6 [0.2, 1.0]", "pass@16 0.7 [0.3, 1.0]"]
    text = in_lines("eval a after step 0:", parts, 50)
    assert text.splitlines() == [f"eval a after step 0: {parts[0]}", f"    {parts[1]}  {parts[2]}"]
    assert "\n" not in in_lines("eval a after step 0:", parts, 10_000)


@pytest.mark.parametrize(("count", "expected"), [(0, 0), (2, 2), (99, 3)])
def test_a_few_responses_are_shown_with_their_verdicts(count: int, expected: int) -> None:
    benchmark = countdown_benchmark(
        problems=3, samples=1, ks=None, temperature=1.0, top_p=1.0, top_k=0, max_tokens=9
    )
    texts = shown_samples(benchmark, result_of(3), count)
    assert len(texts) == expected
    for number, text in enumerate(texts):
        assert benchmark.problems[number].prompt in text
        assert f"> answer {number}" in text
        assert ("= right" in text) == (number % 2 == 0)
