"""The main job end to end: files, metrics, export, exact resume."""

from __future__ import annotations

import json
import logging
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hydra.errors import InstantiationException
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from g2rl.cli.jobs.train import train
from g2rl.engines.transformers import TransformersEngine
from g2rl.policy.loading import load
from g2rl.policy.policy import Policy
from g2rl.policy.prompts import encode_prompt
from g2rl.runs.interrupt import Interrupted
from g2rl.training.stages import Sampler
from g2rl.training.step import TrainingStep
from g2rl.training.validation import Validation
from g2rl.types import SamplingParams
from tests.support import NO_EVALUATION, ROOT, SMOKE, composed, metric_rows, untimed_rows


def run(folder: Path, *overrides: str) -> float:
    return train(composed(*SMOKE, *overrides), folder)


PLAIN = (*NO_EVALUATION, "trainer.steps=2", "exploration=none")


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of plain GRPO, whose first mini-batch fits one micro-batch."""
    folder = tmp_path_factory.mktemp("plain") / "run"
    run(folder, *PLAIN)
    return folder


def last_weights(folder: Path) -> bytes:
    return (folder / "checkpoints/step_000002/model.safetensors").read_bytes()


@pytest.mark.parametrize("fits_one_micro_batch", [True, False])
def test_an_observer_changes_nothing_in_the_training(
    tmp_path: Path, plain_run: Path, fits_one_micro_batch: bool
) -> None:
    """Bit for bit, whether or not the first mini-batch fits one micro-batch."""
    alone, observed = plain_run, tmp_path / "observed"
    common = list(PLAIN)
    if not fits_one_micro_batch:
        alone = tmp_path / "alone"
        common.append("optimizer.micro_batch_tokens=120")
        run(alone, *common)
    run(observed, *common, "exploration.observe=[g2rl]")
    for one, two in zip(untimed_rows(alone), untimed_rows(observed), strict=True):
        assert one == {k: v for k, v in two.items() if not k.startswith("observe/")}
    assert last_weights(alone) == last_weights(observed)


@pytest.mark.parametrize("kept_forward", [True, False])
def test_two_forwards_of_the_same_weights_agree(tmp_path: Path, kept_forward: bool) -> None:
    """Under a signal that reads features the first mini-batch is scored by the update's own forward
    where the whole mini-batch fits one micro-batch, else by another, and the two are compared."""
    words = [*NO_EVALUATION, "trainer.steps=2", "exploration=g2rl", "optimizer.mini_batches=2"]
    if not kept_forward:
        words.append("optimizer.micro_batch_tokens=120")
    run(tmp_path, *words)
    ratios = [
        row["update/first_ratio"] for row in metric_rows(tmp_path) if "update/first_ratio" in row
    ]
    assert len(ratios) == (0 if kept_forward else 2)
    assert all(abs(ratio - 1) < 1e-4 for ratio in ratios)


def test_every_promised_file_is_there(finished_run: Path) -> None:
    names = {path.name for path in finished_run.iterdir()}
    assert {
        "config.yaml",
        "metrics.jsonl",
        "rollouts",
        "geometry",
        "probe",
        "checkpoints",
        "model",
    } <= names
    assert {"learning_curves.png", "cosine_distribution.png", "summary.json"} <= names
    assert len(list((finished_run / "rollouts").iterdir())) == 3
    assert not [path for path in finished_run.rglob("*") if "partial" in path.name]


def test_metrics_have_one_row_a_step_and_the_promised_names(finished_run: Path) -> None:
    found = metric_rows(finished_run)
    assert [row["step"] for row in found] == [0, 1, 2, 3]
    assert {
        "eval/countdown/pass@1",
        "eval/countdown/maj@4",
        "eval/countdown/pass@4",
        "probe/cosine",
    } <= set(found[0])
    assert {
        "train/accuracy",
        "train/entropy",
        "train/truncated",
        "explore/nu_mean",
        "explore/reward_shift",
        "advantage/uniform_wrong",
        "update/kl",
        "update/clip_fraction",
        "update/grad_norm",
        "update/skipped",
        "train/empty",
        "train/truncated_groups",
        "explore/nonfinite_groups",
        "explore/feature_norm",
        "verify/unparsed",
        "verify/timeout",
        "time/step",
        "observe/evol/evol_novelty_mean",
    } <= set(found[1])
    assert all(np.isfinite(value) for row in found for value in row.values())


def test_tables_agree_with_the_metrics(finished_run: Path) -> None:
    row = metric_rows(finished_run)[2]
    rollouts = pd.read_parquet(finished_run / "rollouts" / "step_000002.parquet")
    geometry = pd.read_parquet(finished_run / "geometry" / "step_000002.parquet")
    assert len(rollouts) == len(geometry) == 16
    assert rollouts["correct"].mean() == pytest.approx(row["train/accuracy"])
    assert rollouts["tokens"].mean() == pytest.approx(row["train/length"])
    assert geometry["nu"].mean() == pytest.approx(row["explore/nu_mean"], abs=1e-5)
    shift = (geometry["shaped_reward"] - geometry["reward"]).abs().mean()
    assert shift == pytest.approx(row["explore/reward_shift"], abs=1e-5)
    assert shift > 0
    assert set(geometry["reward"]) <= {-1.0, 1.0}
    assert len(geometry["cosine"][0]) == 4
    assert geometry["cosine"][0][0] == pytest.approx(1.0)


def test_the_export_loads_in_plain_transformers_and_says_the_same(finished_run: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(finished_run / "model")
    tokenizer = AutoTokenizer.from_pretrained(finished_run / "model")
    ours = load(str(finished_run / "model"))
    engine = TransformersEngine(Policy(ours.model), ours.tokenizer, ours.stop_ids)
    for prompt in ("use 3 7 8 make 29 :", "use 5 8 1 4 make 17 :"):
        ids = encode_prompt(tokenizer, prompt, chat=True)
        [[completion]] = engine.generate(
            [ids], [(0,)], 1, SamplingParams(temperature=0, max_tokens=40)
        )
        out = model.generate(torch.tensor([ids]), max_new_tokens=40, do_sample=False)[0, len(ids) :]
        assert out.tolist() == completion.token_ids
    trained = load_file(finished_run / "checkpoints" / "step_000003" / "model.safetensors")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, trained[name]), name


def test_the_notebook_reads_a_run(finished_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its code cells run as a script; expressions at the end of cells are what Jupyter would
    show."""
    monkeypatch.setenv("G2RL_RUN", str(finished_run))
    notebook = json.loads((ROOT / "notebooks" / "read_a_run.ipynb").read_text(encoding="utf-8"))
    scope: dict[str, Any] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), scope)
    assert set(scope["run"].probes["step"]) == {0, 3}
    assert len(scope["samples"]) == 48


