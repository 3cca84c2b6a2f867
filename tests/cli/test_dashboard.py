"""The dashboard and the curated names against what runs really log, and against
docs/tracking.md."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Any

import pytest

from g2rl.cli.dashboard import build, main, panels
from g2rl.cli.jobs.train import train
from g2rl.runs.metric_names import CURATED, SECTIONS, WHEN, filled, summary_of
from g2rl.runs.tracking import read_metrics
from g2rl.runs.wandb_mirror import HISTOGRAMS, SAMPLE_COLUMNS, SAMPLES
from tests.runs.wandb_files import WandbRun, offline_folders, read_run
from tests.support import ROOT, composed, in_this_thread

pytestmark = pytest.mark.filterwarnings("ignore:Pydantic V1 style")  # in wandb-workspaces
DOCS = ROOT / "docs" / "tracking.md"
BENCHMARKS = {"countdown": [1, 4]}
RUNS = {
    "g2rl": [
        "exploration=g2rl",
        "tracking=wandb",
        "tracking.samples_every=1",
        # so that the update makes its own forwards, and compares
        "optimizer.micro_batch_tokens=128",
    ],
    "entropy": [
        "exploration=entropy",
        "exploration.observe=[g2rl]",
        "tracking=local",
        "trainer.steps=1",
    ],
    "evol": ["exploration=evol", "tracking=local", "trainer.steps=1"],
}
# groups large enough that some hold two right responses, so that every pair class occurs
SIZE = [
    "experiment=smoke",
    "trainer.group_size=8",
    "task.max_response_tokens=32",
    "benchmark.problems=4",
    "benchmark.max_tokens=24",
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run under each of three signals, of two steps under the first."""
    found = {}
    for name, overrides in RUNS.items():
        found[name] = tmp_path_factory.mktemp(name)
        train(composed(*SIZE, *overrides), found[name])
    return found


@pytest.fixture(scope="module")
def logged(folders: dict[str, Path]) -> dict[str, list[set[str]]]:
    """The names in each row of each run."""
    return {
        name: [set(row) for row in read_metrics(path / "metrics.jsonl")]
        for name, path in folders.items()
    }


@pytest.fixture(scope="module")
def mirrored(folders: dict[str, Path]) -> WandbRun:
    return read_run(offline_folders(folders["g2rl"])[0])


def expected(when: str, name: str, logged: dict[str, list[set[str]]]) -> list[set[str]]:
    """The rows in which a metric must be."""
    everything = [row for rows in logged.values() for row in rows]
    steps = {run: rows[1:] for run, rows in logged.items()}
    return {
        "step": [row for rows in steps.values() for row in rows],
        "compared": [row for rows in steps.values() for row in rows],
        "reference": [row for rows in steps.values() for row in rows],
        "eval": everything,
        "ends": [row for rows in logged.values() for row in (rows[0], rows[-1])],
        "g2rl": steps["g2rl"],
        "apart": steps["g2rl"],
        "evol": steps["evol"],
        "observe": steps["entropy"],
    }[when]


@pytest.mark.parametrize("metric", CURATED, ids=lambda metric: metric.name)
def test_every_curated_metric_is_logged_when_it_is_said_to_be(
    metric: Any, logged: dict[str, list[set[str]]]
) -> None:
    for name in filled(metric.name, BENCHMARKS):
        found = [name in row for row in expected(metric.when, name, logged)]
        absent_by_nature = "absent" in metric.meaning
        assert any(found) if absent_by_nature else all(found), name


def test_the_mirror_holds_the_rows_of_metrics_jsonl(
    folders: dict[str, Path], mirrored: WandbRun
) -> None:
    rows = read_metrics(folders["g2rl"] / "metrics.jsonl")
    assert len(mirrored.history) == len(rows) == 3
    extra = {SAMPLES, *HISTOGRAMS}
    for told, row in zip(mirrored.history, rows, strict=True):
        own = {name: value for name, value in told.items() if name[0] != "_" and name not in extra}
        assert own == pytest.approx(row)
    assert mirrored.history[1]["samples"]["ncols"] == len(SAMPLE_COLUMNS)
    assert mirrored.history[1]["samples"]["nrows"] == 16
    assert set(HISTOGRAMS) <= {name for row in mirrored.history for name in row}
    assert (mirrored.run.run_group, mirrored.run.display_name) == ("tiny-countdown", "g2rl-seed0")
    assert list(mirrored.run.tags) == ["g2rl", "tiny", "countdown", "grpo"]


