"""The commands as functions."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

import g2rl
from g2rl.analysis.report.facts import ReportError
from tests import commands
from tests.cli.test_command import QUICK
from tests.support import ROOT, metric_rows

PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")


def test_the_example_runs_as_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undrawn: None
) -> None:
    monkeypatch.chdir(tmp_path)
    [code] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    scope: dict[str, object] = {}
    exec(code, scope)
    run = scope["run"]
    assert isinstance(run, g2rl.cli.api.LoadedRun)
    assert run.finished
    assert (tmp_path / "runs" / "first" / "report.html").is_file()
    assert run.command == ("g2rl-train experiment=smoke exploration=g2rl tracking=local"), (
        "as if it had been typed"
    )

    # the same words again find the finished run, and other words are refused
    before = (tmp_path / "runs/first/metrics.jsonl").stat().st_mtime_ns
    g2rl.train("experiment=smoke", "tracking=local", folder="runs/first")
    assert (tmp_path / "runs/first/metrics.jsonl").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match=r"begun with other settings: exploration\.lam"):
        g2rl.train("experiment=smoke", "exploration.lam=2", "tracking=local", folder="runs/first")


def test_every_function_is_documented_and_offered() -> None:
    assert set(re.findall(r"\| `g2rl\.(\w+)\(", PAGE)) == set(g2rl.__all__)
    assert set(g2rl.__all__) <= set(dir(g2rl))
    for name in g2rl.__all__:
        assert callable(getattr(g2rl, name))
    with pytest.raises(AttributeError, match="no attribute 'trains'"):
        g2rl.trains  # noqa: B018


def test_the_package_alone_loads_nothing(tmp_path: Path) -> None:
    program = (
        "import sys, g2rl\n"
        "heavy = ('torch', 'hydra', 'pandas', 'omegaconf', 'yaml')\n"
        "print([name for name in heavy if name in sys.modules])\n"
        "g2rl.load_run\n"
        "print('torch' in sys.modules)\n"
    )
    done = commands.run(["-c", program], tmp_path, fresh=True)
    assert done.stdout.split("\n")[:2] == ["[]", "False"], done.stderr


def test_a_run_has_the_folder_and_the_bytes_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [word for word in QUICK if not word.startswith("report")]
    run = g2rl.train(*words, "exploration.lam=0.5")
    typed = ["-m", "g2rl.cli.train", *QUICK, "exploration.lam=0.5"]
    command = tmp_path / "command"
    command.mkdir()
    assert commands.run(typed, command).returncode == 0
    other = command / run.folder
    weights = "model/model.safetensors"
    assert (run.folder / weights).read_bytes() == (other / weights).read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trainer.step=3"], "did you mean trainer.steps"),
        (["experiment=signals"], "is a sweep of many runs"),
        (["seed=0,1"], "one run takes one value of seed: call the function once for each"),
        (["exploration=g2r"], "did you mean exploration=g2rl|did you mean g2rl"),
    ],
)
def test_what_a_command_refuses_is_an_error(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        g2rl.train(*words)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="no analysis 'compare'"):
        g2rl.analyze("compare")


def test_a_run_is_read_whole(finished_run: Path) -> None:
    """Beside it, its files are read with json and pandas."""
    run = g2rl.load_run(finished_run)
    rows = metric_rows(finished_run)
    assert run.metrics.index.tolist() == [row["step"] for row in rows]
    for name in ("eval/countdown/pass@1", "train/accuracy"):
        expected = [row.get(name, np.nan) for row in rows]
        np.testing.assert_array_equal(run.metrics[name], expected)
    assert run.summary.loc["probe/cosine"].tolist() == [
        rows[0]["probe/cosine"],
        rows[-1]["probe/cosine"],
    ]
    assert list(run.checkpoints) == [1, 2, 3]
    assert run.config["trainer"]["steps"] == 3
    assert run.model == finished_run / "model"
    assert set(run.probes["step"]) == {0, 3}

    # one row a response, in the order of the files
    kinds = {"rollouts": [], "geometry": []}
    for kind, parts in kinds.items():
        for path in sorted((finished_run / kind).glob("*.parquet")):
            parts.append(pd.read_parquet(path))
    assert run.samples["completion"].tolist() == pd.concat(kinds["rollouts"])["completion"].tolist()
    assert run.samples["nu"].tolist() == pd.concat(kinds["geometry"])["nu"].tolist()
    assert run.samples["step"].tolist() == pd.concat(kinds["geometry"])["step"].tolist()
    assert run.samples.columns.is_unique


def test_a_run_without_tables_and_no_run_at_all(finished_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished_run, folder, ignore=shutil.ignore_patterns("*0*", "model"))
    (folder / "summary.json").unlink()
    run = g2rl.load_run(folder)
    assert run.samples.empty
    assert run.probes.empty
    assert run.checkpoints == {}
    assert run.model is None
    assert not run.finished
    with pytest.raises(ReportError, match="holds no run"):
        g2rl.load_run(tmp_path)


def test_runs_are_compared(finished_run: Path, tmp_path: Path, undrawn: None) -> None:
    folders = []
    for seed, lam in ((0, 1.0), (1, 1.0), (0, 2.0), (1, 2.0)):
        folder = tmp_path / f"{lam}-{seed}"
        shutil.copytree(finished_run, folder, ignore=shutil.ignore_patterns("*0*", "model"))
        config = yaml.safe_load((folder / "config.yaml").read_text())
        config["seed"], config["exploration"]["lam"] = seed, lam
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        folders.append(folder)
    tables = g2rl.compare(*folders, against="lam=1", out=tmp_path / "out")
    assert list(tables) == ["contrasts", "runs"]
    assert (tables["contrasts"]["difference"] == 0).all(), "four copies of one run"
    with pytest.raises(KeyError, match="there are contrasts, runs"):
        tables["samples"]
