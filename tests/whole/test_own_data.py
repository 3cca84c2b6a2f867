"""The worked examples of docs/own_data.md and docs/train_on_your_own.md run as shown, and graded
rewards reach the update."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from g2rl.cli.jobs.train import train
from tests import commands
from tests.support import ROOT, composed, metric_rows

PAGE = (ROOT / "docs" / "own_data.md").read_text(encoding="utf-8")
SMALL = (
    "tracking=local",
    "exploration=none",
    "trainer.prompts_per_step=4",
    "trainer.group_size=4",
    "trainer.eval_every=0",
    "trainer.probe_problems=2",
    "trainer.probe_samples=2",
    "benchmark.samples=4",
    "verify.workers=1",
    "verify.timeout_seconds=60",
)


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files of the example in the current folder, and the words of its command."""
    [rows] = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    [code] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "sums.jsonl").write_text(rows, encoding="utf-8")
    (tmp_path / "rewards.py").write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)

    command = re.findall(r"\$ g2rl-train (task=rows .*?)\n```", PAGE, re.DOTALL)[0]
    return shlex.split(command.replace("\\\n", " "))


def test_the_worked_example_trains_on_graded_rewards(example: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    train(composed(*example, *SMALL), folder)

    # rewards between 0 and 1 that are those of the function
    table = pd.read_parquet(folder / "geometry" / "step_000002.parquet")
    assert table["reward"].between(0, 1).all()
    assert table["reward"].nunique() > 3
    assert (table["correct"] == (table["reward"] >= 1)).all()

    # two held-out problems have four samples; what was tried before the run counts nowhere
    totals = [row["eval/rows/verify/total"] for row in metric_rows(folder) if row["step"] == 0]
    assert totals == [8]

    # advantages are those of GRPO on these rewards
    for _, group in table.groupby("problem"):
        centred = group["reward"] - group["reward"].mean()
        expected = centred / ((centred**2).mean() + 1e-6) ** 0.5
        assert group["advantage"].tolist() == pytest.approx(expected.tolist(), abs=1e-4)

    # as are the held-out rewards
    first, *steps, last = metric_rows(folder)
    assert 0 < first["eval/rows/reward"] < 1
    assert first["eval/rows/verify/total"] == 8  # without the rehearsal's
    assert last["train/reward"] == pytest.approx(table["reward"].mean(), abs=1e-6)
    assert all(row["verify/total"] == 16 and row["verify/error"] == 0 for row in [*steps, last])


def test_a_function_that_fails_is_refused_before_anything_is_loaded(
    example: list[str], tmp_path: Path
) -> None:
    (tmp_path / "rewards.py").write_text("def closeness(completions): return []\n")
    with pytest.raises(ValueError, match=r"rewards\.py:closeness returned 0 values .* rows/\d"):
        train(composed(*example, *SMALL, "model.source=nowhere"), tmp_path / "run")


def test_the_guide_trains_on_own_rows_rewards_and_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last command of docs/train_on_your_own.md, with the built-in policy's folder as model."""
    page = (ROOT / "docs" / "train_on_your_own.md").read_text(encoding="utf-8")
    [rows] = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    [code] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "sums.jsonl").write_text(rows, encoding="utf-8")
    (tmp_path / "rewards.py").write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)

    commands = re.findall(r"(?m)^\$ g2rl-train ((?:.*\\\n)*.*)$", page)
    words = shlex.split(commands[-1].replace("\\\n", " "))
    model = f"model.source={ROOT / 'g2rl' / 'assets' / 'tiny'}"
    words = [model if word == "model.source=FOLDER_OR_HUB_ID" else word for word in words]
    assert model in words
    (tmp_path / "run").mkdir()
    train(composed(*words, *SMALL), tmp_path / "run")

    # the sum of both rewards: brevity is below 1, so less than 0.2 of it comes from there
    table = pd.read_parquet(tmp_path / "run" / "geometry" / "step_000002.parquet")
    assert table["reward"].between(0, 1.2).all()
    assert (table["correct"] == (table["reward"] >= 1)).all()
    assert table["reward"].nunique() > 3

    # the page promises that one sees it work
    assert table["correct"].any()
    names: dict[str, Any] = {}
    exec(code, names)  # the page's own example
    texts = [r"so \boxed{2 * 5}", r"\boxed{10}", r"\boxed{5 + 3}", "ten", r"\boxed{1 / 0}"]
    assert names["right_value"](texts, ["10"] * 5) == [1, 1, 0, 0, 0]


def page_of_tasks(folder: Path) -> list[str]:
    """The files of "A task of your own" in docs/tasks.md; returns the words of its command."""
    page = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")
    section = page.partition("## A task of your own")[2].partition("\n## ")[0]
    [code] = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    [node] = re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)
    [words] = re.findall(r"(?m)^\$ g2rl-train (.*)$", section)
    (folder / "mine" / "task").mkdir(parents=True)
    (folder / "mine" / "pairs.py").write_text(code, encoding="utf-8")
    (folder / "mine" / "task" / "pairs.yaml").write_text(node, encoding="utf-8")
    return shlex.split(words)


def test_the_task_of_the_page_trains(tmp_path: Path) -> None:
    words = [*page_of_tasks(tmp_path), *SMALL, "benchmark.problems=4", "benchmark.ks=[1,4]"]
    done = commands.run(["-m", "g2rl.cli.train", *words, "hydra.run.dir=run"], tmp_path)
    assert done.returncode == 0, done.stderr
    table = pd.read_parquet(tmp_path / "run" / "rollouts" / "step_000002.parquet")
    assert table["prompt"].str.fullmatch(r"use \d+ \d+ make \d+ :").all()


def test_a_task_file_without_a_setting_is_named_with_the_line_to_add(tmp_path: Path) -> None:
    words = page_of_tasks(tmp_path)
    file = tmp_path / "mine" / "task" / "pairs.yaml"
    lines = file.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if not line.startswith(("temperature", "top_k"))]
    file.write_text("\n".join(kept), encoding="utf-8")
    done = commands.run(["-m", "g2rl.cli.train", *words, *SMALL], tmp_path)
    assert done.returncode == 1
    assert f"error: {file} lacks settings" in done.stderr
    assert "temperature: 1.0, top_k: 0" in done.stderr
    assert "Traceback" not in done.stderr
