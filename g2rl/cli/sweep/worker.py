"""A worker process of a sweep: it stops when its sweep stops or dies, and waits for its turn."""

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
        """It exists once this sweep was asked to stop. Other sweeps may run in the same folder."""
        return self.folder / f".stop-{self.host}-{self.pid}"

    def is_here(self) -> bool:
        """Whether this is that process."""
        return os.getpid() == self.pid and socket.gethostname() == self.host

    def alive(self) -> bool:
        """Whether that process lives, as far as this host can tell."""
        if socket.gethostname() != self.host:
            return True

        # signal 0 does nothing but fail where there is no such process
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        return True


@dataclass(slots=True)
class Worker:
    """What a worker process holds until it ends; launchers give it one arm after another."""

    request: StopRequest | None = None
    is_busy: bool = False
    """Whether an arm is running."""
    place: IO[str] | None = None
    """The locked file of its place in the sweep; see `take_turn`."""


_this_worker = Worker()


def begin_arm(home: Home) -> None:
    """Let this process stop after a complete step: by a signal, or when its sweep stops or dies."""
    _this_worker.is_busy = True
    if _this_worker.request is not None:
        return

    # the first arm of this process
    request = StopRequest().__enter__()  # until the process ends
    _this_worker.request = request
    if home.launcher != "submitit_slurm":  # whose jobs outlive the sweep's process
        threading.Thread(target=watch, args=(home, request, os.getppid()), daemon=True).start()


def end_arm() -> None:
    """An arm has ended; without its sweep this process may end now."""
    _this_worker.is_busy = False


def watch(home: Home, stop: StopRequest, parent: int) -> None:
    """Ask this worker to stop as soon as the sweep's process was asked to, or has died.

    Runs in a thread for as long as the process. A worker whose sweep is gone ends when it has
    saved, because nobody will give it another arm and it would wait for ever.

    Args:
        home: the sweep's process.
        stop: the worker's request.
        parent: process that started the worker; another one takes over when it dies.
    """
    while True:
        orphaned = os.getppid() != parent or not home.alive()
        if orphaned or home.stop_file.exists():
            stop.remember(signal.SIGTERM)
        if orphaned and not _this_worker.is_busy:
            os._exit(EXIT_INTERRUPTED)
        time.sleep(WATCH_SECONDS)


def take_turn(folder: Path, places: int) -> None:
    """Wait for one of `places` places in the sweep, which this process keeps until it ends.

    Returns without a place when the sweep is asked to stop. Also sets this process's share of the
    cores, so it is to be called before torch is imported.
    """
    # the arms of one machine share its cores
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        cores = len(os.sched_getaffinity(0))
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
                _this_worker.place = handle
                return
        time.sleep(WATCH_SECONDS)
