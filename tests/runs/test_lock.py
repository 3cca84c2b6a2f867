"""One process at a time in a folder: every command that writes asks for the same lock."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from g2rl.analysis.comparison.choices import Choices
from g2rl.cli import grade, warmstart
from g2rl.cli.jobs.compare import compare
from g2rl.cli.jobs.evaluate import evaluate
from g2rl.cli.jobs.fidelity import fidelity
from g2rl.cli.jobs.geometry import geometry
from g2rl.runs.lock import LockError, alone_in
from tests.support import DATA, ROOT, composed, in_this_thread

HOLDER = (
    "import sys; from pathlib import Path; from g2rl.runs.lock import alone_in\n"
    "with alone_in(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
)


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which another process is at work."""
    folder = tmp_path_factory.mktemp("busy")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    yield folder
    holder.communicate("")


def test_every_command_that_writes_asks_for_the_lock(
    busy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = tmp_path / "cases.jsonl"
    cases.write_text(json.dumps({"kind": "math", "gold": "1", "prediction": "1"}) + "\n")

    for job, command in (
        (evaluate, "evaluate"),
        (geometry, "analyze_geometry"),
        (fidelity, "analyze_fidelity"),
    ):
        with pytest.raises(LockError, match="another process is at work"):
            job(composed(command=command), busy)
    with pytest.raises(LockError, match="another process is at work"):
        warmstart.main(["--out", str(busy), "--steps", "1"])
    with pytest.raises(SystemExit, match="2"):
        grade.main([str(cases), "--out", str(busy / "verdicts.jsonl")])
    assert "another process is at work" in capsys.readouterr().err
    assert [path.name for path in busy.iterdir()] == [".lock"]


def test_a_comparison_asks_for_the_lock(busy: Path) -> None:
    run = DATA / "run_741d26e" / "run"
    with pytest.raises(LockError, match="--out FOLDER"):
        compare([run], busy, Choices(partial=True))


def test_commands_of_one_process_refuse_torchrun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        for job, command in (
            (evaluate, "evaluate"),
            (geometry, "analyze_geometry"),
            (fidelity, "analyze_fidelity"),
        ):
            with pytest.raises(LockError, match="without torchrun"):
                job(composed(command=command), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_lock_whose_file_was_deleted_meanwhile_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the other process ends between our opening of the file and our locking of it
    opened = Path.open

    def open_and_lose(path: Path, *words: str) -> object:
        handle = opened(path, *words)
        path.unlink()
        return handle

    monkeypatch.setattr(Path, "open", in_this_thread(Path.open, open_and_lose))
    with pytest.raises(LockError), alone_in(tmp_path):
        pass


def test_a_removed_lock_leaves_no_file(tmp_path: Path) -> None:
    with alone_in(tmp_path, remove=True):
        assert (tmp_path / ".lock").exists()
    with alone_in(tmp_path):
        pass
    assert (tmp_path / ".lock").exists()
