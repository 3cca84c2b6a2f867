"""The whole command in two processes: the files of one run, checkpoints across world sizes, stop
signals."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint import FileSystemReader
from transformers import AutoModelForCausalLM

from g2rl.analysis.figures.one_run import plot_run
from g2rl.cli.jobs import train as train_job
from g2rl.policy.loading import load
from g2rl.policy.policy import Policy
from g2rl.runs.checkpoints import CheckpointError, Checkpoints
from g2rl.runs.interrupt import Interrupted
from tests.support import EVERYTHING, NO_EVALUATION, ROOT, small_drift, untimed_rows
from tests.whole.parallel.twins import launch, train_in

RUN = [
    "trainer.steps=2",
    "exploration=g2rl",
    "exploration.observe=[evol]",
    "trainer.probe_problems=3",
    "trainer.probe_samples=2",
    "trainer.eval_every=2",
    "benchmark.problems=3",
]
FSDP = [*RUN, "parallel=fsdp"]
TOKENS = [
    "trainer.steps=1",
    "task.max_response_tokens=40",
    "trainer.probe_problems=1",
    "algorithm=dapo",
    "algorithm.sampling_rounds=4",
    "exploration=combined",
    "exploration.parts=[forking_tokens,kl_cov,entropy_advantage]",
]
"""Uniform groups are replaced, and three signals plan the tokens."""


def assert_same_run(ours: Path, theirs: Path, atol: float = 1e-5) -> None:
    """Metrics, tables and exported weights."""
    for found, expected in zip(untimed_rows(ours), untimed_rows(theirs), strict=True):
        # one process may keep the forward that scored the first mini-batch, and compares nothing
        found.pop("update/first_ratio", None)
        expected.pop("update/first_ratio", None)
        assert found.keys() == expected.keys()

        # several processes compare other tokens with scoring
        assert small_drift(found)
        assert small_drift(expected)
        for name, value in expected.items():
            if not name.startswith("sample/drift"):
                assert found[name] == pytest.approx(value, abs=atol), name
    for kind in ("rollouts", "geometry", "probe"):
        names = sorted(path.name for path in (theirs / kind).iterdir())
        assert sorted(path.name for path in (ours / kind).iterdir()) == names
        for name in names:
            found, expected = (pd.read_parquet(folder / kind / name) for folder in (ours, theirs))
            pd.testing.assert_frame_equal(found, expected, rtol=0, atol=atol)
    found, expected = (
        AutoModelForCausalLM.from_pretrained(f / "model").state_dict() for f in (ours, theirs)
    )
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], atol=atol, rtol=0)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of one process and of two, whole, and continued by one, two and one sharded process."""
    place = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:  # the figures, too, are those of one process
        patch.setattr(train_job, "plot_run", plot_run)
        train_in(place / "one", RUN)
    with pytest.raises(Interrupted):
        train_in(place / "one_two", RUN, stop_at=1)
    jobs = [
        ("two", FSDP, 0),
        ("two_one", FSDP, 1),
        ("one_two", FSDP, 0),
        ("tokens_two", [*TOKENS, "parallel=fsdp"], 0),
    ]
    torch.save(jobs, place / "jobs.pt")
    launch("training", place)
    for name in ("two_two", "two_alone"):
        shutil.copytree(place / "two_one", place / name)
    torch.save([("two_two", FSDP, 0)], place / "jobs.pt")
    launch("training", place)
    train_in(place / "two_one", RUN)
    train_in(place / "two_alone", FSDP)
    train_in(place / "tokens_one", TOKENS)
    return place


@pytest.mark.parametrize("name", ["two", "one_two", "two_one", "two_two", "two_alone"])
def test_any_number_of_processes_gives_the_same_run(runs: Path, name: str) -> None:
    assert_same_run(runs / name, runs / "one")


def test_two_processes_refill_groups_and_plan_tokens_like_one(runs: Path) -> None:
    row = untimed_rows(runs / "tokens_one")[1]
    assert row["sample/rounds"] > 1
    assert row["sample/prompts"] % 2 == 1, "a round in which a rank has nothing to draw"
    assert row["update/kl_cov_anchored"] > 0

    assert_same_run(runs / "tokens_two", runs / "tokens_one")


def test_continuing_in_as_many_processes_is_bit_exact(runs: Path) -> None:
    assert untimed_rows(runs / "two_two") == untimed_rows(runs / "two")
    assert (runs / "two_two/model/model.safetensors").read_bytes() == (
        runs / "two/model/model.safetensors"
    ).read_bytes()


def test_the_files_are_those_of_one_process(runs: Path) -> None:
    def names(folder: Path) -> set[str]:
        return {
            str(p.relative_to(folder)) for p in folder.rglob("*") if "checkpoints" not in p.parts
        }

    assert names(runs / "two") == names(runs / "one")
    assert not [path for path in (runs / "two").rglob("*") if "partial" in path.name]
    assert [row["step"] for row in untimed_rows(runs / "two")] == [0, 1, 2]


