"""Commands of g2rl as processes of their own that start in no time.

Importing torch and transformers costs some seconds of CPU time, several times as much as most of
the runs that the tests start. The process that runs the tests has imported them anyway: before
its first test it forks a server, which stays as it was then, and each command is a fork of that. It
has a process of its own, its own environment, folder, arguments, signals and exit code, as a
command from a shell has.

What is not the same: the hash seed, the thread settings that are read when torch is imported,
Python's own start, and that Hydra remembers what it has composed, see `tests.remembered`. Tests of
those, and of what is imported at all, use `fresh=True`, which starts Python anew.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import functools
import io
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import types
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from g2rl.cli.jobs import train as train_job
from tests import preloaded  # every command finds it done
from tests.support import ROOT

NUMBER = 4
"""Bytes of a process number or an exit code on the way from the server."""
LOST = 70
"""Exit code of a fork that could not do what it was made for, as sysexits.h has it."""


class Command:
    """A command under way; the part of `subprocess.Popen` that the tests use.

    Attributes:
        stdout: What it prints, both streams in one unless `errors` takes the second.
    """

    def __init__(
        self,
        words: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        errors: str | None = None,
        figures: bool = False,
    ) -> None:
        reader, writer = os.pipe()
        self._channel, theirs = socket.socketpair()
        socket.send_fds(server(), [b"."], [theirs.fileno(), writer])
        theirs.close()
        os.close(writer)

        # what the server's fork waits for, and its answer
        request = [list(words), str(folder), dict(environment), errors, figures]
        self._channel.sendall(json.dumps(request).encode())
        self._channel.shutdown(socket.SHUT_WR)
        self._pid = _number(self._channel)
        self._exit_code: int | None = None
        self.stdout: io.TextIOWrapper = open(  # noqa: SIM115 -- closed when it has been read
            reader, encoding="utf-8"
        )

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._pid

    @property
    def returncode(self) -> int | None:
        """Its exit code, minus a signal's number where one ended it; None while it runs."""
        if self._exit_code is None and select.select([self._channel], [], [], 0)[0]:
            self.wait()
        return self._exit_code

    def wait(self) -> int:
        """Wait for its end; returns its exit code."""
        if self._exit_code is None:
            self._exit_code = _number(self._channel)
            self._channel.close()
        return self._exit_code

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # it has ended since
                os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """Wait for its end; returns what it printed since it was last read.

        Raises:
            subprocess.TimeoutExpired: It took longer than `timeout` seconds, and was killed.
        """
        too_late = threading.Event()

        def end_it() -> None:
            too_late.set()
            self.kill()

        # whoever interrupts the reading shall not wait for the timer at the end of the tests
        timer = threading.Timer(timeout or 3600.0, end_it)
        timer.daemon = True
        timer.start()
        try:
            with self.stdout:
                output = self.stdout.read()
            self.wait()
        finally:
            timer.cancel()
        if too_late.is_set():
            raise subprocess.TimeoutExpired("a command", timeout or 3600.0, output)
        return output, None


Running = Command | subprocess.Popen[str]
"""A command under way, forked or started anew."""


def start(
    words: Sequence[str],
    folder: Path,
    fresh: bool = False,
    figures: bool = False,
    **changes: str | None,
) -> Running:
    """Start Python with arguments: `-m MODULE ...`, `-c PROGRAM ...` or `FILE ...`.

    Args:
        words: What would stand behind `python` in a shell.
        folder: Where the command runs.
        fresh: Start Python anew, instead of forking a process that has torch already.
        figures: Let a training run draw its figures, which take a quarter of the time of a smoke
            run. A fresh process draws them in any case.
        changes: What differs from the tests' own environment; None removes a variable.

    Returns:
        The process; both its streams are in `stdout`.
    """
    variables = _environment(changes)
    if not fresh:
        return Command(words, folder, variables, figures=figures)
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=folder,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(
    words: Sequence[str],
    folder: Path,
    fresh: bool = False,
    timeout: float = 240,
    figures: bool = False,
    **changes: str | None,
) -> subprocess.CompletedProcess[str]:
    """Run Python with arguments to its end, with its two streams apart; see `start`.

    Raises:
        subprocess.TimeoutExpired: It took longer than `timeout` seconds.
    """
    variables = _environment(changes)
    if fresh:
        return subprocess.run(
            [sys.executable, *words],
            cwd=folder,
            env=variables,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )

    # a file takes the second stream, however much is written before it is read
    with tempfile.NamedTemporaryFile("r", encoding="utf-8") as errors:
        process = Command(words, folder, variables, errors.name, figures)
        try:
            output, _ = process.communicate(timeout=timeout)
        except BaseException:  # as `subprocess.run` does: nobody is left who would end it
            process.kill()
            raise
        code = process.returncode
        assert code is not None
        return subprocess.CompletedProcess(list(words), code, output, errors.read())


def _environment(changes: Mapping[str, str | None]) -> dict[str, str]:
    """The tests' own environment with changes; the package is the repository's."""
    found = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **changes}
    return {name: value for name, value in found.items() if value is not None}