def spec_panels(benchmarks: dict[str, list[int]]) -> dict[str, list[dict[str, Any]]]:
    """What would be sent to W&B: panels by section."""
    pytest.importorskip("wandb_workspaces")
    spec = build("someone", "g2rl", benchmarks)._spec
    return {
        section["name"]: section["panels"]
        for section in spec["spec"]["section"]["panelBankConfig"]["sections"]
    }


def test_the_dashboard_is_built_without_network_and_shows_only_what_is_logged(
    monkeypatch: pytest.MonkeyPatch, logged: dict[str, list[set[str]]], mirrored: WandbRun
) -> None:
    def refuse(*_: Any) -> None:
        pytest.fail("the dashboard wants the network")

    connect = socket.socket.connect
    monkeypatch.setattr(socket.socket, "connect", in_this_thread(connect, refuse))
    sections = spec_panels(BENCHMARKS)
    assert list(sections) == [*SECTIONS, "Samples"]
    known = {name for rows in logged.values() for row in rows for name in row}
    drawn = []
    for panel in (
        panel for name in SECTIONS for panel in sections[name] if "metrics" in panel["config"]
    ):
        config = panel["config"]
        assert config["xAxis"] == "step"
        assert config["chartTitle"]
        assert config["yAxisTitle"]
        drawn += config["metrics"]
    assert set(drawn) <= known
    curated = [name for metric in CURATED for name in filled(metric.name, BENCHMARKS)]
    assert sorted(drawn) == sorted(curated), "every curated metric once"
    [histograms] = [p for p in sections["Exploration geometry"] if "mediaKeys" in p["config"]]
    media = {name for row in mirrored.history for name in row}
    assert set(histograms["config"]["mediaKeys"]) <= media
    assert f'"{SAMPLES}"' in str(sections["Samples"]).replace("'", '"')
    assert SAMPLES in media


def test_one_panel_has_one_unit_and_several_benchmarks_have_panels_of_their_own() -> None:
    for metric in CURATED:
        assert {other.unit for other in CURATED if other.panel == metric.panel} == {metric.unit}
        assert metric.section in SECTIONS
        assert metric.when in WHEN
    found = {
        title: names
        for title, _, names in panels("Evaluation", {"amc23": [1, 16], "math500": [1, 4, 16]})
    }
    assert found["amc23 pass@1"] == ["eval/amc23/pass@1"]
    assert found["math500 pass@4"] == ["eval/math500/pass@4"]
    assert "amc23 pass@4" not in found


def test_summaries_follow_the_templates() -> None:
    assert summary_of("eval/math500/pass@16") == "max,last"
    assert summary_of("eval/math500/pass@16_low") is None
    assert summary_of("eval/countdown/length") is None
    assert summary_of("time/step") == "mean,last"
    assert summary_of("xtime/step") is None


def test_the_command_prints_the_dashboard(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("wandb_workspaces")
    main(["--entity", "someone", "--benchmarks", "math500", "--ks", "1", "8", "--print"])
    shown = capsys.readouterr().out
    assert "eval/math500/maj@8" in shown
    assert "countdown" not in shown


def test_the_documentation_lists_the_curated_metrics() -> None:
    rows = re.findall(
        r"^\| `([^`]+)` \| ([^|]+) \| (.+) \| ([^|]+) \|$", DOCS.read_text(encoding="utf-8"), re.M
    )
    metrics = [row for row in rows if "/" in row[0] and not row[0].startswith("histogram/")]
    meant = [(m.name, m.unit, m.meaning.replace("|", "\\|"), WHEN[m.when]) for m in CURATED]
    assert metrics == meant
    text = DOCS.read_text(encoding="utf-8")
    for name in (SAMPLES, *HISTOGRAMS, *SAMPLE_COLUMNS):
        assert f"`{name}`" in text, name


def test_without_an_account_one_line_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Refusing:
        def save(self) -> None:
            raise RuntimeError("No API key configured.\nMore of it")

    monkeypatch.setattr("g2rl.cli.dashboard.build", lambda *_: Refusing())
    with pytest.raises(SystemExit, match="1"):
        main(["--entity", "someone"])
    said = capsys.readouterr().err
    assert said.startswith("error: the dashboard could not be saved: No API key configured. (log")
    assert said.count("\n") == 1
