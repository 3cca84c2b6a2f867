"""Sweeps by the real command: arms, launchers, tables at the end, and going on after every kind of
end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hydra.types import RunMode
from omegaconf import OmegaConf

from g2rl.analysis.columns import SWEEP
from g2rl.analysis.comparison.sweep import Arm, sweep_frame, sweep_table, write_sweep
from g2rl.cli.config.names import arm_name
from g2rl.cli.sweep.arms import PlannedArm, status_now, varied_settings, written
from g2rl.cli.sweep.callback import SweepStop
from g2rl.cli.sweep.plugins import refuse_missing_plugin
from g2rl.cli.sweep.worker import Home
from g2rl.runs.interrupt import Interrupted, StopRequest, asked, hand_on
from g2rl.runs.lock import alone_in
from tests import commands
from tests.columns import wrongly_described
from tests.support import ROOT, composed, json_lines, untimed_rows

TINY = (
    "tracking=local",
    "report=false",
    "trainer.probe_problems=0",
    "trainer.prompts_per_step=2",
    "trainer.group_size=2",
    "trainer.eval_every=0",
    "benchmark.problems=2",
    "benchmark.samples=2",
    "benchmark.ks=[1,2]",
    "benchmark.max_tokens=12",
    "task.max_response_tokens=40",
    "optimizer.mini_batches=1",
    "trainer.checkpoint_every=1",
)
SPY = """
import json, os, pathlib, time
from hydra.experimental.callback import Callback
class Spy(Callback):
    def on_job_end(self, config, job_return, **kwargs):
        import torch
        keep = {"pid": os.getpid(), "omp": os.environ.get("OMP_NUM_THREADS"),
                "threads": torch.get_num_threads(), "policy": os.environ.get("OMP_WAIT_POLICY")}
        pathlib.Path(config.hydra.runtime.output_dir, "spy.json").write_text(json.dumps(keep))
