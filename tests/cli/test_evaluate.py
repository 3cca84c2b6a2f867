"""g2rl-eval: what is typed, folders, resuming, models of runs, and several benchmarks in
training."""

from __future__ import annotations

import re
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from omegaconf import OmegaConf

from g2rl.cli.build.model import model_of_run, model_of_subject
from g2rl.cli.config.choices import config_dir
from g2rl.cli.config.mistakes import explain_mistakes, groups_of
from g2rl.cli.config.names import eval_dir
from g2rl.cli.config.words import escape_paths, expand_checkpoints
from g2rl.cli.jobs.evaluate import evaluate
from g2rl.cli.jobs.train import train
from g2rl.engines.transformers import TransformersEngine
from g2rl.runs.checkpoints import CheckpointError
from g2rl.tasks.grading.grader import Grader
from tests import commands, support
from tests.columns import undescribed

SMALL = (
    "benchmark.problems=6",
    "benchmark.samples=3",
    "benchmark.ks=null",
    "benchmark.max_tokens=20",
    "part=2",
)
TABLES = ("samples.parquet", "problems.parquet", "results.parquet")


composed = partial(support.composed, command="evaluate")


def run(folder: Path, *overrides: str) -> float | None:
    return evaluate(composed(*overrides), folder, overrides)


