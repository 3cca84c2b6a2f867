"""The first half hour on one GPU of 80 GB, in order, each step with its expectation.

What was found is written to speed/GPU.md at the end of the session; where there is no GPU nothing
is written. tests/gpu/test_cpu_twins.py runs the same functions on a CPU.
"""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import pytest
import torch

from tests.gpu import first_minutes as minutes
from tests.gpu.conftest import Findings
from tests.support import metric_rows

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(1800)]
CURVES = ("train/accuracy", "train/length", "train/entropy", "update/kl")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("first_minutes")


@pytest.fixture(scope="session")
def vllm_run(gpu: torch.device, folder: Path) -> Path:
    """Two steps of the shape of Qwen3-1.7B, sampled by vLLM, which sleeps and wakes between."""
    needs_vllm()
    words = minutes.shaped(minutes.QWEN3_1_7B, 4, 8, 1024)
    minutes.trained(folder / "shape", gpu, *words, "engine=vllm", "engine.max_model_len=1280")
    return folder / "shape"


def needs_vllm() -> None:
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vllm is not installed: pip install 'g2rl[vllm]'")


def test_versions(gpu: torch.device, findings: Findings) -> None:
    found = minutes.versions(gpu)
    findings.add("1 versions", "printed", ", ".join(f"{k} {v}" for k, v in found.items()))


def test_the_wheel(gpu: torch.device, findings: Findings, folder: Path) -> None:
    """An installation trains as the checkout does, in an environment that was there before."""
    (folder / "wheel").mkdir()
    found = minutes.wheel_trains(folder / "wheel", gpu)
    findings.add("1 wheel beside what is installed", "trains five steps", found.split()[0])


def test_tiny_run(gpu: torch.device, findings: Findings, folder: Path) -> None:
    """The first step draws with the same weights and random numbers as the CPU; rounding parts
    them later."""
    minutes.trained(folder / "tiny", gpu, *minutes.TINY)
    minutes.trained(folder / "tiny_cpu", torch.device("cpu"), *minutes.TINY)
    gaps = minutes.largest_gap(folder / "tiny", folder / "tiny_cpu", CURVES, step=1)
    findings.add("3 tiny run, step 1 against the CPU", "entropy within 0.05 nats", str(gaps))
    assert gaps["train/entropy"] < 0.05
    assert all(math.isfinite(row["update/loss"]) for row in metric_rows(folder / "tiny")[1:])


def test_tiny_run_with_vllm(gpu: torch.device, findings: Findings, folder: Path) -> None:
    needs_vllm()
    words = ("engine=vllm", "engine.drift_every=1", "engine.gpu_memory_utilization=0.2")
    minutes.trained(folder / "tiny_vllm", gpu, *minutes.TINY, *words)
    drift = max(row["sample/drift_largest"] for row in metric_rows(folder / "tiny_vllm")[1:])
    findings.add("4 tiny run with vLLM", "drift below 1e-3 nats", f"{drift:.3g}")
    assert drift < 1e-3


def test_sleep_and_wake(gpu: torch.device, findings: Findings, vllm_run: Path) -> None:
    rows = metric_rows(vllm_run)[1:]
    ratios = [row["update/first_ratio"] for row in rows if "update/first_ratio" in row]
    table = (vllm_run / "profile" / "stages.md").read_text(encoding="utf-8")
    findings.add("5 shape of Qwen3-1.7B, vLLM", "first ratio within 1e-2 of 1", str(ratios))
    findings.text(table)
    assert ratios
    assert all(abs(ratio - 1) < 1e-2 for ratio in ratios)


def test_logit_spread(gpu: torch.device, findings: Findings) -> None:
    rng = torch.Generator().manual_seed(0)
    hidden = torch.randn(256, 1024, generator=rng).to(gpu)
    weight = 0.05 * torch.randn(32_768, 1024, generator=rng).to(gpu)
    spread = minutes.logit_spread(hidden, weight)
    findings.add("6 log-prob spread, nats", "our head below 1e-4", str(spread))
    assert spread["our head"] < 1e-4 < spread["rounded logits"]


