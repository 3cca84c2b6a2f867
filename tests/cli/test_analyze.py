"""g2rl-analyze: the dispatcher, geometry of a checkpoint, comparison of runs; misuse is
explained."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pandas as pd
import pytest

from g2rl.analysis.columns import (
    CONTRASTS,
    GEOMETRY_GROUPS,
    GEOMETRY_PAIRS,
    GEOMETRY_RESPONSES,
    RUNS,
)
from g2rl.analysis.comparison.choices import Choices
from g2rl.cli import analyze
from g2rl.cli.config.mistakes import explain_mistakes, groups_of
from g2rl.cli.jobs import compare as compare_job
from g2rl.cli.jobs import geometry as geometry_job
from g2rl.cli.jobs.compare import compare
from g2rl.cli.jobs.compare import main as compare_main
from g2rl.cli.jobs.geometry import geometry
from g2rl.cli.jobs.train import train
from tests import commands, support
from tests.columns import wrongly_described
from tests.support import DATA

SMALL = ("problems=3", "responses=4", "max_tokens=40")


composed = partial(support.composed, command="analyze_geometry")
GEOMETRY_FILES = (GEOMETRY_PAIRS, GEOMETRY_GROUPS, GEOMETRY_RESPONSES)


def run(folder: Path, *overrides: str) -> float:
    return geometry(composed(*SMALL, *overrides), folder, overrides)


def command(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return commands.run(["-c", "from g2rl.cli.analyze import main; main()", *words], folder)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of g2rl and one of none, of one step; their probes are of 3 problems x 4
    responses."""
    folder = tmp_path_factory.mktemp("runs")
    for name, words in (
        ("g0", ["exploration=g2rl", "seed=0"]),
        ("g1", ["exploration=g2rl", "seed=1"]),
        ("n0", ["exploration=none", "seed=0"]),
    ):
        small = [
            "trainer.steps=1",
            "benchmark.problems=4",
            "benchmark.max_tokens=40",
            "benchmark.samples=4",
            "benchmark.ks=[1,4]",
        ]
        probe = ["trainer.probe_problems=3", "trainer.probe_samples=4"]
        config = composed(*support.SMOKE, *small, *probe, *words, command="train")
        (folder / name).mkdir()  # as Hydra does
        train(config, folder / name)
    return folder