"""


def start(folder: Path, *arguments: str, **environment: str | None) -> commands.Running:
    """Start a sweep; one whose environment is changed starts Python anew, which then reads it."""
    folder.mkdir(exist_ok=True)
    words = ["-m", "g2rl.cli.train", *TINY, *arguments]
    return commands.start(words, folder, fresh=bool(environment), **environment)


def sweep(folder: Path, *arguments: str, **environment: str | None) -> tuple[int | None, str]:
    process = start(folder, *arguments, **environment)
    output, _ = process.communicate(timeout=240)
    return process.returncode, output


def wait_for(process: commands.Running, text: str) -> None:
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if text in line:
            return
    raise AssertionError("".join(seen))


def results(folder: Path) -> dict[str, Any]:
    """Metrics of every run, without times, and the bytes of its last weights."""
    found: dict[str, Any] = {}
    for place in sorted(folder.glob("runs/*/*/metrics.jsonl")):
        last = sorted((place.parent / "checkpoints").iterdir())[-1]
        found[place.parent.name] = (
            untimed_rows(place.parent),
            (last / "model.safetensors").read_bytes(),
        )
    return found


# --- configuration


@pytest.mark.parametrize(
    ("experiment", "swept", "values", "seeds"),
    [
        ("lambda_ablation", "exploration.lam", "0,0.1,0.3,1,3,10", "0,1,2"),
        ("signals", "exploration", "none,entropy,evol,g2rl", "0,1,2,3,4"),
    ],
)
def test_a_study_is_a_sweep_by_itself(experiment: str, swept: str, values: str, seeds: str) -> None:
    config = composed(f"experiment={experiment}", with_hydra=True)
    assert config.hydra.mode == RunMode.MULTIRUN
    assert dict(config.hydra.sweeper.params) == {swept: values, "seed": seeds}
    assert config.hydra.sweep.dir == f"runs/{experiment}"
    observed = config.exploration.observe
    assert observed == (
        ["g2rl"] if experiment == "signals" else []
    )  # there the signal is g2rl itself


def test_an_arm_is_named_after_what_the_study_sweeps() -> None:
    swept, excluded = {"exploration.lam": "0,1", "seed": "0,1"}, ["seed", "experiment"]
    lam = ["exploration.lam=0.3", "seed=1", "experiment=x"]
    assert arm_name(lam, swept, excluded) == "lam=0.3"
    assert (
        arm_name([*lam, "trainer.steps=9", "hydra.mode=RUN"], swept, excluded)
        == "lam=0.3-trainer.steps=9"
    )
    long = arm_name([*lam, f"a={'b' * 99}"], swept, excluded)
    assert re.fullmatch(r"lam=0\.3-[0-9a-f]{8}", long)
    named = arm_name([*lam, "optimizer.lr=0.1", f"a={'b' * 99}"], swept, excluded)
    assert re.fullmatch(r"lam=0\.3-lr=0\.1-[0-9a-f]{8}", named), "what fits is named"
    assert arm_name([*lam, f"a={'c' * 99}"], swept, excluded) != long
    assert arm_name(["seed=1"], None, excluded) == "default"


def test_what_a_sweep_varies_is_told_from_what_is_fixed() -> None:
    jobs = [["a=1", "seed=0", "b=x"], ["a=2", "seed=0", "b=x"], ["a=1", "seed=1", "b=x"]]
    assert varied_settings(jobs) == [{"a": "1"}, {"a": "2"}, {"a": "1"}]


def test_a_missing_plugin_is_named_with_the_command_that_installs_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    refuse_missing_plugin("basic", "hydra._internal.core_plugins.basic_launcher.BasicLauncher")
    with pytest.raises(SystemExit, match="1"):
        refuse_missing_plugin("joblib", "hydra_plugins.not_there.Launcher")
    assert "'g2rl[sweep]'" in capsys.readouterr().err


# --- tables, by hand


def hand_made(folder: Path) -> list[Arm]:
    """lam=0 with 0.1, 0.2, 0.3 after 0.05 each; of lam=1 one run failed and one is missing."""
    for seed, value in enumerate((0.1, 0.2, 0.3)):
        run = folder / f"lam=0-seed{seed}"
        run.mkdir(parents=True)
        before, after = (
            {"step": 0, "eval/c/pass@1": 0.05},
            {"step": 2, "eval/c/pass@1": value, "train/x": 1.0},
        )
        (run / "summary.json").write_text(json.dumps({"before": before, "after": after}))
    (folder / "lam=1-seed0").mkdir()
    (folder / "lam=1-seed0" / "error.txt").write_text("Traceback ...\nValueError: no room\n")
    arms = [Arm("lam=0", s, {"lam": "0"}, folder / f"lam=0-seed{s}", "finished") for s in range(3)]
    arms.append(Arm("lam=1", 0, {"lam": "1"}, folder / "lam=1-seed0", "failed"))
    return [*arms, Arm("lam=1", 1, {"lam": "1"}, folder / "lam=1-seed1", "missing")]


def test_the_table_has_mean_and_t_interval_and_names_what_is_not_finished(tmp_path: Path) -> None:
    table = sweep_table(sweep_frame(hand_made(tmp_path))).splitlines()
    assert table[0] == "| arm | finished | c/pass@1 |"
    assert table[2] == "| *before training* | - | 0.050 |"
    # mean 0.2, s = 0.1, t(0.975; 2) = 4.303: 0.2 +- 4.303 * 0.1 / sqrt(3) = 0.2 +- 0.248, and no
    # share is below 0
    assert table[3] == "| lam=0 | 3 of 3 | 0.200 [0.000, 0.448] |"
    assert table[4] == "| lam=1 | 0 of 2 | - |"
    assert table[6] == f"- failed: {tmp_path / 'lam=1-seed0'}: ValueError: no room"
    assert table[7] == f"- missing: {tmp_path / 'lam=1-seed1'}"


def test_a_sweep_without_a_finished_run_has_a_table_too(tmp_path: Path) -> None:
    lines = sweep_table(sweep_frame(hand_made(tmp_path)[3:])).splitlines()
    assert lines[:3] == ["| arm | finished |", "|---|---|", "| lam=1 | 0 of 2 |"]


def test_the_parquet_is_long_and_holds_every_arm(tmp_path: Path) -> None:
    write_sweep(hand_made(tmp_path / "runs"), tmp_path)
    frame = pd.read_parquet(tmp_path / "sweep.parquet")
    assert list(frame) == ["arm", "lam", "seed", "status", "folder", "metric", "before", "after"]
    assert frame["lam"].tolist() == [0, 0, 0, 0, 0, 0, 1, 1]
    chosen = frame[frame["metric"] == "eval/c/pass@1"]
    assert chosen["after"].tolist() == [0.1, 0.2, 0.3]
    assert chosen["before"].tolist() == [0.05] * 3
    assert frame[frame["metric"] == "train/x"]["before"].isna().all()
    assert frame[frame["status"] != "finished"]["metric"].isna().all()


# --- stop requests


def test_the_tables_of_an_earlier_sweep_are_kept_unless_the_new_one_holds_its_runs(
    tmp_path: Path,
) -> None:
    arms = hand_made(tmp_path)
    write_sweep(arms[:2], tmp_path)
    write_sweep(arms, tmp_path)
    assert not list(tmp_path.glob("*-1.*")), "the same runs and more"
    whole = (tmp_path / "table.md").read_bytes()
    write_sweep(arms[:1], tmp_path)
    assert (tmp_path / "table-1.md").read_bytes() == whole
    assert len(set(pd.read_parquet(tmp_path / "sweep-1.parquet")["folder"])) == len(arms)
    assert len(set(pd.read_parquet(tmp_path / "sweep.parquet")["folder"])) == 1


def test_a_request_inside_another_passes_on_what_either_is_asked() -> None:
    with StopRequest() as outer:
        with StopRequest() as inner:
            os.kill(os.getpid(), signal.SIGUSR1)
            assert inner() == outer() == asked() == signal.SIGUSR1
        with StopRequest() as following:
            assert following() == signal.SIGUSR1
    assert asked() is None


def test_sweeps_in_one_folder_are_stopped_each_by_itself(tmp_path: Path) -> None:
    """Sweeps that are typed ad hoc all lie in runs/."""
    mine, other = (Home(pid, "here", "joblib", tmp_path) for pid in (1, 2))
    other.stop_file.touch()
    with SweepStop(mine.stop_file):
        os.kill(os.getpid(), signal.SIGUSR1)
        assert mine.stop_file.exists()
    other.stop_file.unlink()
    assert mine.stop_file.exists()
    SweepStop(mine.stop_file)  # the next process of that number
    assert not mine.stop_file.exists()


def test_a_result_from_before_is_none_of_a_sweep_that_starts_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = tmp_path / "summary.json"
    summary.touch()
    arm = PlannedArm("all", {}, tmp_path, OmegaConf.create())
    monkeypatch.setattr("g2rl.cli.sweep.arms.status", lambda arm: "finished")
    stale = {tmp_path: written(arm)}
    assert (status_now(arm, {}), status_now(arm, stale)) == ("finished", "missing")
    os.utime(summary, ns=(0, stale[tmp_path] + 1))
    assert status_now(arm, stale) == "finished"


def test_a_library_that_had_a_handler_gets_the_signal_when_all_is_saved() -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, frame: seen.append(number))
    try:
        with StopRequest(), StopRequest() as inner:
            os.kill(os.getpid(), signal.SIGUSR2)
            assert (inner(), seen) == (signal.SIGUSR2, [])
            hand_on(Interrupted(1, signal.SIGUSR2).number)
            assert seen == [signal.SIGUSR2]
            hand_on(signal.SIGINT)  # Python's own handler is not called
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_two_processes_never_write_one_run(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from g2rl.runs.lock import alone_in\n"
        f"with alone_in(Path({str(tmp_path)!r})): print('held', flush=True); sys.stdin.read()"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(ValueError, match="another process is at work"), alone_in(tmp_path):
            pass
        holder.kill()
        holder.wait()
        with alone_in(tmp_path):  # freed with the process
            pass


# --- the real command

STUDY = ("experiment=lambda_ablation", "exploration.lam=0,1", "seed=0", "trainer.steps=1")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two arms that ran in one go."""
    folder = tmp_path_factory.mktemp("study")
    code, output = sweep(folder, *STUDY, "hydra.sweep.dir=runs/x")
    assert code == 0, output
    assert "sweep of 2 runs" in output
    assert re.search(r"(?m)^ exploration\.lam=1 +1 of 1 +0\.\d{3} ", output)
    assert "|" not in output, "a table for the terminal; that of Markdown is in table.md"
    return folder


