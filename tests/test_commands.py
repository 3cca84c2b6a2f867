"""The server that commands are forked from: no fork goes on in the code of those who asked for it,
and no timer outlives the wait that it belongs to."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from tests import commands


class Interrupted:
    """An output at which Ctrl-C is pressed while it is read."""

    def __enter__(self) -> Interrupted:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def read(self) -> str:
        """Read in vain."""
        raise KeyboardInterrupt


def fail() -> None:
    raise ValueError("in a fork")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # a fork beside the threads of xdist
def test_an_error_does_not_leave_its_fork(tmp_path: Path) -> None:
    ends = tmp_path / "ends"
    ours = os.getpid()
    try:
        pid = commands._fork(fail)
    finally:
        with ends.open("a") as handle:
            handle.write(f"{os.getpid()}\n")
        if os.getpid() != ours:  # else a second pytest would go on
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == commands.LOST
    assert ends.read_text() == f"{ours}\n"


def test_a_command_that_cannot_start_says_so_and_the_next_one_starts(tmp_path: Path) -> None:
    ended = commands.run(["-c", "print('never')"], tmp_path / "absent")
    assert (ended.returncode, ended.stdout) == (commands.LOST, "")
    assert ended.stderr.splitlines()[-1].startswith("FileNotFoundError: ")
    assert commands.run(["-c", "print('here')"], tmp_path).stdout == "here\n"


def test_an_interrupted_wait_leaves_no_timer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set(threading.enumerate())
    process = commands.start(["-c", "import time; time.sleep(60)"], tmp_path)
    with monkeypatch.context() as patch, process.stdout or open(os.devnull):
        patch.setattr(process, "stdout", Interrupted())
        with pytest.raises(KeyboardInterrupt):
            process.communicate(timeout=50)
    process.kill()
    assert process.wait() == -9
    started = set(threading.enumerate()) - before
    for timer in (thread for thread in started if isinstance(thread, threading.Timer)):
        timer.join(45)  # one that was cancelled is about to end
        assert not timer.is_alive()


def test_a_command_ends_with_the_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[commands.Command] = []

    def interrupt(self: commands.Command, timeout: float | None = None) -> tuple[str, None]:
        seen.append(self)
        raise KeyboardInterrupt

    monkeypatch.setattr(commands.Command, "communicate", interrupt)
    with pytest.raises(KeyboardInterrupt):
        commands.run(["-c", "import time; time.sleep(60)"], tmp_path)
    with seen[0].stdout:
        assert seen[0].wait() == -9


def test_a_command_leaves_what_the_tests_remove_at_their_end(tmp_path: Path) -> None:
    """With xdist, W&B is imported before commands are forked, and has a folder for all tests."""
    media = pytest.importorskip("wandb.sdk.data_types._private").MEDIA_TMP
    program = "import weakref; print([one for one in weakref.finalize._registry if one.atexit])"
    assert commands.run(["-c", program], tmp_path).stdout == "[]\n"
    assert Path(media.name).is_dir()
