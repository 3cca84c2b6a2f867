"""The profile of a run: its files, its shares, its trace, and that it changes no training."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from g2rl.cli.jobs.train import train
from g2rl.runs.layout import RunFolder
from g2rl.training import profiling
from g2rl.training.profile_table import Machine, StageTable
from g2rl.training.profiling import REST, RunProfiler, Trace
from g2rl.training.work import Work
from tests.support import FINISHED_RUN, composed, untimed_rows


@pytest.fixture(scope="module")
def profiled(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The run of `finished_run` with a profile: one step warms up, one is traced, one is timed."""
    folder = tmp_path_factory.mktemp("profiled")
    train(composed(*FINISHED_RUN, "report=false", "profile=true"), folder)
    return RunFolder(folder)


def events(file: Path) -> list[dict[str, Any]]:
    """What a Chrome trace holds."""
    with gzip.open(file, "rt", encoding="utf-8") as text:
        return list(json.load(text)["traceEvents"])


def test_a_profile_changes_no_byte_of_the_training(profiled: RunFolder, finished_run: Path) -> None:
    assert untimed_rows(profiled.path) == untimed_rows(finished_run)
    place = Path("checkpoints/step_000003/model.safetensors")
    assert (profiled.path / place).read_bytes() == (finished_run / place).read_bytes()


def test_shares_add_up_and_every_stage_is_there(profiled: RunFolder) -> None:
    numbers = json.loads(profiled.stage_numbers.read_text(encoding="utf-8"))
    stages = numbers["stages"]
    assert {"sample", "score", "explore", "update", "write", "evaluate", "rest"} <= stages.keys()
    assert sum(stage["share"] for stage in stages.values()) == pytest.approx(1)
    assert sum(stage["seconds"] for stage in stages.values()) == pytest.approx(
        numbers["total"]["seconds"]
    )
    assert (numbers["steps"], numbers["traced_steps"], numbers["under_trace"]) == (1, 1, False)
    for name in ("sample", "score", "update", "evaluate"):
        assert stages[name]["flop"] > 0
        assert 0 <= stages[name]["padding_share"] < 1
        assert stages[name]["share_of_rate"] < 2
    assert stages["write"]["flop"] is None


def test_the_table_says_the_same_as_the_numbers(profiled: RunFolder) -> None:
    numbers = json.loads(profiled.stage_numbers.read_text(encoding="utf-8"))
    lines = profiled.stage_table.read_text(encoding="utf-8").splitlines()
    assert "profile of 1 step after the first, on cpu" in lines[0]
    rows = {line.split("|")[1].strip(): line for line in lines if line.startswith("|")}
    assert f"{numbers['stages']['update']['seconds']:.2f}" in rows["update"]
    assert "100.0 %" in rows["all"]


def test_the_trace_holds_one_step(profiled: RunFolder) -> None:
    names = [event.get("name") for event in events(profiled.trace)]
    for stage in ("sample", "score", "update", "write"):
        assert names.count(f"end of {stage}") == 1
    assert "aten::mm" in names
    assert "Optimizer.step#AdamW.step" in names


def test_a_trace_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a stage with many forwards the first are kept, and the next stage is there again."""
    monkeypatch.setattr(profiling, "FORWARDS_TRACED", 3)
    trace = Trace(tmp_path / "trace.json.gz", cuda=False)
    ones = torch.ones(2, 2)
    trace.start()
    for _ in range(50):
        trace.forward()
        ones.exp()
    trace.mark("first")
    trace.forward()
    ones.tanh()
    trace.stop(keep=True)
    names = [event.get("name") for event in events(trace.file)]
    assert names.count("aten::exp") == 3
    assert names.count("aten::tanh") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["trace.json.gz"]


def test_every_moment_after_the_warm_up_belongs_to_one_stage(tmp_path: Path) -> None:
    moments = iter(range(1000))
    file = tmp_path / "trace.json.gz"
    profiler = RunProfiler(1, file, torch.device("cpu"), clock=lambda: float(next(moments)))
    for _ in range(4):
        with profiler.step():
            profiler.meter.add(Work(flop=6.0))
            profiler.lap("sample")
            profiler.lap("update")
        profiler.lap("evaluate")
    profiler.lap(REST)
    profiler.close()
    assert file.is_file()
    assert profiler.timed_steps == 2
    # a lap a second, of two steps; the evaluation behind the traced step is timed too
    seconds = {name: stage.seconds for name, stage in profiler.timed.items()}
    assert seconds == {"sample": 2, "update": 2, "evaluate": 3, REST: 2 + 2 + 1}
    assert profiler.timed["sample"].work.flop == 12
    assert profiler.traced["sample"].work.flop == 6


def test_a_run_too_short_for_a_timed_step_shows_the_traced_one(tmp_path: Path) -> None:
    profiler = RunProfiler(1, tmp_path / "trace.json.gz", torch.device("cpu"))
    for _ in range(2):
        with profiler.step():
            profiler.lap("sample")
    table = StageTable.of(profiler, Machine("cpu", "float32", (1, 1, 1), 1e9, "resident"))
    assert table.under_trace
    assert table.steps == 1
    assert "sample" in table.stages
    assert "under the trace, which slows them down" in table.lines()[0]


def test_nothing_is_promised_of_a_run_of_one_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("report=false", "profile=2", "trainer.steps=1", "exploration.observe=[]")
    train(composed(*FINISHED_RUN, *words), tmp_path)
    assert "no step came after the first" in capsys.readouterr().out
    assert not RunFolder(tmp_path).profile.exists()


def test_a_negative_number_of_steps_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="profile must be true, false or the number of steps"):
        train(composed(*FINISHED_RUN, "profile=-1"), tmp_path)
