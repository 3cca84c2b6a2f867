"""A worker process of a sweep: it stops when its sweep stops or dies, and takes turns on this
machine."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from g2rl.runs.interrupt import EXIT_INTERRUPTED, StopRequest, asked

WATCH_SECONDS = 0.5


@dataclass(slots=True, frozen=True)
class Home:
    """The process that runs a sweep: its id and host, the launcher, the folder of the sweep."""

    pid: int
    host: str
    launcher: str
    folder: Path

    @property
    def stop_file(self) -> Path:
        """There once this sweep's process was asked to stop; other sweeps may run in the same
        folder."""
        return self.folder / f".stop-{self.host}-{self.pid}"

    def is_here(self) -> bool:
        """Whether this is that process."""
        return os.getpid() == self.pid and socket.gethostname() == self.host

    def alive(self) -> bool:
        """Whether it lives, as far as this host can tell."""
        if socket.gethostname() != self.host:
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        return True


_request: StopRequest | None = None
_busy = False
_turn: IO[str] | None = None


def begin_arm(home: Home) -> None:
    """Let this process stop, after a complete step, by a signal, or when its sweep stops or is
    gone."""
    global _request, _busy
    _busy = True
    if _request is None:
        _request = StopRequest().__enter__()  # until the process ends
        if home.launcher != "submitit_slurm":  # whose jobs outlive the sweep's process
            threading.Thread(target=watch, args=(home, _request, os.getppid()), daemon=True).start()


def end_arm() -> None:
    global _busy
    _busy = False


def watch(home: Home, stop: StopRequest, parent: int) -> None:
    """Ask `stop` as soon as the sweep's process was asked or has died; a thread, once in a worker.

    Without its sweep a worker ends when it has saved: nobody will give it another arm, and it would
    wait.
    """
    # a thread that lives as long as its process
    while True:
        orphaned = os.getppid() != parent or not home.alive()
        if orphaned or home.stop_file.exists():
            stop.remember(signal.SIGTERM)
        if orphaned and not _busy:
            os._exit(EXIT_INTERRUPTED)
        time.sleep(WATCH_SECONDS)


def take_turn(folder: Path, places: int) -> None:
    """Wait for one of `places` places in the sweep, kept until this process ends, and its share of
    the cores.

    Returns without one when the sweep is asked to stop. To be called before torch is imported.
    """
    global _turn

    # the arms of one machine share its cores
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    os.environ.setdefault("OMP_NUM_THREADS", str(max(cores // places, 1)))

    # a place is a locked file: the system frees it when its holder ends
    while not asked():
        for number in range(places):
            handle = (folder / f".place{number}").open("a")
            try:
                fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                handle.close()
            else:
                _turn = handle
                return
        time.sleep(WATCH_SECONDS)
