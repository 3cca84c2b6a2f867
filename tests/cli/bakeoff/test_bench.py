"""g2rl-bench by the real command: an own signal beside stored rows, and the published page."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from g2rl.analysis.bakeoff.rows import Row, add_row, read_rows
from g2rl.cli import bench
from g2rl.cli.bakeoff.plan import PlannedRun, read_plan
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
EXPERIMENT = """
# @package _global_
defaults:
  - override /task: detour
  - override /tracking: local

trainer: {steps: 1, prompts_per_step: 2, group_size: 4, probe_problems: 0, keep_best: false}
benchmark: {problems: 3, samples: 32}
optimizer: {mini_batches: 1}
algorithm: {kl_coef: 0.0}
"""
"""A protocol of a second, which all arms of a plan share."""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A bake-off of two arms whose rows are stored."""
    return home_of(PLAN, tmp_path / "home")


def home_of(text: str, folder: Path, config_dir: Path | None = None) -> Path:
    """A folder with a plan of one task, the rows of all its runs, and an empty page."""
    folder.mkdir()
    (folder / "plan.yaml").write_text(text)
    (folder / "README.md").write_text(
        "# Mine\n\n<!-- g2rl-bench: begin -->\n<!-- g2rl-bench: end -->\n"
    )
    plan = read_plan(folder / "plan.yaml", [] if config_dir is None else [config_dir])
    for arm in plan.arms:
        for seed in (100, 0):
            add_row(folder / "rows", stored_row(plan.run(plan.tasks["detour"], arm, "0.001", seed)))
    return folder


def stored_row(run: PlannedRun) -> Row:
    """A row made up; maxrl ends 0.1 above grpo."""
    gain = 0.1 if run.arm == "maxrl" else 0.0
    start = {"pass@1": 0.3, "pass@4": 0.6, "pass@32": 0.9, "distinct": 2.0}
    end = {name: value + gain for name, value in start.items()}
    return {
        **run.identity,
        "command": "stored",
        "cpu_seconds": 1.0,
        "curve": [{"step": 0, **start}, {"step": 1, **end}],
    }