def test_sharded(gpu: torch.device, findings: Findings, folder: Path) -> None:
    """One process of FSDP2 against none, both sampling with transformers."""
    words = minutes.shaped(minutes.QWEN3_1_7B, 2, 4, 128, steps=1)
    minutes.trained(folder / "plain", gpu, *words)
    minutes.trained(folder / "sharded", gpu, *words, "parallel=fsdp")
    gaps = minutes.largest_gap(folder / "sharded", folder / "plain", CURVES, step=1)
    findings.add("7 parallel=fsdp, step 1", "entropy within 0.05 nats", str(gaps))
    assert gaps["train/entropy"] < 0.05


def test_long_responses(gpu: torch.device, findings: Findings, folder: Path) -> None:
    needs_vllm()
    words = minutes.shaped(minutes.QWEN3_1_7B, 1, 2, 8192)
    printed = minutes.trained(
        folder / "long", gpu, *words, "engine=vllm", "engine.max_model_len=9216"
    )
    planned, measured = minutes.planned_gib(printed), minutes.measured_gib(folder / "long")
    findings.add(
        "8 peak of an update of 8,192 tokens, GiB",
        "at most 1.1 times the plan",
        f"{measured['update']:.1f} measured, {planned['update']:.1f} planned",
    )
    assert measured["update"] < 1.1 * planned["update"]


def test_a_stop_signal(gpu: torch.device, findings: Findings, folder: Path) -> None:
    rows = minutes.stopped_and_continued(folder / "stopped", gpu, *minutes.TINY)
    kls = [row["update/kl"] for row in rows[1:]]
    findings.add("9 SIGTERM and on", "code 75; KL goes on from where it was", str(kls))
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4, 5]
    assert max(kls) < 10 * max(max(kls[:2]), 1e-4)


def test_geometry(gpu: torch.device, findings: Findings, folder: Path) -> None:
    """Sampled and scored at one temperature, untruncated: summed features have mean zero."""
    if not (folder / "tiny").is_dir():
        minutes.trained(folder / "tiny", gpu, *minutes.TINY)
    first = metric_rows(folder / "tiny")[0]
    found = {name: first[f"probe/{name}"] for name in ("identity_ratio", "cosine")}
    findings.add("10 identity ratio and cosine", "within 0.2 of 0", str(found))
    assert abs(found["identity_ratio"]) < 0.2


def test_ratios(gpu: torch.device, findings: Findings, folder: Path) -> None:
    """Ratios are findings, not tests."""
    found = dict(minutes.head_ratio(gpu, 2048, 1024, 151_936))
    seconds = {}
    for signal in ("g2rl", "none"):
        words = [*minutes.TINY, f"exploration={signal}", "trainer.group_size=16"]
        minutes.trained(folder / f"ratio_{signal}", gpu, *words)
        steps = [row["time/step"] for row in metric_rows(folder / f"ratio_{signal}")[2:]]
        seconds[signal] = sorted(steps)[len(steps) // 2]
    found["step of g2rl to none"] = seconds["g2rl"] / seconds["none"]
    findings.add("11 ratios of times", "reported", str(found))
    assert all(ratio > 0 for ratio in found.values())


def test_ratio_to_trl(gpu: torch.device, findings: Findings, folder: Path) -> None:
    """A finding, not a test; speed/RESULTS.md has the same ratio of a CPU."""
    if importlib.util.find_spec("trl") is None:
        pytest.skip("trl is not installed: pip install 'g2rl[trl]'")
    found = minutes.trl_ratio(folder, gpu)
    findings.add("11 whole step to TRL's, tiny policy, own lengths", "reported", str(found))
    assert all(ratio > 0 for ratio in found.values())
