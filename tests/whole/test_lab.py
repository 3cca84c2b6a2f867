"""The lab: shipped policies behave as experiments/lab/README.md says, and a task decides something.

Figures of few samples are compared with those of the page within five standard errors or more.
"""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import numpy as np
import pytest

from g2rl.cli.jobs.train import train
from g2rl.engines.transformers import TransformersEngine
from g2rl.evaluation.evaluate import EvalResult, evaluate
from g2rl.policy.loading import load
from g2rl.policy.policy import Policy
from g2rl.tasks.benchmarks.benchmark import Benchmark
from g2rl.tasks.benchmarks.countdown_hard import countdown_hard_benchmark
from g2rl.tasks.benchmarks.detour import detour_benchmark
from g2rl.tasks.benchmarks.forked_skills import forked_skills_benchmark
from g2rl.tasks.grading.grader import Grader
from tests.support import ROOT, composed, metric_rows

LAB = ROOT / "experiments" / "lab"


def evaluated(source: str, benchmark: Benchmark) -> EvalResult:
    """A shipped policy on a benchmark."""
    loaded = load(source, device="cpu")
    engine = TransformersEngine(Policy(loaded.model), loaded.tokenizer, loaded.stop_ids)
    engine.push_weights()
    grader = Grader(benchmark.verifier)
    return evaluate(benchmark, engine, grader, loaded.tokenizer, chat=True, seed=3)


def test_the_base_of_detour_covers_nearly_all_grids_by_several_paths() -> None:
    found = evaluated("builtin:detour", detour_benchmark(problems=60, samples=16))
    assert found.metrics["pass@1"] == pytest.approx(0.316, abs=0.08)
    assert found.metrics["pass@16"] > 0.93
    assert found.metrics["distinct"] > 1.3
    assert found.metrics["truncated"] < 0.01
    answers = {verdict.route for verdicts in found.verdicts for verdict in verdicts}
    assert answers <= {"path", "unparsed"}


def test_the_base_of_forked_skills_hardly_ever_solves_hard_families() -> None:
    easy = evaluated(
        "builtin:forked_skills", forked_skills_benchmark(subset="easy", limit=48, samples=16)
    )
    assert easy.metrics["pass@1"] == pytest.approx(0.36, abs=0.1)
    hard = evaluated("builtin:forked_skills", forked_skills_benchmark(subset="hard", samples=32))
    # 64 problems x 32 samples at 0.2 %: 4.1 right ones are expected
    assert 0 <= hard.per_problem["pass@1"].sum() * 32 <= 15


def test_the_base_of_countdown_hard_hardly_ever_solves_its_problems() -> None:
    found = evaluated("builtin:tiny", countdown_hard_benchmark(limit=24, samples=16))
    assert 0.003 < found.metrics["pass@1"] < 0.08
    assert 0.08 < found.metrics["pass@16"] < 0.8


@pytest.mark.slow
def test_plain_grpo_gains_accuracy_and_loses_coverage_on_detour(tmp_path: Path) -> None:
    """40 steps of the protocol: half of what 120 steps do, see experiments/lab/README.md."""
    folder = tmp_path / "run"
    folder.mkdir()
    settings = ["trainer.steps=40", "trainer.eval_every=0", "trainer.probe_problems=4"]
    config = composed(
        "experiment=detour", "exploration=none", "tracking=local", "seed=5", *settings
    )
    train(config, folder)
    before, *_, after = metric_rows(folder)
    assert after["eval/detour/pass@1"] > before["eval/detour/pass@1"] + 0.25
    assert after["eval/detour/pass@32"] < before["eval/detour/pass@32"] - 0.02
    assert after["eval/detour/distinct"] < before["eval/detour/distinct"] - 1
    assert np.isfinite(list(after.values())).all()


def test_the_tables_of_the_pretrained_model_follow_from_the_stored_rows(
    capsys: pytest.CaptureFixture[str],
) -> None:
    runpy.run_path(str(LAB / "tables.py"), run_name="__main__")
    printed = capsys.readouterr().out.splitlines()
    page = (LAB / "README.md").read_text(encoding="utf-8")

    # every line of both tables stands on the page
    rows = [line for line in printed if line.startswith("| ")]
    assert len(rows) == 2 * 5
    for row in rows:
        assert row in page.splitlines()

    # and so do the figures of what was measured before, and of what could have been found
    numbers = re.findall(r"\d\.\d+", " ".join(line for line in printed if line[:1] in "BD"))
    assert len(numbers) > 10
    words = re.findall(r"\d\.\d+", page)
    assert not [number for number in numbers if number not in words]
