"""Ctrl-C while a command still imports: one line and code 130, then Python's own again."""

from __future__ import annotations

import signal
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from g2rl.cli import main
from g2rl.cli.ctrl_c import quiet_ctrl_c, work_begins
from g2rl.runs.interrupt import StopRequest
from tests import commands
from tests.support import ROOT

SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
STRUCK = """
import os, signal, sys

# a shell lets what it runs in the background ignore Ctrl-C, and the tests too
signal.signal(signal.SIGINT, signal.default_int_handler)

class Striking:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

# the commands of the tests have imported all of this before
for name in list(sys.modules):
    if name.partition(".")[0] in ("g2rl", {module!r}):
        del sys.modules[name]
sys.meta_path.insert(0, Striking())
from g2rl.cli.main import {function}
sys.exit({function}())
"""
"""What a script does, with Ctrl-C when it begins to import a module."""
MOMENTS = [
    ("g2rl-train", "g2rl.cli.train", []),
    ("g2rl-train", "torch", []),
    ("g2rl-train", "g2rl.cli.jobs.train", []),
    ("g2rl-analyze", "torch", ["geometry"]),
    ("g2rl-report", "g2rl.cli.jobs.report", ["runs"]),
    ("g2rl-grade", "g2rl.tasks.grading.grader", ["cases", "--out", "out"]),
    ("g2rl-bench", "hydra", ["table"]),
    ("g2rl", "g2rl.cli.jobs.export", ["export", "run", "out=there"]),
    ("g2rl", "hydra", ["--version"]),
]
"""Script, the module that it is about to import, and what was typed behind its name."""


@pytest.mark.parametrize(("script", "module", "words"), MOMENTS)
def test_ctrl_c_during_imports_is_one_line(
    script: str, module: str, words: list[str], tmp_path: Path
) -> None:
    function = SCRIPTS[script].partition(":")[2]
    program = STRUCK.format(module=module, function=function)
    # Python's own start is the same before all of them
    done = commands.run(["-c", program, *words], tmp_path, fresh=script == "g2rl-grade")
    assert done.stderr == "\ninterrupted before anything began\n"
    assert done.stdout == ""
    assert done.returncode == 130


def test_every_script_starts_where_ctrl_c_is_answered() -> None:
    assert len(SCRIPTS) == 1 + len(main.COMMANDS)
    for name, target in SCRIPTS.items():
        module, _, function = target.partition(":")
        assert module == main.__name__, f"{name} starts in {module}, whose imports come first"
        assert callable(getattr(main, function))


@pytest.fixture
def before() -> Iterator[Any]:
    """Python's own handler, also where the tests run in the background."""
    outside = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    signal.signal(signal.SIGINT, outside)


def test_work_may_be_interrupted_as_ever(before: Any) -> None:
    with quiet_ctrl_c():
        assert signal.getsignal(signal.SIGINT) is not before
        with quiet_ctrl_c():
            work_begins()
        assert signal.getsignal(signal.SIGINT) is before

        # what remembers a handler gives this one back
        with StopRequest():
            assert signal.getsignal(signal.SIGINT) is not before
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_handler_of_somebody_else_stays() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with quiet_ctrl_c():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