def test_somebodys_own_signal_stands_beside_the_stored_rows(tmp_path: Path) -> None:
    own = tmp_path / "mine"
    for group in ("exploration", "experiment"):
        (own / group).mkdir(parents=True)
    (own / "toy_signal.py").write_text(SIGNAL)
    (own / "exploration" / "toy.yaml").write_text("_target_: toy_signal.Toy\nweight: 0.5\n")
    (own / "experiment" / "short.yaml").write_text(EXPERIMENT)
    home = home_of(PLAN.replace("bakeoff_detour", "short"), tmp_path / "home", own)
    words = ["-m", "g2rl.cli.bench", "add", "mine", "exploration=toy", "exploration.weight=0.25"]
    words += ["--home", str(home), "--config-dir", str(own), "--out", str(tmp_path / "out")]

    running = commands.start(words, tmp_path)
    output, _ = running.communicate(timeout=300)
    assert running.returncode == 0, output

    # one run, because at one rate there is nothing to choose; it is not among the stored rows
    rows = read_rows([tmp_path / "out" / "rows"]).of("detour")
    assert [(row["arm"], row["seed"]) for row in rows] == [("mine", 0)]
    assert rows[0]["command"].startswith(
        "g2rl-train experiment=short exploration=toy exploration.weight=0.25 "
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


def test_an_arm_with_several_values_is_refused(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["add", "mine", "exploration=g2rl", "exploration.lam=1,2", "--home", str(home)]
    assert typed(monkeypatch, *words) == 1
    told = capsys.readouterr().err
    assert "one run takes one value of exploration.lam: add an arm for each, under names" in told


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


def test_the_page_is_made_by_the_plan_that_is_published(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rows of another rate are there, and the page shows those of the published one."""
    text = "base: plan.yaml\ntasks: {detour: {rates: [5e-4]}}\n"
    (home / "published.yaml").write_text(text)
    plan = read_plan(home / "published.yaml")
    add_row(home / "rows", stored_row(plan.run(plan.tasks["detour"], "grpo", "0.0005", 0)))
    assert typed(monkeypatch, "table", "--write", "--home", str(home)) == 0
    assert "One rate only, 0.0005" in (home / "README.md").read_text()

    # another plan would take the place of the published one
    words = ["table", "--write", "--home", str(home), "--plan", str(home / "plan.yaml")]
    assert typed(monkeypatch, *words) == 1
    assert "neither --plan nor --tasks" in capsys.readouterr().err

    # without --write other plans are shown as well
    for words, rate in (([], "0.0005"), (["--plan", str(home / "plan.yaml")], "0.001")):
        capsys.readouterr()
        assert typed(monkeypatch, "table", "--home", str(home), *words) == 0
        assert f"One rate only, {rate}" in " ".join(capsys.readouterr().out.split())


def test_nothing_is_trained_that_could_not_be_compared(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "published.yaml").write_text("base: plan.yaml\ntasks: {detour: {rates: [1e-4]}}\n")
    words = ["add", "mine", "exploration=none", "--home", str(home), "--out", str(tmp_path / "o")]
    assert typed(monkeypatch, *words) == 1
    told = capsys.readouterr().err
    assert "nothing to compare with on detour: grpo has no reported row" in told
    assert "g2rl-bench run --arms grpo --tasks detour" in told
    assert not (tmp_path / "o").exists()


def test_only_rows_of_the_plan_are_published(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An own arm, one of the plan's with other settings, and one of another protocol stay out; a
    seed of the plan's goes in."""
    run = read_plan(home / "plan.yaml").run
    task = read_plan(home / "plan.yaml").tasks["detour"]
    good = {**stored_row(run(task, "maxrl", "0.001", 7)), "command": "further"}
    bad = [
        {**good, "arm": "mine", "seed": 0},
        {**good, "overrides": ["exploration=maxrl", "exploration.order=2"], "seed": 0},
        {**good, "arm": "grpo", "overrides": ["exploration=none"], "protocol": "other", "seed": 0},
    ]
    for row in (good, *bad):
        add_row(tmp_path / "further", row)
    words = ["table", "--write", "--home", str(home), "--rows", str(tmp_path / "further")]
    assert typed(monkeypatch, *words) == 0
    stored = read_rows([home / "rows"]).by_key.values()
    assert [row["seed"] for row in stored if row["command"] == "further"] == [7]
    assert len(stored) == 5
    told = capsys.readouterr().out
    for arm in ("mine", "maxrl", "grpo"):
        assert f"left out: 1 rows of {arm}," in told


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["table", "--tasks", "maze"], "the plan has no task 'maze'; it has detour"),
        (["run", "--arms", "ppo"], "the plan has no arm 'ppo'; it has grpo, maxrl"),
        (["run", "--workers", "0"], "--workers must be 1 or more"),
        (["add", "grpo", "exploration=none"], "has an arm 'grpo' already"),
        (["add", "mine", "exploration=none", "trainer.steps=9"], "trainer.steps=9 would change"),
        (["add", "mine", "+benchmark.problems=9"], "+benchmark.problems=9 would change"),
        (["add", "mine", "exploration=none", "seed=9"], "seed=9 would change the protocol"),
        (["add", "mine", "experiment=detour"], "experiment=detour would change the protocol"),
        (["add", "mine", "exploration=maxlr"], "did you mean maxrl?"),
        (
            ["add", "mine", "exploration=maxrl,none"],
            "add an arm for each, under names of their own",
        ),
        (["add", "my/own", "exploration=maxrl"], "'my/own' is no name for files and commands"),
        (["add", "mine", "exploration=maxrl", "exploration.oder=2"], "no key 'exploration.oder'"),
        (["table", "--rows", "gone"], "--rows: there is no folder gone"),
        (["table", "--plan", "rows"], "no plan of the bake-off: "),
        (["run", "--config-dir", "mein"], "--config-dir: there is no folder mein"),
        (["table", "--write", "--tasks", "detour"], "neither --plan nor --tasks"),
        (["table", "--write", "--plan", "plan.yaml"], "there is no file plan.yaml"),
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
