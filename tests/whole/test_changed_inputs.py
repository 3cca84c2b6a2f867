"""A run is continued only with what it was begun with: weights, tokenizer, problems, limits of
grading."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from g2rl.cli.build.inputs import held_out_problems, training_problems
from g2rl.cli.jobs.evaluate import evaluate
from g2rl.cli.jobs.train import train
from g2rl.policy.loading import resolve_source
from g2rl.tasks.benchmarks.math import math_benchmark
from g2rl.tasks.countdown import Countdown
from g2rl.tasks.math import MathTask
from tests.support import NO_EVALUATION, SMOKE, composed, metric_rows


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and a run of it after one of two steps."""
    place = tmp_path_factory.mktemp("begun")
    shutil.copytree(resolve_source("builtin:tiny"), place / "model")
    go_on(place, steps=1)
    return place


def go_on(place: Path, *overrides: str, steps: int = 1) -> None:
    words = [*SMOKE, *NO_EVALUATION, "exploration=none", f"trainer.steps={steps}"]
    train(composed(*words, f"model.source={place / 'model'}", *overrides), place / "run")


def scale_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({name: w * 1.01 for name, w in weights.items()}, folder / "model.safetensors")


def change_template(folder: Path) -> None:
    place = folder / "tokenizer_config.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), "padding_side": "right"}))


@pytest.mark.parametrize(
    ("change", "named"), [(scale_weights, "weights"), (change_template, "tokenizer")]
)
def test_a_run_is_not_continued_on_another_model_of_the_same_name(
    begun: Path, tmp_path: Path, change: Callable[[Path], None], named: str
) -> None:
    shutil.copytree(begun, tmp_path, dirs_exist_ok=True)
    config = (tmp_path / "run" / "config.yaml").read_text()
    (tmp_path / "run" / "config.yaml").write_text(config.replace(str(begun), str(tmp_path)))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.parquet")}
    change(tmp_path / "model")
    with pytest.raises(ValueError, match=f"begun with other {named} under the same name"):
        go_on(tmp_path)

    # nothing was sampled, and starting over is possible
    assert {path: path.stat().st_mtime_ns for path in before} == before
    if change is scale_weights:
        go_on(tmp_path, "resume=never")
        assert len(metric_rows(tmp_path / "run")) == 2


@pytest.mark.parametrize("setting", ["verify.timeout_seconds=9", "verify.memory_mb=999"])
def test_limits_that_decide_verdicts_stay(begun: Path, setting: str) -> None:
    with pytest.raises(ValueError, match=f"other settings: {setting.split('=')[0]}: "):
        go_on(begun, setting)
    evaluation = [
        "tracking=local",
        "benchmark.problems=2",
        "benchmark.samples=1",
        "benchmark.ks=[1]",
    ]
    evaluate(composed(*evaluation, command="evaluate"), begun / "eval")
    with pytest.raises(ValueError, match=f"other settings: {setting.split('=')[0]}: "):
        evaluate(composed(*evaluation, setting, command="evaluate"), begun / "eval")


def test_the_number_of_grading_processes_is_free(
    begun: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        go_on(begun, "verify.workers=1")
    assert "inputs.json" not in caplog.text


def test_a_run_that_recorded_no_inputs_goes_on_with_a_warning(
    begun: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (begun / "run" / "inputs.json").unlink()
    with caplog.at_level(logging.WARNING):
        go_on(begun)
    assert "inputs.json does not say with which inputs" in caplog.text
    recorded = json.loads((begun / "run" / "inputs.json").read_text())
    assert set(recorded) == {
        "format",
        "weights",
        "model configuration",
        "tokenizer",
        "training problems",
        "held-out problems",
    }


def test_a_run_is_not_continued_with_another_reward_function(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"use 3 5 {n} make 22 :", "answer": "1"} for n in range(7, 13)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("reward.py").write_text("def f(completions, **_): return [0.0]\n")
    words = [
        *NO_EVALUATION[:2],
        "tracking=local",
        "report=false",
        "exploration=none",
        "task=rows",
        "benchmark=rows",
        "benchmark.samples=1",
        "task.source.source=rows.jsonl",
        "task.source.held_out=2",
        "task.source.reward=reward.py:f",
        "task.max_prompt_tokens=32",
        "task.max_response_tokens=8",
        "trainer.prompts_per_step=2",
        "trainer.group_size=2",
    ]
    train(composed(*words, "trainer.steps=1"), tmp_path / "run")
    Path("reward.py").write_text("def f(completions, **_): return [1.0]\n")
    with pytest.raises(ValueError, match="begun with other code of reward functions"):
        train(composed(*words, "trainer.steps=2"), tmp_path / "run")
    assert len(metric_rows(tmp_path / "run")) == 2


def test_changed_rows_of_a_data_set_change_the_fingerprints(tmp_path: Path) -> None:
    found = set()
    for number, gold in enumerate(("4", "5")):
        file = tmp_path / f"{number}.jsonl"
        file.write_text(json.dumps({"problem": "2 + 2?", "answer": gold}) + "\n")
        task = MathTask(source=str(file))
        benchmark = math_benchmark("name", source=str(file), samples=1, ks=[1])
        found.add((training_problems(task, 0, 4), held_out_problems([benchmark])))
    first, second = found
    assert first[0] != second[0]
    assert first[1] != second[1]
    assert training_problems(Countdown(), 0, 4) != training_problems(Countdown(), 1, 4)
