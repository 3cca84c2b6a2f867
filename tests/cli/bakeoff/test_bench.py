"""g2rl-bench by the real command: an own signal beside stored rows, and the published page."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from g2rl.analysis.bakeoff.rows import Row, add_row, read_rows
from g2rl.cli import bench
from g2rl.cli.bakeoff.plan import read_plan
from tests import commands

PLAN = """
rates_seed: 100
seeds: [0]
baseline: grpo
tasks:
  detour: {experiment: bakeoff_detour, rates: [1e-3], primary: pass@4, choose_by: [pass@1]}
arms:
  grpo: exploration=none
  maxrl: exploration=maxrl
"""
SIGNAL = """
from g2rl.exploration import GroupBatch, Shaped, Stateless


class Toy(Stateless):
    name = "toy"
    needs = frozenset()

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def __call__(self, batch: GroupBatch) -> Shaped:
        return Shaped(batch.rewards_PG + self.weight * batch.correct_PG)
"""
SMALL = (
    "trainer.steps=1",
    "trainer.prompts_per_step=2",
    "trainer.group_size=4",
    "benchmark.problems=3",
    "benchmark.samples=32",
)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A bake-off of two arms whose rows are stored."""
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "plan.yaml").write_text(PLAN)
    (folder / "README.md").write_text(
        "# Mine\n\n<!-- g2rl-bench: begin -->\n<!-- g2rl-bench: end -->\n"
    )
    plan = read_plan(folder / "plan.yaml")
    for arm in plan.arms:
        for seed in (100, 0):
            add_row(folder / "rows", stored_row(plan.run(plan.tasks["detour"], arm, "0.001", seed)))
    return folder


def stored_row(run: object) -> Row:
    """A row made up; maxrl ends 0.1 above grpo."""
    gain = 0.1 if run.arm == "maxrl" else 0.0  # type: ignore[attr-defined]
    start = {"pass@1": 0.3, "pass@4": 0.6, "pass@32": 0.9, "distinct": 2.0}
    end = {name: value + gain for name, value in start.items()}
    return {
        **run.identity,  # type: ignore[attr-defined]
        "command": "stored",
        "cpu_seconds": 1.0,
        "curve": [{"step": 0, **start}, {"step": 1, **end}],
    }


def test_somebodys_own_signal_stands_beside_the_stored_rows(home: Path, tmp_path: Path) -> None:
    own = tmp_path / "mine"
    (own / "exploration").mkdir(parents=True)
    (own / "toy_signal.py").write_text(SIGNAL)
    (own / "exploration" / "toy.yaml").write_text("_target_: toy_signal.Toy\nweight: 0.5\n")
    words = ["-m", "g2rl.cli.bench", "add", "mine", "exploration=toy", "exploration.weight=0.25"]
    words += [*SMALL, "--home", str(home), "--config-dir", str(own), "--out", str(tmp_path / "out")]

    running = commands.start(words, tmp_path)
    output, _ = running.communicate(timeout=300)
    assert running.returncode == 0, output

    # one run, because at one rate there is nothing to choose; it is not among the stored rows
    rows = read_rows([tmp_path / "out" / "rows"]).of("detour")
    assert [(row["arm"], row["seed"]) for row in rows] == [("mine", 0)]
    assert rows[0]["command"].startswith(
        "g2rl-train experiment=bakeoff_detour exploration=toy exploration.weight=0.25 "
    )
    assert len(read_rows([home / "rows"]).by_key) == 4

    # the table has all three arms, and a family of two contrasts
    table = output[output.index("\ndetour\n") :]
    assert "|" not in table, "a table for the terminal"
    assert len(re.findall(r"(?m)^ mine +0\.001 +1 ", table)) == 1
    assert "one family of 2 contrasts" in " ".join(table.split())
    assert re.search(r"(?m)^ maxrl +0\.001 +1 +0\.400 ", table)


def typed(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """The exit code of a command in this process; only for commands that train nothing."""
    monkeypatch.setattr(sys, "argv", ["g2rl-bench", *words])
    with pytest.raises(SystemExit) as end:
        bench.main()
    return int(end.value.code or 0)


def test_the_page_and_figure_are_made_from_rows_alone(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (home / "rows" / "detour.jsonl").read_text()
    assert typed(monkeypatch, "table", "--write", "--home", str(home)) == 0
    page = (home / "README.md").read_text()
    assert page.startswith("# Mine\n")
    assert "| maxrl | `exploration=maxrl` | `g2rl-bench run --again --arms maxrl` |" in page
    assert "](detour.png)" in page
    assert (home / "detour.png").stat().st_size > 10_000
    stored = [
        json.loads(line) for line in (home / "rows" / "detour.jsonl").read_text().splitlines()
    ]
    assert sorted(stored, key=str) == sorted(map(json.loads, before.splitlines()), key=str)

    # again: nothing changes
    assert typed(monkeypatch, "table", "--write", "--home", str(home)) == 0
    assert (home / "README.md").read_text() == page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["table", "--tasks", "maze"], "the plan has no task 'maze'; it has detour"),
        (["run", "--arms", "ppo"], "the plan has no arm 'ppo'; it has grpo, maxrl"),
        (["run", "--workers", "0"], "--workers must be 1 or more"),
        (["add", "grpo", "exploration=none"], "has an arm 'grpo' already"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(
    home: Path,
    words: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert typed(monkeypatch, *words, "--home", str(home)) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