def test_a_study_writes_its_tables_beside_its_arms(study: Path) -> None:
    place = study / "runs" / "x"
    folders = sorted(path.name for path in place.iterdir() if path.is_dir())
    assert [re.sub("-[0-9a-f]{8}-", "-", name) for name in folders] == [
        "lam=0-mini_batches=1-group_size=2-seed0",
        "lam=1-mini_batches=1-group_size=2-seed0",
    ]
    frame = pd.read_parquet(place / "sweep.parquet")
    assert frame["status"].unique().tolist() == ["finished"]
    assert wrongly_described(place, SWEEP) == []
    for name in folders:
        after = json.loads((place / name / "summary.json").read_text())["after"]
        part = frame[frame["folder"] == str(place / name)].set_index("metric")["after"]
        assert part.to_dict() == {key: value for key, value in after.items() if key != "step"}
    assert "| exploration.lam=0 | 1 of 1 |" in (place / "table.md").read_text()


LIGHT = "hydra omegaconf antlr4 yaml numpy pandas pyarrow dateutil pytz rich pygments markdown_it"
"""Libraries that load no torch, which may stay loaded where nothing may load it."""
WITHOUT_TORCH = """
import sys

# the commands of the tests have imported all of it before
light = {light!r}.split()
for name in list(sys.modules):
    root = name.partition(".")[0]
    if root not in (*light, "__main__", *sys.stdlib_module_names):
        del sys.modules[name]
from g2rl.cli.train import main
main()
"""