def command(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return commands.run(["-c", "from g2rl.cli.evaluate import main; main()", *words], folder)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    run(folder, *SMALL)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that validates on a suite of two benchmarks."""
    folder = tmp_path_factory.mktemp("runs") / "lam=1"
    words = (*support.EVERYTHING, "exploration=none", "trainer.steps=1")
    config = composed(*words, "benchmark.max_tokens=24", command="train")
    OmegaConf.set_struct(config, False)
    node = OmegaConf.to_container(config.benchmark)
    suite = {
        "first": {**node, "name": "first"},
        "second": {**node, "name": "second", "problems": 5},
    }  # type: ignore[dict-item]
    config.benchmark = {"suite": suite, "samples": 4, "ks": [1, 4], "limit": None}
    train(config, folder)
    return folder


def test_the_tiny_policy_is_evaluated_and_an_interruption_leaves_no_trace(
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    generate, calls = TransformersEngine.generate, []

    def interrupted(self: TransformersEngine, *arguments: Any, **named: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return generate(self, *arguments, **named)

    monkeypatch.setattr(TransformersEngine, "generate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, *SMALL)
    assert run(tmp_path, *SMALL) == run(finished, *SMALL)
    assert len(calls) == 4, (
        "three parts, one of them twice; the finished evaluation samples nothing"
    )
    for name in TABLES:
        assert (tmp_path / name).read_bytes() == (finished / name).read_bytes(), name
    assert undescribed(finished) == []
    shown = capsys.readouterr().out
    assert "continuing: 1 of 3 parts are done" in shown
    assert "every sample is there already" in shown
    assert "countdown" in shown
    assert "pass@k" in shown


def test_samples_are_graded_again_without_a_model(
    finished: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr("g2rl.cli.build.model.load_model", None)
    run(tmp_path, f"samples='{finished / 'samples.parquet'}'")
    for name in TABLES:
        assert (tmp_path / name).read_bytes() == (finished / name).read_bytes(), name


def test_other_settings_weights_or_problems_are_refused(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"seed: 0 -> 1"):
        run(finished, *SMALL, "seed=1")
    model = tmp_path / "model"
    source = config_dir().parent / "g2rl" / "assets" / "tiny"
    model.mkdir()
    for path in source.iterdir():
        (model / path.name).write_bytes(path.read_bytes())
    run(tmp_path / "out", *SMALL, f"model.source={model}")
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    with pytest.raises(ValueError, match="other weights under the same name"):
        run(tmp_path / "out", *SMALL, f"model.source={model}")
    run(tmp_path / "out", *SMALL, f"model.source={model}", "resume=never")


def test_training_validates_on_every_benchmark_of_a_suite(trained: Path) -> None:
    rows = support.metric_rows(trained)
    for row in rows:
        for name in ("first", "second"):
            assert {
                f"eval/{name}/{m}"
                for m in ("pass@1", "pass@1_low", "pass@4", "maj@4", "verify/total")
            } <= set(row)
            assert row[f"eval/{name}/mean@2"] == row[f"eval/{name}/pass@1"]
    assert rows[0]["eval/first/verify/total"] == 8 * 4
    assert rows[0]["eval/second/verify/total"] == 5 * 4
    probe = pd.read_parquet(trained / "probe" / "step_000000.parquet")
    assert probe["problem"].nunique() == 4, "the probe uses the first benchmark"


def test_a_run_brings_its_model_and_training_drew_the_same_samples(
    trained: Path, tmp_path: Path
) -> None:
    words = (
        f"run='{trained}'",
        "benchmark.problems=8",
        "benchmark.samples=4",
        "benchmark.ks=[1,4]",
        "benchmark.max_tokens=24",
    )
    score = run(tmp_path, *words, "part=8")
    last = support.metric_rows(trained)[-1]
    assert score == pytest.approx(last["eval/first/pass@1"]), (
        "the same evaluator, the same random numbers"
    )
    node = model_of_run(trained, ["model.chat=false", "part=3"])
    assert (node.source, node.chat, node.name) == (str(trained / "model"), False, "tiny")
    with pytest.raises(ValueError, match="give one of the two"):
        model_of_run(trained, ["model=tiny"])
    with pytest.raises(ValueError, match=r"there is no folder"):
        model_of_run(tmp_path / "nothing", [])
    (tmp_path / "config.yaml").write_text("model: {}")
    with pytest.raises(ValueError, match="has not ended"):
        model_of_run(tmp_path, [])


def test_a_checkpoint_is_evaluated_where_it_lies_and_nothing_is_written_into_it(
    trained: Path, tmp_path: Path
) -> None:
    checkpoint = trained / "checkpoints" / "step_000001"
    before = sorted(path.name for path in checkpoint.iterdir())
    words = (f"run='{trained}'", "checkpoint=newest", "benchmark.problems=8")
    cut = "benchmark.max_tokens=24"
    score = run(tmp_path / "out", *words, cut, "benchmark.samples=4", "benchmark.ks=[1,4]")
    last = support.metric_rows(trained)[-1]
    assert score == pytest.approx(last["eval/first/pass@1"])
    assert sorted(path.name for path in checkpoint.iterdir()) == before

    # the model that the run began with is another one
    node = model_of_run(trained, [], "best")
    assert node.checkpoint == str(checkpoint)
    assert node.source == "builtin:tiny"
    with pytest.raises(CheckpointError, match=r"checkpoint=7: .*of which there are 1 "):
        model_of_run(trained, [], 7)
    with pytest.raises(ValueError, match="checkpoint=best needs the run"):
        model_of_subject(composed("checkpoint=best"), [])


def test_the_folder_of_a_checkpoint_stands_for_its_run_and_its_step() -> None:
    words = ["run=runs/a/checkpoints/step_000040", "seed=1", "run=a,b/checkpoints/step_000001"]
    assert expand_checkpoints(words) == ["run=runs/a", "checkpoint=40", *words[1:]]


def test_evaluations_are_compared_and_unequal_settings_noted(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path / "b", *SMALL, "seed=1")
    run(tmp_path / "out", f"compare=['{finished}','{tmp_path / 'b'}']")
    table = pd.read_parquet(tmp_path / "out" / "comparison.parquet")
    assert undescribed(tmp_path / "out") == []
    assert list(table["metric"]) == ["pass@1", "pass@2", "pass@3", "maj@2", "maj@3"]
    assert ((table["low"] <= table["difference"]) & (table["difference"] <= table["high"])).all()
    assert "differ in seed: 0 -> 1" in capsys.readouterr().out
    run(tmp_path / "seeds", f"compare=[['{finished}'],['{finished}','{tmp_path / 'b'}']]")
    assert set(pd.read_parquet(tmp_path / "seeds" / "comparison.parquet")["other_runs"]) == {2}


def test_suites_pass_on_what_is_common_and_name_what_they_cannot(finished: Path) -> None:
    node = composed(
        "benchmark=paper",
        f"data_dir={support.DATA}",
        "benchmark.samples=2",
        "benchmark.suite.aime24.limit=1",
    ).benchmark
    from g2rl.cli.build.benchmarks import build_benchmarks

    made = {benchmark.name: benchmark for benchmark in build_benchmarks(node)}
    assert list(made) == ["math500", "amc23", "aime24", "aime25", "gpqa_diamond", "mmlu_pro"]
    assert {benchmark.samples for benchmark in made.values()} == {2}
    assert len(made["aime24"].problems) == 1 < len(made["aime25"].problems)
    OmegaConf.set_struct(node, False)
    node.per_family = 3
    with pytest.raises(ValueError, match=r"benchmark\.per_family: math500 has no such setting"):
        build_benchmarks(node)
    with pytest.raises(ValueError, match="empty"):
        build_benchmarks(OmegaConf.create({"suite": {}}))


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("benchmark=mth500", "math500"),
        ("benchmark.limt=3", "benchmark.limit"),
        ("exploration=none", "benchmark, encoder, engine, model"),
        ("benchmark=math benchmark.suite.aime25.sample=3", "benchmark.suite.aime25.samples"),
        ("trainer.steps=3", "no key 'trainer.steps'"),
        ("sample=x.parquet", "samples"),
    ],
)
def test_misspelt_words_are_refused(typed: str, meant: str) -> None:
    assert meant in (explain_mistakes(typed.split(), "evaluate") or "")


def test_good_words_pass() -> None:
    words = [
        "run=runs/a,runs/b",
        "benchmark=paper",
        "benchmark.suite.aime24.samples=32",
        "model.source=org/name",
    ]
    assert explain_mistakes(words, "evaluate") is None
    changed = ["~benchmark.suite.gpqa_diamond", "+benchmark@benchmark.suite.aime24=aime24"]
    assert (
        explain_mistakes(
            ["benchmark=general", *changed, "benchmark.suite.aime24.limit=2"], "evaluate"
        )
        is None
    )
    assert groups_of("evaluate") == ["benchmark", "encoder", "engine", "model", "tracking"]


def test_folders_named_after_overrides_can_be_typed() -> None:
    words = ["run=runs/lam=3", "benchmark.limit=3", "compare=[a=b,c]", "run='x=y'"]
    assert escape_paths(words, ("run", "compare")) == [
        "run=runs/lam\\=3",
        words[1],
        "compare=[a\\=b,c]",
        words[3],
    ]
    assert explain_mistakes(escape_paths(["run=runs/lam=3"], ("run",)), "evaluate") is None


def test_folders(tmp_path: Path) -> None:
    (tmp_path / "samples.parquet").touch()
    run_dir, samples = str(tmp_path), str(tmp_path / "samples.parquet")
    assert eval_dir(None, None, [], "tiny", "math", "") == "evals/tiny-math"
    named = eval_dir(run_dir, None, [], "tiny", "math", "benchmark.limit=3,seed=1")
    assert named == f"{run_dir}/eval/math-limit-3_seed-1"
    assert eval_dir("absent", None, [], "tiny", "math", "") == "evals/tiny-math"
    assert eval_dir(None, samples, [], "tiny", "math", "") == f"{run_dir}/regraded"
    assert eval_dir(None, None, ["a", "b"], "tiny", "math", "").startswith("evals/compare-")
    compared = eval_dir(None, None, ["runs/A/eval/math", "runs/B/eval/math"], "tiny", "math", "")
    assert re.fullmatch("evals/compare-A-B-[0-9a-f]{8}", compared)
    assert Path(eval_dir(None, None, [], "tiny", "math", "", True)).is_absolute()


def test_the_command_sweeps_and_explains_itself(trained: Path, tmp_path: Path) -> None:
    done = command(tmp_path, f"run={trained}", *SMALL, "seed=0,1", "--multirun")
    assert done.returncode == 0, done.stderr
    folders = sorted((trained / "eval").iterdir())
    assert len(folders) == 2
    assert all((folder / name).is_file() for folder in folders for name in TABLES)
    wrong = command(tmp_path, "benchmark=mth")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "did you mean math" in wrong.stderr
    shown = command(tmp_path, "--help").stdout
    assert "g2rl-eval run=runs/NAME" in shown
    assert "gpqa_diamond" in shown
    assert "exploration:" not in shown
    failed = command(tmp_path, "run=nowhere")
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: run=nowhere: there is no folder nowhere (seen from ")
    assert not (tmp_path / "nowhere").exists()


def test_a_closed_grader_is_not_left_behind(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[Grader] = []
    close = Grader.close
    monkeypatch.setattr(Grader, "close", lambda self: (closed.append(self), close(self))[1])
    run(finished, *SMALL)
    assert len(closed) == 1
