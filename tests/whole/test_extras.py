"""The script of `make test-extras`: it knows every extra, and what may end without the hub."""

from __future__ import annotations

import re
import tomllib

import pytest

from g2rl.cli.config.names import run_tag
from tests.extras import ELSEWHERE, EVALUATED, TRIALS, line, main, names_the_hub
from tests.support import ROOT


def test_every_extra_is_tried_or_has_a_reason() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    tried = {trial.extra for trial in TRIALS.values()} - {None}
    assert tried | set(ELSEWHERE) == set(extras)
    assert not tried & set(ELSEWHERE)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("vllm", "the extra vllm is not tried here: make test-vllm has it"),
        ("embde", "there is no extra embde; tried here are base, "),
    ],
)
def test_a_name_without_a_trial_is_told_with_the_reason(
    name: str,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["extras.py", name])
    with pytest.raises(SystemExit):
        main()
    assert told in capsys.readouterr().err


def test_make_clean_removes_every_environment_that_make_sets_up() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    environments = re.findall(r"(?m)^(\w*VENVS?) \?= (\.\S+)$", makefile)
    assert len(environments) >= 6
    removed = makefile.partition("\nclean:")[2]
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8")
    for name, folder in environments:
        assert f"$({name})" in removed, f"make clean leaves {folder} behind"
        assert f"/{folder}/" in ignored


def test_samples_are_graded_again_where_the_evaluation_before_has_written_them() -> None:
    """The folder's name holds the settings that were typed, as Hydra joins them."""
    typed = "ks=[1,2],problems=4,samples=2"
    assert f"countdown{run_tag(typed.replace('=', '-'))}" == EVALUATED
    commands = TRIALS["base"].commands
    options = " ".join(f"benchmark.{one}" for one in ("problems=4", "samples=2", "ks=[1,2]"))
    assert f"g2rl-eval run=runs/a {options}" in commands
    assert f"g2rl-eval samples=runs/a/eval/{EVALUATED}/samples.parquet" in commands


def test_every_kind_of_command_of_the_readme_is_tried() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    command = r"^\$ (?:\.venv/bin/)?(g2rl-(?:analyze \w+|\w+)|g2rl \w+)"
    kinds = set(re.findall(command, readme, re.MULTILINE))
    assert len(kinds) >= 8
    commands = [one for trial in TRIALS.values() for one in (*trial.commands, *trial.hub)]
    for kind in kinds:
        assert any(command.startswith(kind) for command in commands), kind


@pytest.mark.parametrize(
    ("stderr", "expected"),
    [
        ("error: cannot load model.source=Qwen/Qwen3: no network\n(traceback in x)", True),
        ("error: cannot load HuggingFaceH4/MATH-500 (split test) from the hub: ...", True),
        ("Traceback (most recent call last):\nOSError: cannot load", False),
        ("error: trainer.steps must be >= 1", False),
        ("", False),
    ],
)
def test_only_a_line_that_names_what_is_missing_passes_without_the_hub(
    stderr: str, expected: bool
) -> None:
    assert names_the_hub(stderr) is expected


def test_a_failure_is_told_with_its_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert line("peft", "g2rl-train", 0.0).startswith("ok ")
    assert line("peft", "g2rl-train", 0.0, "no module").startswith("FAILED peft")
    assert "no module" in capsys.readouterr().out
