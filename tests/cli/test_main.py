"""`g2rl COMMAND`: the dispatcher, dry runs, exports and samples on the terminal."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from g2rl.cli import export, generate, main, train
from g2rl.cli.build.settings import read_train_settings
from g2rl.cli.jobs.dry_run import problem_rows, state_of
from g2rl.cli.jobs.train import disk_plan
from g2rl.evaluation.samples import MOST_CHARACTERS, cut, shown
from g2rl.policy.loading import LoadedModel
from g2rl.training.disk import DiskPlan, announcement, kept_checkpoints, size_in_words
from g2rl.types import Completion, Verdict
from tests.support import composed


def g2rl(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """Run `g2rl WORDS` in this process; returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["g2rl", *words])
    try:
        main.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


# --- the dispatcher


def test_help_names_every_command_and_fits_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert g2rl(monkeypatch, "--help") == 0
    shown_text = capsys.readouterr().out
    assert {"train", "eval", "analyze", "grade", "export", "generate"} <= set(main.commands())
    for word in main.commands():
        assert f"\n  {word} " in shown_text
    assert max(map(len, shown_text.splitlines())) <= 80


def test_an_unknown_command_is_refused_with_what_was_meant(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, meant in ((["trian"], "train"), (["seed=1"], "g2rl train seed=1"), ([], "usage")):
        assert g2rl(monkeypatch, *words) == 2
        assert meant in capsys.readouterr().err


def test_the_rest_of_the_words_belongs_to_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr("g2rl.cli.grade.main", lambda: seen.append(list(sys.argv)) or 3)
    assert g2rl(monkeypatch, "grade", "a", "--out", "b") == 3
    assert seen == [["g2rl grade", "a", "--out", "b"]]


def test_versions_are_g2rls_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert g2rl(monkeypatch, "--version") == 0
    assert g2rl(monkeypatch, "train", "--version") == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == second
    assert f"torch {torch.__version__}" in first


@pytest.mark.parametrize(
    ("shell", "hint"), [("fish", "-sc install=fish | source"), ("zsh", "bashcompinit"), ("ksh", "")]
)
def test_other_shells_are_refused_with_what_hydra_offers_them(
    shell: str, hint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["g2rl", "completion", shell])
    with pytest.raises(SystemExit, match="2"):
        main.main()
    said = capsys.readouterr()
    assert said.out == "", "nothing that a shell would run"
    assert f"in bash only, not in '{shell}'" in said.err
    assert hint in said.err


def test_the_completion_is_a_script_that_bash_takes_and_that_completes_commands() -> None:
    program = (
        f"{main.completion()}\n"
        "COMP_WORDS=(g2rl ge) COMP_CWORD=1; _g2rl; echo ${COMPREPLY[@]}\n"
        "g2rl-train() { echo asked:$COMP_LINE; }\n"
        "COMP_LINE='g2rl train see' COMP_WORDS=(g2rl train see) COMP_CWORD=2; _g2rl\n"
        "echo ${COMPREPLY[@]}"
    )
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["generate", "asked:g2rl-train", "see"]


# --- dry runs


def test_a_dry_run_tells_the_plan_within_80_columns_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert g2rl(monkeypatch, "train", "exploration=none", "--dry-run", "trainer.steps=20") == 0
    told = capsys.readouterr().out
    for text in (
        "20 steps x 16 prompts x 16 = 5,120 responses",
        "none on task countdown",
        "5.6 MB each, every 10 steps, at most 2 kept",
        "40, 2 a step, learning rate 0.0002, constant",
        "nothing was written",
    ):
        assert text in told
    assert max(map(len, told.splitlines())) <= 80
    assert not list(tmp_path.iterdir())


def test_a_dry_run_refuses_what_the_run_would_refuse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["g2rl-train", "--dry-run", "exploration.lam=much"])
    with pytest.raises(SystemExit) as end:
        train.main()
    assert end.value.code == 1
    assert capsys.readouterr().err.startswith("error: exploration.lam must be a number")


@pytest.mark.parametrize("typed", [["seed=1,2", "--multirun"], ["seed=range(3)"]])
def test_a_dry_run_of_a_sweep_is_refused_with_what_makes_it_one(
    typed: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["g2rl-train", "--dry-run", "exploration=none", *typed])
    with pytest.raises(SystemExit) as end:
        train.main()
    assert end.value.code == 2
    told = capsys.readouterr().err
    assert f"--dry-run tells about one run, and {typed[0]} makes several" in told