def test_training_moves_the_weights_and_not_the_reference(finished_run: Path) -> None:
    first = load("builtin:tiny").model.state_dict()
    last = load_file(finished_run / "checkpoints" / "step_000003" / "model.safetensors")
    moved = [name for name in last if not torch.equal(first[name], last[name])]
    assert len(moved) == len(last)
    kls = [row["update/kl"] for row in metric_rows(finished_run)[1:]]
    assert kls[-1] > kls[0] >= 0


@pytest.mark.parametrize("stop_before", [2, 3])
def test_resume_repeats_the_uninterrupted_run_bit_for_bit(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_before: int
) -> None:
    step = TrainingStep.__call__

    def interrupted(self: TrainingStep, number: int) -> dict[str, float]:
        if number == stop_before:
            raise KeyboardInterrupt
        return step(self, number)

    overrides = ("trainer.steps=3", "exploration=g2rl", "exploration.observe=[evol,none]")
    monkeypatch.setattr(TrainingStep, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, *overrides)
    monkeypatch.setattr(TrainingStep, "__call__", step)
    with (tmp_path / "metrics.jsonl").open("a") as out:
        out.write('{"step": 99, "cut off in the mid')
    run(tmp_path, *overrides)
    assert untimed_rows(tmp_path) == untimed_rows(finished_run)
    place = Path("checkpoints/step_000003/model.safetensors")
    assert (tmp_path / place).read_bytes() == (finished_run / place).read_bytes()
    for kind in ("rollouts", "geometry", "probe"):
        for path in (finished_run / kind).iterdir():
            pd.testing.assert_frame_equal(
                pd.read_parquet(path), pd.read_parquet(tmp_path / kind / path.name)
            )


