"""The steps of the first half hour, on a CPU and a small scale: what reaches a GPU has run once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.gpu import first_minutes as minutes
from tests.gpu.conftest import Findings
from tests.support import metric_rows

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def shape_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Two steps of a small model of Qwen3's layout in mixed precision, and what was printed."""
    folder = tmp_path_factory.mktemp("shape") / "run"
    return folder, minutes.trained(folder, CPU, *minutes.shaped(minutes.SMALL, 2, 4, 24))


def test_versions_name_what_is_installed() -> None:
    found = minutes.versions(CPU)
    assert found["torch"] == torch.__version__
    assert "cuda" not in found


def test_a_shaped_run_says_its_plan_and_its_peaks(shape_run: tuple[Path, str]) -> None:
    folder, printed = shape_run
    planned = minutes.planned_gib(printed)
    assert set(planned) == {"always", "sampling", "scoring", "update", "optimizer step"}
    assert minutes.measured_gib(folder)["update"] > 0
    rows = metric_rows(folder)[1:]
    assert all(row["train/truncated"] > 0 for row in rows)  # random weights hardly ever stop


def test_a_sharded_twin_has_the_metrics_of_the_plain_run(
    shape_run: tuple[Path, str], tmp_path: Path
) -> None:
    words = [*minutes.shaped(minutes.SMALL, 2, 4, 24, steps=1), "parallel=fsdp"]
    minutes.trained(tmp_path / "sharded", CPU, *words)
    names = ("train/accuracy", "train/length", "train/entropy")
    gaps = minutes.largest_gap(tmp_path / "sharded", shape_run[0], names, step=1)
    assert set(gaps) == set(names)
    assert gaps["train/entropy"] < 0.05


def test_a_stopped_run_goes_on(tmp_path: Path) -> None:
    rows = minutes.stopped_and_continued(tmp_path / "stopped", CPU, *minutes.TINY)
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4, 5]


def test_rounded_logits_are_told_from_our_head() -> None:
    rng = torch.Generator().manual_seed(0)
    hidden = torch.randn(32, 256, generator=rng)
    weight = 0.1 * torch.randn(500, 256, generator=rng)
    spread = minutes.logit_spread(hidden, weight)
    assert spread["our head"] < 1e-4 < spread["rounded logits"]


def test_ratios_are_measured() -> None:
    found = minutes.head_ratio(CPU, tokens=64, width=32, vocabulary=5000)
    assert found["whole logits"] > 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_wheel_trains(tmp_path: Path) -> None:
    found = minutes.wheel_trains(tmp_path, CPU)
    assert str(tmp_path / "site") in found


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_step_is_compared_with_trl(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    found = minutes.trl_ratio(tmp_path, CPU, steps=2)
    assert set(found) == {"CPU time", "clock"}


def test_the_page_holds_what_was_found_and_is_not_written_for_nothing(tmp_path: Path) -> None:
    page, findings = tmp_path / "GPU.md", Findings()
    findings.write(page)
    assert not page.exists()
    findings.add("6 spread", "below 1e-4", "3e-5")
    findings.text("more")
    findings.write(page)
    text = page.read_text(encoding="utf-8")
    assert "| 6 spread | below 1e-4 | 3e-5 |" in text
    assert text.endswith("more")