@functools.cache
def server() -> socket.socket:
    """The line to the process that commands are forked from; the first call makes that process.

    `conftest.py` calls it before the first test, so that no command finds what a test has changed.
    It ends with this process.
    """
    ours, theirs = socket.socketpair()
    with warnings.catch_warnings():
        # Python warns of forks beside threads, and the threads here are those that xdist reads with
        warnings.simplefilter("ignore", DeprecationWarning)
        _fork(lambda: _serve(theirs))
    theirs.close()
    return ours


def _fork(work: Callable[[], None]) -> int:
    """Fork a process that does one thing and ends, whatever happens; returns its number.

    An error must not leave `work`: it would unwind into the code of those who asked for the fork,
    which would go on there as a second pytest and remove the files of the first.
    """
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(LOST)
    return pid


def _serve(requests: socket.socket) -> None:
    """Fork a process for each command until nobody can ask for one."""
    _forget_pytest()
    os.closerange(3, requests.fileno())
    os.closerange(requests.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    waiting: set[int] = set()
    while True:
        asked, numbers, _, _ = socket.recv_fds(requests, 1, 2)
        if not asked:
            os._exit(0)

        # a fork waits for the command and tells its exit code
        pid = _fork(functools.partial(_watch, requests, *numbers))
        for number in numbers:
            os.close(number)

        # those that have told theirs
        waiting.add(pid)
        waiting = {one for one in waiting if os.waitpid(one, os.WNOHANG) == (0, 0)}


def _forget_pytest() -> None:
    """Take back what pytest has put into the interpreter, and what was put off to the end of its
    process, none of which a command shall meet."""
    faulthandler.disable()
    sys.meta_path[:] = [
        finder for finder in sys.meta_path if "pytest" not in type(finder).__module__
    ]
    sys.unraisablehook = sys.__unraisablehook__
    threading.excepthook = threading.__excepthook__
    sys.modules["__main__"] = types.ModuleType("__main__")

    # torch takes its operators back one by one at the end of a process, which takes 0.03 s; what is
    # made from here on is finalized as ever
    for finalizer in list(weakref.finalize._registry):
        finalizer.atexit = False
    for function in preloaded.AT_THE_END:
        atexit.unregister(function)


def _watch(requests: socket.socket, channel_number: int, output: int) -> None:
    """Fork the command and tell its process number, then its exit code."""
    requests.close()
    channel = socket.socket(fileno=channel_number)
    with channel.makefile("rb") as lines:
        request = json.loads(lines.read())
    pid = _fork(functools.partial(_become, channel, *request, output=output))
    os.close(output)
    channel.sendall(pid.to_bytes(NUMBER, "big", signed=True))
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    with contextlib.suppress(BrokenPipeError):  # nobody wants to know
        channel.sendall(code.to_bytes(NUMBER, "big", signed=True))
    os._exit(0)


def _number(channel: socket.socket) -> int:
    """The next number that the server tells."""
    told = channel.recv(NUMBER, socket.MSG_WAITALL)
    assert len(told) == NUMBER, "the server of the commands has ended"
    return int.from_bytes(told, "big", signed=True)


def _become(
    channel: socket.socket,
    words: list[str],
    folder: str,
    environment: dict[str, str],
    errors: str | None,
    figures: bool,
    output: int,
) -> None:
    """Become the command: this runs in the forked process, and ends it."""
    # the streams, the folder and the environment of the command
    channel.close()
    sys.stdout.flush()
    os.dup2(output, 1)
    second = 1 if errors is None else os.open(errors, os.O_WRONLY)
    os.dup2(second, 2)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(output)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)

    # torch has read the variable before; and it repairs the thread pool of a forked process at its
    # first use, which breaks if several threads come first, as when transformers reads weights
    torch.set_num_threads(int(environment.get("OMP_NUM_THREADS", torch.get_num_threads())))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if not figures:
        train_job.plot_run = lambda run_dir, benchmarks: []

    # what Python itself does with its arguments; and a pool of the command's own starts anew
    code = 1
    try:
        _interpret(words, environment)
        code = 0
    except SystemExit as end:
        code = _exit_code(end)
    except BaseException:  # as Python does: the traceback on the second stream, and 1
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _interpret(words: list[str], environment: Mapping[str, str]) -> None:
    """Run a module, a program or a file, as Python's own command line does."""
    extra = [path for path in environment["PYTHONPATH"].split(os.pathsep) if path]
    kind, *rest = words
    if kind == "-m":
        sys.path[:0] = [os.getcwd(), *extra]
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.path[:0] = ["", *extra]
        program, *arguments = rest
        sys.argv = ["-c", *arguments]
        exec(compile(program, "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.path[:0] = [str(Path(kind).resolve().parent), *extra]
        sys.argv = words
        runpy.run_path(kind, run_name="__main__")


def _exit_code(end: SystemExit) -> int:
    """The number that Python makes of `sys.exit(...)`."""
    if end.code is None:
        return 0
    if isinstance(end.code, int):
        return end.code
    print(end.code, file=sys.stderr)
    return 1