def test_a_signal_finishes_the_step_and_saves_it(finished_run: Path, tmp_path: Path) -> None:
    """Asked in the evaluation before training, in a step between checkpoints, and in the last step
    of one and the same run."""
    overrides = ("trainer.steps=3", "exploration=g2rl", "exploration.observe=[evol,none]")
    overrides += ("trainer.checkpoint_every=10",)
    stops = (
        (Validation, 0, 0, signal.SIGTERM),
        (Sampler, 2, 2, signal.SIGINT),
        (Sampler, 3, 3, signal.SIGTERM),
    )
    for moment, at_step, saved, number in stops:
        with pytest.MonkeyPatch.context() as patch:
            signal_in(moment, at_step, number, patch)
            with pytest.raises(Interrupted, match=f"after step {saved}"):
                run(tmp_path, *overrides)
        assert [row["step"] for row in metric_rows(tmp_path)] == list(range(saved + 1))
        assert not (tmp_path / "model").exists()

    run(tmp_path, *overrides)
    assert untimed_rows(tmp_path) == untimed_rows(finished_run)
    place = Path("checkpoints/step_000003/model.safetensors")
    assert (tmp_path / place).read_bytes() == (finished_run / place).read_bytes()


def signal_in(moment: type, at_step: int, number: int, patch: pytest.MonkeyPatch) -> None:
    """Let this process signal itself when a moment of some step begins."""
    original = moment.__call__

    def signalled(self: object, step: int) -> Any:
        if step == at_step:
            os.kill(os.getpid(), number)
        return original(self, step)

    patch.setattr(moment, "__call__", signalled)


def test_checkpoints_carry_the_held_out_score(finished_run: Path) -> None:
    manifest = json.loads(
        (finished_run / "checkpoints" / "step_000003" / "manifest.json").read_text()
    )
    assert manifest["score"] == metric_rows(finished_run)[3]["eval/countdown/pass@1"]


def test_an_alarm_is_raised_while_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        run(
            tmp_path,
            *NO_EVALUATION,
            "health.window=1",
            "health.truncated=0",
            "task.max_response_tokens=2",
        )
    assert caplog.text.count("health alarm truncation at step 1: 100% of the responses") == 1


def test_a_finished_run_is_not_trained_again_and_other_settings_are_refused(
    finished_run: Path,
) -> None:
    before = (finished_run / "metrics.jsonl").read_bytes()
    run(
        finished_run,
        "report=true",
        "trainer.steps=3",
        "exploration=g2rl",
        "exploration.observe=[evol,none]",
    )
    assert (finished_run / "metrics.jsonl").read_bytes() == before
    with pytest.raises(ValueError, match=r"exploration\.lam: 1\.0 -> 2\.0"):
        run(
            finished_run,
            "trainer.steps=3",
            "exploration=g2rl",
            "exploration.observe=[evol,none]",
            "exploration.lam=2.0",
        )


@pytest.mark.parametrize("exploration", ["none", "entropy", "evol"])
def test_every_signal_trains(tmp_path: Path, exploration: str) -> None:
    run(tmp_path, *NO_EVALUATION, f"exploration={exploration}", "trainer.steps=1")
    found = metric_rows(tmp_path)
    assert [row["step"] for row in found] == [0, 1]
    assert (found[1]["explore/reward_shift"] > 0) == (exploration == "evol")
    geometry = pd.read_parquet(tmp_path / "geometry" / "step_000001.parquet")
    assert "cosine" not in geometry, "no signal asked for features, so none are computed"


@pytest.mark.parametrize("algorithm", ["dr_grpo", "dapo", "gspo", "cispo"])
def test_every_algorithm_trains(tmp_path: Path, algorithm: str) -> None:
    run(tmp_path, *NO_EVALUATION, f"algorithm={algorithm}", "trainer.steps=1")
    row = metric_rows(tmp_path)[1]
    assert row["update/grad_norm"] > 0
    assert "update/kl" not in row, "these algorithms keep no reference policy"