def test_a_finished_study_runs_again_without_loading_torch(study: Path, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise RuntimeError('torch was imported')")
    before = results(study)
    path = os.pathsep.join((str(tmp_path), str(ROOT)))
    words = ["-c", WITHOUT_TORCH.format(light=LIGHT), *TINY, *STUDY, "hydra.sweep.dir=runs/x"]
    done = commands.run(words, study, PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("finished already: ") == 2
    assert "2 finished already, 0 to do" in done.stdout
    assert results(study) == before


def test_what_is_not_whole_is_not_finished(study: Path) -> None:
    """Its last checkpoint is cut: the arm runs again from the weights before and ends the same."""
    before = results(study)
    [weights] = study.glob("runs/x/lam=1-*/checkpoints/step_000001/model.safetensors")
    weights.parent.rename(weights.parent.parent / "elsewhere")
    code, output = sweep(study, *STUDY, "hydra.sweep.dir=runs/x")
    assert code == 0, output
    assert output.count("finished already: ") == 1
    for left in study.glob("runs/x/lam=1-*/checkpoints/elsewhere/*"):
        left.unlink()
    for left in study.glob("runs/x/lam=1-*/checkpoints/elsewhere"):
        left.rmdir()
    assert results(study) == before


def test_a_failed_arm_is_listed_and_the_others_run(tmp_path: Path) -> None:
    arguments = ("experiment=signals", "exploration=evol,none", "seed=0", "trainer.steps=1")
    broken = "encoder._target_=g2rl.exploration.encoders.ngram.NoSuchThing"
    code, output = sweep(tmp_path, *arguments, broken, "exploration.observe=[]")
    assert code == 1, output
    assert re.search(r"(?m)^ exploration=evol +0 of 1 +-", output)
    assert re.search(r"(?m)^ exploration=none +1 of 1 +0\.", output)
    assert re.search(r"- failed: .*exploration=evol-.*seed0: ", output)
    assert "not finished: 1 failed" in output
    frame = pd.read_parquet(tmp_path / "runs" / "signals" / "sweep.parquet")
    assert set(frame["status"]) == {"finished", "failed"}


def test_two_arms_in_one_folder_are_refused(tmp_path: Path) -> None:
    code, output = sweep(tmp_path, "trainer.keep_checkpoints=1,2", "--multirun")
    assert code == 1
    assert "two runs of this sweep would write in" in output


def test_the_arms_of_a_sweep_of_ones_own_lie_in_its_folder(tmp_path: Path) -> None:
    """Told without a training, by a sweep whose arms are one and the same."""
    code, output = sweep(tmp_path, "exploration.lam=1,1", "--multirun")
    assert code == 1
    [place] = re.findall(r"two runs of this sweep would write in (\S+):", output)
    assert Path(place).parent.name.startswith("sweep-lam=1_1-"), "that of the sweep, not of an arm"


LONG = ("experiment=lambda_ablation", "exploration.lam=0,1", "seed=0", "trainer.steps=6")
"""Tests signal after the first of the steps: on a loaded machine the others take less than a signal
does if they are few."""


@pytest.fixture(scope="module")
def joblib() -> None:
    """Skips a test before it has a study made that it would compare with."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Results of a longer study that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    assert sweep(folder, *LONG)[0] == 0
    return results(folder)


LEARNING = ("experiment=lambda_ablation", "exploration.lam=0,1", "seed=3", "trainer.steps=3")
"""Every step of it has a gradient."""
STRUCK = """
import os, sys
from g2rl.cli.train import main

class Struck:
    def write(self, text):
        written = screen.write(text)
        if "step 1/3" in text:
            os.kill(os.getpid(), {number})
        return written

    def __getattr__(self, name):
        return getattr(screen, name)

screen, sys.stdout = sys.stdout, Struck()
main()
"""
"""g2rl-train that sends itself a signal when it has told of the first of three steps."""


def struck(folder: Path, number: signal.Signals) -> tuple[int | None, str]:
    """Exit code and output of a sweep that a signal hits after the first step that it makes."""
    words = ["-c", STRUCK.format(number=int(number)), *TINY, *LEARNING]
    process = commands.start(words, folder)
    output, _ = process.communicate(timeout=240)
    return process.returncode, output


def test_a_stopped_and_a_killed_sweep_end_like_an_undisturbed_one(tmp_path: Path) -> None:
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    disturbed.mkdir()
    code, output = struck(disturbed, signal.SIGTERM)
    assert code == 75, output
    assert "not finished: 1 interrupted, 1 missing" in output

    # the second arm: the first has made this step before
    code, output = struck(disturbed, signal.SIGKILL)
    assert code == -signal.SIGKILL, output
    assert "continuing after step" in output
    [killed] = disturbed.glob("runs/*/lam=1-*")
    assert not (killed / "summary.json").exists()

    for folder in (disturbed, undisturbed):
        code, output = sweep(folder, *LEARNING)
        assert code == 0, output
    assert results(disturbed) == results(undisturbed)


def test_joblib_runs_two_arms_at_once_each_with_its_share_of_the_cores(
    joblib: None, tmp_path: Path, whole: dict[str, Any]
) -> None:
    (tmp_path / "spy.py").write_text(SPY)
    path = os.pathsep.join((str(tmp_path), str(ROOT)))
    code, output = sweep(
        tmp_path,
        *LONG,
        "hydra/launcher=joblib",
        "+hydra.callbacks.spy._target_=spy.Spy",
        PYTHONPATH=path,
        OMP_NUM_THREADS=None,
        OMP_WAIT_POLICY=None,
    )
    assert code == 0, output
    first, second = sorted((tmp_path / "runs" / "lambda_ablation").glob("lam=*"))
    begun = [(run / "config.yaml").stat().st_mtime for run in (first, second)]
    ended = [(run / "summary.json").stat().st_mtime for run in (first, second)]
    assert max(begun) < min(ended)
    spies = [json.loads((run / "spy.json").read_text()) for run in (first, second)]
    assert spies[0]["pid"] != spies[1]["pid"]
    share = max(len(os.sched_getaffinity(0)) // 2, 1)
    for spy in spies:
        assert spy["omp"] == str(share)
        assert spy["threads"] == share
        assert spy["policy"] == "PASSIVE"
    if share == 1:  # more threads sum in another order
        assert results(tmp_path) == whole


def marked(text: str) -> list[int]:
    """Processes that have the text in their environment (Linux)."""
    found = []
    for place in Path("/proc").glob("[0-9]*/environ"):
        try:
            if text in place.read_text(errors="ignore"):
                found.append(int(place.parent.name))
        except OSError:  # ended, or another user's
            continue
    return found


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks at /proc")
@pytest.mark.parametrize(
    "how", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)]
)
def test_workers_stop_with_their_sweep_and_lose_nothing(
    joblib: None, tmp_path: Path, whole: dict[str, Any], how: signal.Signals
) -> None:
    process = start(tmp_path, *LONG, "hydra/launcher=joblib", G2RL_TEST_MARK=str(tmp_path))
    wait_for(process, "step 1/6")
    process.send_signal(how)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == (75 if how == signal.SIGTERM else -how), output
    deadline = time.monotonic() + 60
    while marked(f"G2RL_TEST_MARK={tmp_path}"):
        assert time.monotonic() < deadline, "workers go on without their sweep"
        time.sleep(0.5)
    begun = json_lines(next(tmp_path.glob("runs/*/lam=*/metrics.jsonl")))
    assert len(begun) < 7, "it ended before the signal came"
    code, output = sweep(tmp_path, *LONG)
    assert code == 0, output
    assert results(tmp_path) == whole


@pytest.mark.slow
def test_submitit_runs_arms_in_turn_and_puts_a_preempted_one_back(
    tmp_path: Path, whole: dict[str, Any]
) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    mark = f"G2RL_TEST_MARK={tmp_path}"
    process = start(
        tmp_path,
        *LONG,
        "hydra/launcher=submitit_local",
        "hydra.callbacks.sweep.local_arms=1",
        G2RL_TEST_MARK=str(tmp_path),
    )
    place = tmp_path / "runs" / "lambda_ablation"
    deadline = time.monotonic() + 120
    while not list(place.glob("lam=*/checkpoints/step_000001")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    [run] = [
        path.parent for path in place.glob("lam=*/metrics.jsonl")
    ]  # the other waits for its turn
    marks = [(pid, Path(f"/proc/{pid}/cmdline").read_text()) for pid in marked(mark)]
    jobs = [pid for pid, command in marks if "submitit.core._submit" in command]
    assert len(jobs) == 2
    for job in jobs:  # the one that works and the one that waits
        os.kill(job, signal.SIGUSR2)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    logs = "".join(path.read_text() for path in place.glob(".submitit/*/*_log.*"))
    assert "stopped by SIGUSR2 after step" in logs
    assert "Requeued job" in logs
    assert "continuing after step" in logs
    assert run.is_dir()
    assert results(tmp_path) == whole
