"""Signals: the first asks, the second ends, handlers are given back."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from torch import distributed as dist

from g2rl.runs.interrupt import Interrupted, StopRequest
from tests import commands
from tests.support import ROOT


def rank_asks(rank: int, rendezvous: str, folder: str) -> None:
    """One of two gloo processes; only rank 1 is signalled."""
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    with StopRequest() as stop:
        answers = [stop()]
        if rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        answers.append(stop())
    Path(folder, str(rank)).write_text(repr(answers))
    dist.destroy_process_group()


def test_all_ranks_stop_after_the_same_step_though_one_is_signalled(tmp_path: Path) -> None:
    load = "from tests.runs.test_interrupt import rank_asks"
    place, folder = str(tmp_path / "rendezvous"), str(tmp_path)
    ranks = []
    for rank in range(2):
        program = f"{load}; rank_asks({rank}, {place!r}, {folder!r})"
        ranks.append(commands.start(["-c", program], tmp_path))
    said = [process.communicate(timeout=60)[0] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], said
    answers = {(tmp_path / str(rank)).read_text() for rank in range(2)}
    assert answers == {f"[None, {int(signal.SIGTERM)}]"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_remembered_and_the_second_has_its_default(number: int) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with StopRequest() as stop:
        assert stop() is None
        os.kill(os.getpid(), number)
        assert stop() == number
        assert signal.getsignal(signal.SIGTERM) == signal.getsignal(signal.SIGINT) == signal.SIG_DFL
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_second_signal_ends_the_process_even_inside_a_c_call() -> None:
    program = (
        "import itertools\nfrom g2rl.runs.interrupt import StopRequest\n"
        "with StopRequest():\n"
        "    import os, signal; os.kill(os.getpid(), signal.SIGINT)\n"
        "    print('asked', flush=True)\n"
        "    sum(itertools.repeat(1, 10**13))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "asked\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == -signal.SIGTERM


def test_outside_the_main_thread_nothing_is_asked() -> None:
    found = []

    def enter() -> None:
        with StopRequest() as stop:
            found.append(stop())

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [None]


def test_the_message_says_what_is_saved() -> None:
    assert "SIGTERM after step 3, which is saved" in str(Interrupted(3, signal.SIGTERM))


def test_a_terminal_has_its_cursor_when_a_second_signal_has_ended_the_process() -> None:
    program = (
        "import os, signal, time\nfrom g2rl.runs.interrupt import StopRequest\n"
        "os.write(1, b'\\x1b[?25l')\n"
        "with StopRequest():\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
    )
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", program], env=environment, stdout=theirs, stderr=subprocess.DEVNULL
    ) as process:
        assert process.wait(timeout=60) == -signal.SIGINT
    os.close(theirs)
    shown = os.read(ours, 4096).decode()
    os.close(ours)
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")
