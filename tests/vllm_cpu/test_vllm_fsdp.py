"""parallel=fsdp with engine=vllm: sharded weights arrive in the engine of every rank."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support import small_drift, untimed_rows
from tests.vllm_cpu.test_vllm_runs import BIN, run

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]
WORDS = (
    "-m",
    "g2rl.cli.train",
    "engine=vllm_cpu",
    "experiment=smoke",
    "tracking=local",
    "engine.drift_every=1",
)


def test_two_sharded_ranks_give_the_run_of_one_process(tmp_path: Path) -> None:
    run(sys.executable, *WORDS, f"hydra.run.dir={tmp_path / 'one'}")
    said = run(
        str(BIN / "torchrun"),
        "--standalone",
        "--nproc-per-node",
        "2",
        *WORDS,
        "parallel=fsdp",
        f"hydra.run.dir={tmp_path / 'two'}",
    )
    assert "of 2 processes, sharded" in said
    for ours, theirs in zip(
        untimed_rows(tmp_path / "two"), untimed_rows(tmp_path / "one"), strict=True
    ):
        ratio = ours.pop(
            "update/first_ratio", 1.0
        )  # in one process scoring's forward is the update's
        assert ratio == pytest.approx(1.0, abs=1e-4)
        assert ours.keys() == theirs.keys()

        # two ranks compare other tokens with scoring
        assert small_drift(ours)
        assert small_drift(theirs)
        for name, value in theirs.items():
            if not name.startswith("sample/drift"):
                assert ours[name] == pytest.approx(value, abs=1e-4), name
