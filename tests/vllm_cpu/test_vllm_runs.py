"""The real commands and launcher with vLLM on a CPU; every process must end by itself with status
0."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT, metric_rows
from tests.vllm_cpu import ranks

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]
BIN = Path(sys.executable).parent


def run(*command: str) -> str:
    """Standard output and errors of a command that must succeed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=600, env=environment, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert (
        "destroy_process_group() was not called" not in done.stderr
    )  # torch's word for an unclean end
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    run(
        str(BIN / "g2rl-train"),
        "engine=vllm_cpu",
        "experiment=smoke",
        "tracking=local",
        "trainer.steps=4",
        "engine.drift_every=1",
        f"hydra.run.dir={folder}",
    )
    return folder


def test_four_training_steps(trained: Path) -> None:
    rows = metric_rows(trained)
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4]
    for row in rows[1:]:
        for name in ("train/reward", "explore/reward_shift", "update/loss", "update/grad_norm"):
            assert math.isfinite(row[name]), (name, row[name])
    assert any(row["update/grad_norm"] > 0 for row in rows[1:])
    pushed = (trained / "g2rl-train.log").read_text().count("weight push")
    assert pushed == 5  # at the start and after each of four updates, each checked


def test_the_trained_model_is_evaluated(trained: Path, tmp_path: Path) -> None:
    """`g2rl-eval` pushes and closes as well; its samples are those of the exported weights."""
    said = run(
        str(BIN / "g2rl-eval"),
        f"run={trained}",
        "engine=vllm_cpu",
        "benchmark.problems=8",
        "benchmark.samples=4",
        "benchmark.ks=[1,4]",
        f"hydra.run.dir={tmp_path / 'eval'}",
    )
    assert "pass@1" in said
    assert (tmp_path / "eval" / "samples.parquet").is_file()


@pytest.fixture(scope="module")
def alone() -> list[list[list[object]]]:
    return ranks.sample()


@pytest.mark.parametrize("tensor_parallel", [1, 2])
def test_two_ranks_sample_what_one_does(
    alone: list[list[list[object]]], tmp_path: Path, tensor_parallel: int
) -> None:
    """One engine a rank, or one for both: the same tokens for the same keys, and close
    log-probs."""
    run(
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "tests.vllm_cpu.ranks",
        str(tmp_path),
        str(tensor_parallel),
    )
    drawn = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    for step, groups in enumerate(alone):
        for p, group in enumerate(groups):
            theirs = drawn[p % 2][step][p // 2]
            assert [c[0] for c in theirs] == [c[0] for c in group]  # type: ignore[index]
            for mine, other in zip(group, theirs, strict=True):
                assert other[1] == pytest.approx(mine[1], abs=1e-4)  # type: ignore[index]
