"""Commands of g2rl as processes of their own that start in no time.

Importing torch and transformers costs some seconds of CPU time, several times as much as most of
the runs that the tests start. One process of a test session imports them once
(`multiprocessing`'s fork server), and each command is a fork of it. It has a process of its own,
its own environment, folder, arguments, signals and exit code, as a command from a shell has.

What is not the same: the hash seed, the thread settings that are read when torch is imported, and
Python's own start. Tests of those, and of what is imported at all, use `fresh=True`, which starts
Python anew.
"""

from __future__ import annotations

import atexit
import io
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from g2rl.cli.jobs import train as train_job
from tests.support import ROOT

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.preloaded"])


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
        reader, writer = SERVER.Pipe(duplex=False)
        arguments = (list(words), str(folder), dict(environment), writer, errors, figures)
        self._process = SERVER.Process(target=_become, args=arguments)
        self._process.start()
        writer.close()
        self.stdout: io.TextIOWrapper = open(  # noqa: SIM115 -- closed when it has been read
            os.dup(reader.fileno()), encoding="utf-8"
        )
        reader.close()

    @property
    def pid(self) -> int:
        """The number of the process."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Its exit code, minus a signal's number where one ended it; None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.returncode is None:
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

        timer = threading.Timer(timeout or 3600.0, end_it)
        timer.start()
        with self.stdout:
            output = self.stdout.read()
        self._process.join()
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
        output, _ = process.communicate(timeout=timeout)
        code = process.returncode
        assert code is not None
        return subprocess.CompletedProcess(list(words), code, output, errors.read())


def _environment(changes: Mapping[str, str | None]) -> dict[str, str]:
    """The tests' own environment with changes; the package is the repository's."""
    found = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **changes}
    return {name: value for name, value in found.items() if value is not None}


def _become(
    words: list[str],
    folder: str,
    environment: dict[str, str],
    output: Connection,
    errors: str | None,
    figures: bool,
) -> None:
    """Become the command: this runs in the forked process, and ends it."""
    # the streams, the folder and the environment of the command
    sys.stdout.flush()
    os.dup2(output.fileno(), 1)
    second = 1 if errors is None else os.open(errors, os.O_WRONLY)
    os.dup2(second, 2)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    output.close()
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    if "OMP_NUM_THREADS" in environment:  # which torch has read before
        torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
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