@pytest.mark.parametrize("typed", [["--config-name=own"], ["-cn", "own"], ["--config-path", "x"]])
def test_a_dry_run_of_another_configuration_is_refused(
    typed: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would have planned the one of conf/."""
    assert g2rl(monkeypatch, "train", "--dry-run", *typed) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: --dry-run plans g2rl's own configuration, and {typed[0]} names")
    assert "type experiment=NAME --config-dir FOLDER" in told


def test_a_dry_run_of_an_experiment_that_is_a_sweep_is_refused_and_one_arm_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert g2rl(monkeypatch, "train", "--dry-run", "experiment=signals") == 2
    told = capsys.readouterr().err
    assert "a sweep over exploration, seed: add hydra.mode=RUN" in told
    one_arm = ("experiment=signals", "hydra.mode=RUN", "exploration=none", "seed=3")
    assert g2rl(monkeypatch, "train", "--dry-run", *one_arm) == 0
    assert "-seed3" in capsys.readouterr().out


@pytest.mark.parametrize(("steps", "often"), [(1, "draws 25% of them"), (8, "about 2 times")])
def test_a_dry_run_says_how_often_each_problem_comes(steps: int, often: str) -> None:
    trainer = SimpleNamespace(steps=steps, prompts_per_step=16)
    problems = SimpleNamespace(task=SimpleNamespace(problems=[None] * 64))
    [(name, text)] = problem_rows(SimpleNamespace(trainer=trainer), problems)  # type: ignore
    assert (name, text.split(";")[0]) == ("problems", "64 to train on")
    assert often in text
    endless = SimpleNamespace(task=SimpleNamespace())
    assert not problem_rows(SimpleNamespace(trainer=trainer), endless)  # type: ignore


def test_the_size_of_a_checkpoint_is_told_as_it_is(finished_run: Path) -> None:
    folder = finished_run / "checkpoints"
    newest = max(folder.iterdir())
    actual = sum(path.stat().st_size for path in newest.iterdir())
    weights = load_file(newest / "model.safetensors")
    trained = sum(tensor.numel() for tensor in weights.values())
    plan = DiskPlan(trained, trained, 4, kept=2)
    assert plan.checkpoint == pytest.approx(actual, rel=0.02)
    assert plan.checkpoints == 3 * plan.checkpoint
    assert state_of(finished_run, 3) == "finished already"
    assert state_of(finished_run, 9) == "continues after step 3"


def test_large_checkpoints_are_announced_and_small_ones_are_not() -> None:
    small = DiskPlan(460_000, 460_000, 4, kept=3)
    assert announcement(small) is None
    large = DiskPlan(135_000_000, 135_000_000, 4, kept=2)
    said = announcement(large)
    assert said is not None
    assert said.startswith("checkpoints take 1.6 GB each, up to 4.9 GB at a time")


def test_a_run_announces_the_checkpoints_of_the_model_that_it_has_loaded(tiny: LoadedModel) -> None:
    plan = disk_plan(read_train_settings(composed("trainer.steps=50")), tiny.model)
    parameters = sum(weight.numel() for weight in tiny.model.parameters())
    assert (plan.parameters, plan.trained, plan.weight_bytes) == (parameters, parameters, 4)
    assert plan.kept == 3


def test_checkpoints_that_are_never_written_take_no_room() -> None:
    assert kept_checkpoints(steps=1, every=10, keep=2, keep_best=True) == 1
    assert kept_checkpoints(steps=20, every=10, keep=2, keep_best=True) == 2
    assert kept_checkpoints(steps=50, every=10, keep=2, keep_best=True) == 3
    assert kept_checkpoints(steps=50, every=10, keep=2, keep_best=False) == 2
    assert size_in_words(1_864_000) == "1.9 MB"
    assert size_in_words(17) == "17 bytes"


# --- exports


def test_an_export_is_loaded_by_transformers_and_has_a_card(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    out = tmp_path / "exported"
    export.main([str(finished_run), "checkpoint=newest", f"out={out}"])

    # the weights are those that the run itself exported at its end
    model = AutoModelForCausalLM.from_pretrained(out)
    trained = AutoModelForCausalLM.from_pretrained(finished_run / "model")
    for name, tensor in trained.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    assert AutoTokenizer.from_pretrained(out).chat_template

    # the card: what the hub reads, and the run's own numbers
    _, head, text = (out / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    assert yaml.safe_load(head)["library_name"] == "transformers"
    assert "after step 3" in text
    assert "| countdown pass@1 |" in text


def test_an_export_never_writes_over_anything(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(SystemExit) as end:
        export.main([str(finished_run), f"out={tmp_path}"])
    assert end.value.code == 1
    assert "is there already" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


# --- responses


def test_responses_are_printed_with_verdicts_where_the_answer_is_known(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generate.main([str(finished_run), "use 3 5 7 make 22 :", "--problems", "2", "--samples", "2"])
    told = capsys.readouterr().out
    assert told.count("? ") == 2 + 2 * 2
    assert told.count("= not graded") == 2
    assert told.count("= right") + told.count("= wrong") == 2 * 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "g2rl generate runs/NAME --problems 3"),
        (["runs/NAME"], "say what to ask runs/NAME: a PROMPT, or --problems N"),
        (["runs/NAME", "hi", "samples=0"], "--samples must be at least 1, got 0"),
        (["runs/NAME", "hi", "--own-code", "--config-dir", "no"], "--config-dir: there is no fo"),
        (["nowhere", "hi"], "error: run=nowhere: there is no folder nowhere (seen from "),
        (["file", "hi"], "error: run=file: file is a file, and a folder is wanted"),
    ],
)
def test_what_generate_lacks_is_said(
    words: list[str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    with pytest.raises(SystemExit):
        generate.main(words)
    assert told in capsys.readouterr().err


LOADER = "g2rl.tasks.grading.reward_function.load_function"
ROWS = "g2rl.tasks.benchmarks.rows.rows_benchmark"
PLANTED = [
    {"_target_": LOADER, "name": "planted.py:f"},
    {"_target_": "g2rl.tasks.rows.json.loads", "s": "1"},
    {"suite": {"one": {"_target_": LOADER, "name": "planted.py:f"}}},
    {"suite": "${planted}"},
    {"_target_": "${planted.one._target_}", "name": "planted.py:f"},
    {"_target_": ROWS, "source": "rows.jsonl", "reward": "planted.py:f"},
    {"_target_": ROWS, "source": "rows.jsonl", "reward": [{"function": "planted.py:f"}]},
    {"_target_": "g2rl.tasks.benchmarks.taskset.taskset_benchmark", "taskset": "planted"},
]


@pytest.mark.parametrize("benchmark", PLANTED)
def test_code_that_the_configuration_of_a_run_names_does_not_run(
    benchmark: dict[str, object],
    finished_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # a run from elsewhere, in a folder that is worked in
    monkeypatch.chdir(tmp_path)
    Path("planted.py").write_text("open('executed', 'w')\ndef f(completions, **_): return [1.0]\n")
    Path("rows.jsonl").write_text('{"prompt": "use 3 5 7 make 22 :", "answer": "1"}\n')
    config = yaml.safe_load((finished_run / "config.yaml").read_text())
    planted = {"one": {"_target_": LOADER, "name": "planted.py:f"}}
    Path("run").mkdir()
    Path("run/model").symlink_to(finished_run / "model")
    Path("run/config.yaml").write_text(
        yaml.safe_dump({**config, "benchmark": benchmark, "planted": planted})
    )
    with pytest.raises(SystemExit) as end:
        generate.main(["run", "use 3 5 7 make 22 :"])
    assert end.value.code == 1
    assert "--own-code runs it" in capsys.readouterr().err
    assert not Path("executed").exists()

    # it would have run, and does where it is asked for
    if benchmark in (PLANTED[0], PLANTED[5]):
        with contextlib.suppress(Exception, SystemExit):
            generate.main(["run", "use 3 5 7 make 22 :", "--problems", "1", "--own-code"])
        assert Path("executed").exists()


def test_code_beside_the_yaml_is_found_only_where_it_may_run(
    finished_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    own, here = tmp_path / "mine", tmp_path / "here"
    for folder in (own / "task", here / "run"):
        folder.mkdir(parents=True)
    (own / "paid_mine.py").write_text("def f(completions, **_): return [1.0]\n")
    rows = '{"prompt": "use 3 5 7 make 22 :", "answer": "1"}\n'
    (own / "rows.jsonl").write_text(rows)
    monkeypatch.chdir(here)
    config = yaml.safe_load((finished_run / "config.yaml").read_text())
    source = {"_target_": ROWS, "source": str(own / "rows.jsonl"), "reward": "paid_mine.py:f"}
    Path("run/model").symlink_to(finished_run / "model")
    Path("run/config.yaml").write_text(yaml.safe_dump({**config, "benchmark": source}))
    words, before = ["run", "--problems", "1", "--config-dir", str(own)], list(sys.path)
    monkeypatch.setattr(sys, "path", list(before))

    # a folder alone lets nothing in, and without it the file is nowhere
    for refused, code, told in (
        (words, 2, "--config-dir needs --own-code"),
        ([*words[:3], "--own-code"], 1, "there is no file paid_mine.py"),
    ):
        with pytest.raises(SystemExit) as end:
            generate.main(refused)
        assert end.value.code == code
        assert told in capsys.readouterr().err
        assert sys.path == before
    generate.main([*words, "--own-code"])
    assert "= right" in capsys.readouterr().out


def test_a_response_is_shown_bounded_and_without_control_characters() -> None:
    hostile = Completion([1] * 9, "length", "\x1b[31mred" + "x" * 5000)
    text = shown("why?", hostile, Verdict(True, "a\x07b", "string"))
    assert len(text) < 2 * MOST_CHARACTERS
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "= right (answer: a b), 9 tokens, cut off" in text
    assert "1 token\n" in shown("?", Completion([1], "stop", ""), None)
    assert cut("abc") == "abc"
