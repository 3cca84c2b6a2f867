"""The wheel: conf/ and the small policies inside, usable from any folder."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import commands
from tests.support import ROOT, unpacked_wheel

OPTIONAL = {"trl": "g2rl.integrations.trl", "verl": "g2rl.integrations.verl"}
"""Modules that import a library which g2rl does not install."""


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's content, as an installation lays it out."""
    return unpacked_wheel(tmp_path_factory.mktemp("wheel"))


def test_everything_a_run_needs_is_inside(unpacked: Path) -> None:
    for name in (
        "conf/train.yaml",
        "conf/exploration/g2rl.yaml",
        "assets/tiny/model.safetensors",
        "assets/tiny/tokenizer.json",
        "assets/detour/model.safetensors",
        "assets/forked_skills/model.safetensors",
        "assets/countdown_hard/problems.json",
        "analysis/report/assets/report.html.j2",
        "analysis/report/assets/report.css",
        "analysis/report/assets/report.js",
    ):
        assert (unpacked / "g2rl" / name).is_file(), name

    # each policy is small, and so are all of them together
    sizes: list[int] = []
    for folder in (unpacked / "g2rl" / "assets").iterdir():
        sizes.append(sum(path.stat().st_size for path in folder.iterdir()))
    assert max(sizes) < 4e6
    assert sum(sizes) < 4e6
    assert not (unpacked / "tests").exists()


def test_every_module_is_inside_and_can_be_imported(unpacked: Path, tmp_path: Path) -> None:
    """A rule of .gitignore that is too broad (`runs/`) takes a whole package out of the wheel."""
    paths = [path.relative_to(ROOT) for path in sorted((ROOT / "g2rl").rglob("*.py"))]
    absent = [str(path) for path in paths if not (unpacked / path).is_file()]
    assert not absent, f"not in the wheel: {absent}"

    # from a folder of its own, so that nothing is taken from this checkout; other libraries are
    # there already
    names = [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in paths]
    for library, module in OPTIONAL.items():
        if importlib.util.find_spec(library) is None:
            names.remove(module)
    program = (
        "import importlib, sys\n"
        "for name in list(sys.modules):\n"
        "    if name.split('.')[0] in ('g2rl', 'tests'):\n"
        "        del sys.modules[name]\n"
        "for name in sys.argv[2:]:\n"
        "    module = importlib.import_module(name)\n"
        "    assert module.__file__.startswith(sys.argv[1]), module.__file__\n"
    )
    words = ["-c", program, str(unpacked), *names]
    result = commands.run(words, tmp_path, PYTHONPATH=str(unpacked))
    assert result.returncode == 0, result.stderr


def test_the_command_works_from_another_folder(unpacked: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(unpacked)}
    program = (
        "import g2rl.cli.config.launch as c, g2rl.cli.train as t; "
        "assert 'site' in str(c.config_dir()), c.config_dir(); t.main()"
    )
    command = [sys.executable, "-c", program, "--cfg", "job", "--resolve"]
    result = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert "builtin:tiny" in result.stdout