def test_lam_zero_is_plain_grpo(tmp_path: Path, plain_run: Path) -> None:
    run(tmp_path, *NO_EVALUATION, "trainer.steps=2", "exploration=g2rl", "exploration.lam=0")
    assert last_weights(tmp_path) == last_weights(plain_run)


def test_seeds_differ(tmp_path: Path, finished_run: Path) -> None:
    run(tmp_path, *NO_EVALUATION, "seed=1", "trainer.steps=1")
    mine = pd.read_parquet(tmp_path / "rollouts" / "step_000001.parquet")
    other = pd.read_parquet(finished_run / "rollouts" / "step_000001.parquet")
    assert not mine["prompt"].equals(other["prompt"])


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (["trainer.group_size=1"], "group_size=1 with signal g2rl"),
        (
            ["trainer.group_size=1", "exploration=none", "exploration.observe=[g2rl]"],
            "group_size=1 with signal g2rl",
        ),
        (["optimizer.mini_batches=5"], r"mini_batches=5 over trainer\.prompts_per_step=4"),
        (["task.max_response_tokens=4000"], "over the model's 512 positions"),
        (["benchmark.ks=[8]"], "1 <= k <= samples"),
    ],
)
def test_impossible_combinations_are_refused_and_leave_the_folder_free(
    tmp_path: Path, overrides: list[str], complaint: str
) -> None:
    with pytest.raises((ValueError, InstantiationException), match=complaint):
        run(tmp_path, "trainer.steps=1", "trainer.probe_problems=0", *overrides)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_corrected_command_may_use_the_folder_of_a_refused_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="group_size"):
        run(tmp_path, "trainer.group_size=1")
    run(tmp_path, "trainer.steps=1", "trainer.probe_problems=0", "benchmark.ks=[4]")
    assert "eval/countdown/pass@1" in metric_rows(tmp_path)[0], "k = 1 is always measured"


def test_random_weights_follow_the_seed(tmp_path: Path) -> None:
    common = (*NO_EVALUATION, "model.random_init=true", "trainer.steps=1")
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(tmp_path / name, *common, f"seed={seed}")
    place = Path("checkpoints/step_000001/model.safetensors")
    a, b, c = ((tmp_path / name / place).read_bytes() for name in "abc")
    assert a == b != c


def test_a_signal_without_the_encoder_it_needs_is_refused(tmp_path: Path) -> None:
    for wanted in ("exploration=evol", "exploration.observe=[evol]"):
        with pytest.raises(ValueError, match=r"exploration=evol needs embeddings.*encoder=ngram"):
            run(tmp_path / wanted, wanted, "~encoder")


def test_prompts_over_the_limit_are_refused_before_anything_is_sampled(tmp_path: Path) -> None:
    long = tmp_path / "long.jsonl"
    questions = ["use 3 7 2 make 13 :", "use 3 7 2 make 13 : : : : : : : :"]
    long.write_text("".join(json.dumps({"problem": q, "answer": "13"}) + "\n" for q in questions))
    task = (
        "task=math",
        f"task.source.source={long}",
        "task.source.data_dir=null",
        "+task.source.instruction=':'",
        "task.max_prompt_tokens=12",
        "benchmark=countdown",
        "verify.workers=1",
        *NO_EVALUATION,
    )
    with pytest.raises(
        ValueError, match=r"1 of 2 prompts .*max_prompt_tokens=12; .*math/train/1, has 1\d"
    ):
        run(tmp_path / "refused", *task, "task.overlong=error")
    assert not (tmp_path / "refused" / "metrics.jsonl").exists()
    run(tmp_path / "dropped", *task, "trainer.steps=1")
    sampled = pd.read_parquet(tmp_path / "dropped" / "rollouts" / "step_000001.parquet")
    assert set(sampled["problem"]) == {"math/train/0"}


def test_a_benchmark_that_training_could_draw_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"16 of 24 problems .*held_out"):
        run(tmp_path, "task.source.held_out=8", "benchmark.problems=24")
    assert not (tmp_path / "metrics.jsonl").exists()


def test_the_tiny_policy_refuses_prompts_it_cannot_read(tmp_path: Path) -> None:
    said = r"built-in policies speak only .* tiny those of task=countdown"
    with pytest.raises(RuntimeError, match=said):
        run(tmp_path, "task=countdown_text", "benchmark=countdown_text")
