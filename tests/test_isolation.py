"""No test depends on what ran before it in its process, or on other threads there."""

from __future__ import annotations

import ast
import os
import random
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.core.hydra_config import HydraConfig

from tests.support import ROOT, composed, in_this_thread

FILES = sorted((ROOT / "tests").rglob("*.py"))
NO_FUNCTIONS = {
    ("sys", "argv"),
    ("sys", "path"),
    ("tempfile", "tempdir"),
}
"""What is read rather than called, and only by what is tested."""
FOR_ALL_THREADS = {
    # the pool starts its workers in a thread of its own
    ("tests/tasks/grading/test_grader.py", "get_preparation_data"),
}


@pytest.mark.parametrize("time", ["first", "second"])
def test_a_test_finds_nothing_of_an_earlier_one(time: str, tmp_path: Path) -> None:
    """Whichever comes first leaves everything that the other one looks for."""
    assert "G2RL_LEFT_BEHIND" not in os.environ
    assert "left_behind" not in sys.modules
    assert not HydraConfig.initialized()
    drawn = [random.random(), np.random.rand(), torch.rand(()).item()]
    assert drawn == pytest.approx([0.844422, 0.548814, 0.496257], abs=1e-6)

    # a variable, a module beside its test, and the configuration of a command
    os.environ["G2RL_LEFT_BEHIND"] = time
    (tmp_path / "left_behind.py").write_text(f"time = {time!r}")
    sys.path.insert(0, str(tmp_path))
    import left_behind  # type: ignore[import-not-found]

    assert left_behind.time == time
    HydraConfig.instance().set_config(composed(with_hydra=True))


def test_what_is_replaced_in_one_thread_is_as_it_was_in_others() -> None:
    found: list[str] = []
    asked = in_this_thread(lambda: "as it was", lambda: "replaced")
    thread = threading.Thread(target=lambda: found.append(asked()))
    thread.start()
    thread.join()
    assert (asked(), found) == ("replaced", ["as it was"])


def replaced(tree: ast.Module) -> Iterator[tuple[str, str, ast.expr]]:
    """Functions of Python's own library that a file replaces: where they are, their names, and by
    what."""
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call) or not ast.unparse(call.func).endswith(".setattr"):
            continue

        # either the place and a name in it, or both in one text
        *places, name, value = call.args
        if not isinstance(name, ast.Constant):
            continue
        owner, attribute = ast.unparse(places[0]) if places else "", str(name.value)
        if not places:
            owner, _, attribute = attribute.rpartition(".")
        if owner == "Path" or owner.split(".")[0] in sys.stdlib_module_names:
            yield owner, attribute, value


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT / "tests")))
def test_functions_of_python_are_replaced_in_one_thread_only(path: Path) -> None:
    """A pool's thread sleeps, a service's thread writes and connects, while a test runs."""
    for owner, attribute, value in replaced(ast.parse(path.read_text(encoding="utf-8"))):
        if (owner, attribute) in NO_FUNCTIONS:
            continue
        if (str(path.relative_to(ROOT)), attribute) in FOR_ALL_THREADS:
            continue
        assert ast.unparse(value).startswith("in_this_thread("), (
            f"{path}: {owner}.{attribute} is replaced for every thread; wrap it in in_this_thread"
        )
