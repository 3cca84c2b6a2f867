"""What the scripts of `speed/` share still fits the trainer; `make bench` itself takes minutes."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

SPEED = ROOT / "speed"
SCRIPTS = sorted(path.stem for path in SPEED.glob("*.py"))


@pytest.fixture(autouse=True)
def beside_scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scripts import each other by bare names, as they do when they are run."""
    monkeypatch.syspath_prepend(str(SPEED))
    for name in SCRIPTS:
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_finds_what_it_imports(name: str) -> None:
    module = importlib.import_module(name)
    assert Path(str(module.__file__)).parent == SPEED


def test_replayed_rollouts_are_the_same_in_every_step() -> None:
    builder = importlib.import_module("builder")
    trainer = builder.make_trainer(
        "exploration=g2rl",
        "trainer.prompts_per_step=4",
        "trainer.group_size=8",
        "optimizer.mini_batches=1",
        "optimizer.lr=1e-2",
        "task.max_response_tokens=48",
    )
    rollouts = builder.replay(trainer, 1)
    first, second = trainer.step(1), trainer.step(2)

    # the weights have changed, and what is learned from has not
    assert trainer.step.sampler(7) is rollouts
    assert first["train/length"] == second["train/length"]
    assert first["update/grad_norm"] != second["update/grad_norm"]


def test_rows_of_one_script_take_the_place_of_its_earlier_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_all = importlib.import_module("run_all")
    results = tmp_path / "RESULTS.md"
    text = (SPEED / "RESULTS.md").read_text(encoding="utf-8")
    results.write_text(text, encoding="utf-8")
    monkeypatch.setattr(run_all, "RESULTS", results)

    # the same rows again change nothing
    rows = [row for row in text.splitlines() if "`speed/evaluation.py`" in row]
    run_all.replace_rows("evaluation", rows)
    assert results.read_text(encoding="utf-8") == text

    # others stand where the earlier ones stood
    run_all.replace_rows("evaluation", ["| new | `speed/evaluation.py`: a note |"])
    lines = results.read_text(encoding="utf-8").splitlines()
    [place] = [number for number, row in enumerate(lines) if "`speed/evaluation.py`" in row]
    assert "`speed/group_geometry.py`" in lines[place - 1]
    assert "`speed/startup.py`" in lines[place + 1]
    assert len(lines) == len(text.splitlines()) - len(rows) + 1


def test_the_page_about_cost_repeats_the_ratios_of_the_results() -> None:
    """After another `make bench` the sentences of docs/cost.md are to be written anew."""
    ratio: dict[tuple[str, str], str] = {}
    for line in (SPEED / "RESULTS.md").read_text(encoding="utf-8").splitlines():
        row = re.match(r"\| (.+?) \| .+? \| (.+?) \| \*\*([\d.]+)\*\*", line)
        if row is not None:
            ratio[row[1], row[2]] = f"{float(row[3]) + 1e-9:.2f}"
    assert len(ratio) > 20

    # prompts that stand once for their group
    page = " ".join((ROOT / "docs/cost.md").read_text(encoding="utf-8").split())
    found = re.search(
        r"scoring takes (\S+) and an update (\S+) of the time .*? G = 8, and (\S+) and (\S+) for "
        r"rows like .*? an update takes (\S+) of the time and (\S+) of the memory",
        page,
    )
    assert found is not None
    rows = [
        ("scoring, few-shot rows", "time"),
        ("update, few-shot rows", "time"),
        ("scoring, the tiny policy's rows", "time"),
        ("update, the tiny policy's rows", "time"),
        ("update, long prompts", "time"),
        ("update, long prompts", "peak memory"),
    ]
    assert list(found.groups()) == [ratio[row] for row in rows]