def test_a_sharded_checkpoint_says_what_is_wrong_with_it(
    runs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(runs / "two" / "checkpoints", tmp_path / "checkpoints")
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert [checkpoints.damage(step) for step in checkpoints.steps()] == [None] * len(
        checkpoints.steps()
    )
    newest = checkpoints.path(2) / "sharded" / "__1_0.distcp"
    newest.write_bytes(newest.read_bytes()[:-1] + b"?")
    assert checkpoints.damage(2) == "sharded/__1_0.distcp has another checksum"
    state = checkpoints.load_newest(load("builtin:tiny", device="cpu").model)
    assert state is not None
    assert state["step"] == 1
    other = load("builtin:tiny", device="cpu", overrides={"num_hidden_layers": 1}, random_init=True)
    with pytest.raises(CheckpointError, match="another model"):
        checkpoints.load_newest(other.model)


def test_moments_of_two_processes_are_whole_in_one(runs: Path) -> None:
    found = Checkpoints(runs / "two" / "checkpoints").load_newest(
        Policy(load("builtin:tiny", device="cpu").model).model
    )
    expected = Checkpoints(runs / "one" / "checkpoints").load_newest(
        load("builtin:tiny", device="cpu").model
    )
    assert found is not None
    assert expected is not None
    ours, theirs = (state["updater"]["optimizer"]["state"] for state in (found, expected))
    assert ours.keys() == theirs.keys()
    for number, moments in theirs.items():
        for name, value in moments.items():
            torch.testing.assert_close(ours[number][name], value, atol=1e-5, rtol=0)


@pytest.mark.parametrize("export", ["merged", pytest.param("adapter", marks=pytest.mark.slow)])
def test_lora_is_sharded_continued_and_exported(tmp_path: Path, export: str) -> None:
    """A plain run, and one that begins sharded and ends plain; checkpoints hold the adapters
    alone."""
    pytest.importorskip("peft")
    common = [
        "trainer.steps=2",
        *NO_EVALUATION,
        "trainer.checkpoint_every=1",
        "model.lora.r=2",
        f"model.lora.export={export}",
        f"model.lora.include_head={str(export == 'merged').lower()}",
    ]
    train_in(tmp_path / "plain", common)
    with pytest.raises(Interrupted):
        train_in(tmp_path / "mixed", [*common, "parallel=fsdp"], stop_at=1)
    names = FileSystemReader(tmp_path / "mixed/checkpoints/step_000001/sharded").read_metadata()
    weights = [name for name in names.state_dict_metadata if name.startswith("model.")]
    assert weights
    assert all(".lora_" in name for name in weights)
    train_in(tmp_path / "mixed", common)
    train_in(tmp_path / "sharded", [*common, "parallel=fsdp"])
    [expected] = [load_file(path) for path in (tmp_path / "plain" / "model").glob("*.safetensors")]
    for name in ("mixed", "sharded"):
        [path] = (tmp_path / name / "model").glob("*.safetensors")
        found = load_file(path)
        assert found.keys() == expected.keys()
        for key, value in found.items():
            torch.testing.assert_close(value, expected[key], atol=1e-5, rtol=0)


def test_torchrun_without_fsdp_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        ValueError, match=r"WORLD_SIZE=2 with parallel=single: choose parallel=fsdp"
    ):
        train_in(tmp_path, [])


def torchrun(folder: Path, *overrides: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "g2rl.cli.train",
        *EVERYTHING,
        "benchmark.max_tokens=20",  # as in SMOKE, which names the problems that RUN names again
        *overrides,
        f"hydra.run.dir={folder}",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


@pytest.mark.slow
def test_torchrun_stops_on_a_signal_and_continues(tmp_path: Path, runs: Path) -> None:
    process = torchrun(tmp_path / "run", *FSDP)
    deadline = time.time() + 200
    while not (tmp_path / "run" / "metrics.jsonl").exists() and time.time() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=120)[0]
    assert process.returncode != 0
    assert "which is saved: the same command continues" in said
    steps = Checkpoints(tmp_path / "run" / "checkpoints").steps()
    assert len(untimed_rows(tmp_path / "run")) == (steps[-1] if steps else 0) + 1 < 3
    process = torchrun(tmp_path / "run", *FSDP)
    said = process.communicate(timeout=200)[0]
    assert process.returncode == 0, said
    assert said.count("before and after training") == 1
    assert_same_run(tmp_path / "run", runs / "one")


@pytest.mark.slow
def test_an_error_on_one_rank_ends_all(tmp_path: Path) -> None:
    process = torchrun(tmp_path / "run", "parallel=fsdp", "optimizer.mini_batches=99")
    said = process.communicate(timeout=200)[0]
    assert process.returncode != 0
    assert "error: optimizer.mini_batches=99 over trainer.prompts_per_step=4" in said