def test_the_geometry_of_a_run_is_that_of_its_own_probe(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Same problems, random numbers, temperatures as the last row of metrics.jsonl, found by other
    code."""
    found = run(tmp_path, f"run='{trained / 'g0'}'", "seed=0")
    last = support.metric_rows(trained / "g0")[-1]
    assert found == pytest.approx(last["probe/cosine"], abs=1e-6)
    cell = json.loads((tmp_path / "geometry.json").read_text())["cells"][0]
    values = {(row["pair"], row["metric"]): row["value"] for row in cell["gradient"]}
    for pair in ("correct-correct", "correct-wrong", "wrong-wrong"):
        key = pair.replace("-", "_")
        assert ((pair, "mean_cosine") in values) == (f"probe/cosine_{key}" in last)
        if (pair, "mean_cosine") in values:
            assert values[pair, "mean_cosine"] == pytest.approx(
                last[f"probe/cosine_{key}"], abs=1e-6
            )
            assert values[pair, "negative_ratio"] == pytest.approx(
                last[f"probe/negative_pairs_{key}"], abs=1e-6
            )
    for name in ("table.md", "geometry.png"):
        assert (tmp_path / name).stat().st_size > 500, name
    assert not (tmp_path / "grid.png").exists(), "one cell is no grid"
    assert len(pd.read_parquet(tmp_path / "pairs.parquet")) == 3 * 6
    assert len(pd.read_parquet(tmp_path / "responses.parquet")) == 12
    groups = pd.read_parquet(tmp_path / "groups.parquet")
    assert groups["space"].value_counts().to_dict() == {"gradient": 3, "semantic": 3}
    shown = capsys.readouterr().out
    assert "sampled at temperature 1, no truncation" in shown
    assert str(tmp_path / "geometry.png") in shown.replace("\n", "")


def test_a_grid_draws_each_set_once_and_scores_it_at_every_temperature(tmp_path: Path) -> None:
    cells = ("sampled_at=[0.6,1.0]", "scored_at=[null,1.0,0.5]")
    run(tmp_path, *cells, "embed=false", "top_p=0.9", "max_tokens=16")
    responses = pd.read_parquet(tmp_path / "responses.parquet")
    cells = list(
        responses[["sampled_at", "scored_at"]].drop_duplicates().itertuples(index=False, name=None)
    )
    assert cells == [(0.6, 0.6), (0.6, 1.0), (0.6, 0.5), (1.0, 1.0), (1.0, 0.5)], "no cell twice"
    texts = responses.pivot(
        index=["problem", "sample"], columns=["sampled_at", "scored_at"], values="completion"
    )
    assert (texts[(0.6, 0.6)] == texts[(0.6, 1.0)]).all(), "one sampled set"
    assert (texts[(0.6, 1.0)] != texts[(1.0, 1.0)]).any(), "another at another temperature"
    assert (tmp_path / "grid.png").stat().st_size > 500
    assert "semantic" not in pd.read_parquet(tmp_path / "pairs.parquet"), "no encoder"
    assert wrongly_described(tmp_path, *GEOMETRY_FILES) == []
    text = (tmp_path / "table.md").read_text()
    assert text.count("top-p 0.9; p_t scored at temperature") == 5
    with pytest.raises(ValueError, match="begun with other settings"):
        run(tmp_path, "seed=5")


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["responses=1"], "one response to a problem makes no pair"),
        (["max_tokens=0"], "no budget for a response"),
        (["sampled_at=[0]"], "greedy samples are all the same"),
        (["sampled_at=1.0"], r"sampled_at=1\.0: write a list"),
        (["sampled_at=[]"], "write a list"),
        (["sampled_at=[null]"], "name the sampling temperatures"),
        (["scored_at=[-1]"], "must be > 0"),
        (["near_orthogonal=0"], "near_orthogonal must lie"),
        (["problems=999"], "countdown has 256"),
        (["max_tokens=9000"], "is over the model's"),
        (
            [
                "benchmark=math",
                f"data_dir={DATA}",
            ],
            "choose one",
        ),
        (["run=nowhere"], "there is no folder nowhere"),
    ],
)
def test_settings_that_give_no_distribution_are_refused(
    words: list[str], meant: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=meant):
        run(tmp_path, *words)
    assert not (tmp_path / "pairs.parquet").exists()


def test_misspelt_words_are_explained() -> None:
    def said(typed: str) -> str:
        return explain_mistakes([typed], "analyze_geometry") or ""

    assert "sampled_at" in said("sample_at=[1.0]")
    assert "did you mean countdown" in said("task=cuntdown")
    assert "there is no such group here" in said("exploration=none")
    assert said("embed=false") == said("encoder=minilm") == said("sampled_at=[0.6,1.0]") == ""
    assert groups_of("analyze_geometry") == ["benchmark", "encoder", "engine", "model", "task"]


def test_stumps_are_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(geometry_job, "draw_geometry", lambda tables, about, file: None)
    run(tmp_path, "max_tokens=3", "embed=false")
    assert "were cut at max_tokens=3" in capsys.readouterr().out


def test_runs_are_compared(
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patch:  # what is drawn is looked at below
        patch.setattr(compare_job, "draw_figures", lambda compared, geometry, out: [])
        out = compare([trained], tmp_path / "out")
    frame = pd.read_parquet(out / "runs.parquet")
    assert frame.columns.tolist() == ["arm", "seed", "run", "step", "metric", "value"]
    assert frame.groupby("arm")["seed"].unique().apply(list).to_dict() == {
        "g2rl": [0, 1],
        "none": [0],
    }
    mine = frame.query("arm == 'g2rl' and seed == 1").set_index(["step", "metric"])["value"]
    assert mine[1, "geometry/cosine"] == pytest.approx(mine[1, "explore/cosine"], abs=1e-6), (
        "the same step's"
    )
    table = (out / "table.md").read_text()
    assert "| none | 1 |" in table
    assert "| g2rl | 2 |" in table
    assert "The runs differ in: exploration.name" in table
    assert "minus none" in table, "plain GRPO is what others are compared with"
    against = compare([trained], tmp_path / "against", Choices(against="none"))
    assert (against / "table.md").read_text() == table
    for name in ("compare.png", "geometry.png", "differences.png"):
        assert (against / name).stat().st_size > 500, name
    contrasts = pd.read_parquet(against / "contrasts.parquet")
    assert set(contrasts["arm"]) == {"g2rl"}
    assert set(contrasts["family"]) == {len(contrasts)}
    assert wrongly_described(against, RUNS, CONTRASTS) == []
    assert f"The family has {len(contrasts)} members" in (against / "table.md").read_text()
    assert "no gradient cosines in none" in capsys.readouterr().out


def test_comparison_takes_chosen_metrics_and_keys(
    trained: Path, tmp_path: Path, undrawn: None
) -> None:
    out = compare(
        [trained / "g0", trained / "n0"],
        tmp_path,
        Choices(by=["exploration.name"], metrics=["train/acc*", "update/kl"]),
    )
    assert "| arm | seeds | train/accuracy | update/kl |" in (out / "table.md").read_text()
    with pytest.raises(ValueError, match="did you mean train/accuracy"):
        compare([trained], tmp_path, Choices(metrics=["train/acuracy"]))
    with pytest.raises(ValueError, match="did you mean train/accuracy"):
        compare([trained], tmp_path, Choices(against="none", family=["train/acuracy"]))
    with pytest.raises(ValueError, match="no arm 'gone' to compare with; there is 'none', 'g2rl'"):
        compare([trained], tmp_path, Choices(against="gone"))
    with pytest.raises(ValueError, match="no run has the setting 'lam'"):
        compare([trained], tmp_path, Choices(by=["lam"]))


def test_an_unfinished_run_is_refused_unless_asked_for(
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    undrawn: None,
) -> None:
    half = tmp_path / "half"
    half.mkdir()
    for name in ("config.yaml", "metrics.jsonl"):
        (half / name).write_bytes((trained / "n0" / name).read_bytes())
    monkeypatch.setattr(sys, "argv", ["g2rl-analyze", str(half), "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as end:
        compare_main()
    assert end.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("error: none of the 1 runs has finished")
    assert str(half) in said
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--partial"])
    compare_main()
    assert "unfinished" in (tmp_path / "out" / "table.md").read_text()


def test_the_first_word_chooses(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert analyze.unknown("geometri").endswith(
        "there are geometry, compare, fidelity; did you mean geometry?"
    )
    monkeypatch.setattr(sys, "argv", ["g2rl-analyze", "plot"])
    with pytest.raises(SystemExit) as end:
        analyze.main()
    assert end.value.code == 2
    assert "no command 'plot': there are geometry, compare, fidelity" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["g2rl-analyze"])
    with pytest.raises(SystemExit) as end:
        analyze.main()
    assert end.value.code == 2, "nothing was asked"


def test_the_command_runs_and_explains_itself(trained: Path, tmp_path: Path) -> None:
    done = command(tmp_path, "geometry", *SMALL, f"run={trained / 'g0'}", "embed=false")
    assert done.returncode == 0, done.stderr
    (folder,) = (trained / "g0" / "eval").glob("geometry-countdown*")
    assert (folder / "geometry.png").exists()
    wrong = command(tmp_path, "geometry", "respnses=4")
    assert wrong.returncode == 2
    assert "did you mean responses" in wrong.stderr
    refused = command(tmp_path, "geometry", "responses=1")
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: responses=1")
    assert "g2rl-analyze geometry run=runs/NAME" in command(tmp_path, "geometry", "--help").stdout
    shown = command(tmp_path, "compare", "--help")
    assert "--partial" in shown.stdout
    assert command(tmp_path, "--help").stdout.count("\n") >= 5
