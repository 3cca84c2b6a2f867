"""Verifiers that do on request what model output must never achieve. Importable, so workers can
load them."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

from g2rl.types import Problem, Verdict

PROBLEM = Problem("p", "", "good")
GOOD = ("good", PROBLEM)


def bad(what: str) -> tuple[str, Problem]:
    """An item that misbehaves as it says."""
    return what, PROBLEM


def count_forever() -> None:
    """Use CPU time until something ends it."""
    number = 0
    while True:
        number += 1


class Misbehaving:
    """Obeys its completion; anything else is right and answers with itself.

    "busy" is Python code, which an exception ends; "deaf" the same, but it drops the first
    exception; "spin" is a C call that no Python signal handler interrupts. "sleep", "crash",
    "segv", "hog", ... are what they say.
    """

    bounded = False

    def grade(self, completion: str, problem: Problem) -> Verdict:
        word = completion.partition(" ")[0]
        if word == "sleep":
            time.sleep(3600)
        elif word == "nap":
            time.sleep(0.6)
            return Verdict(False, word, "string")
        elif word in ("busy", "deaf"):
            if word == "deaf":
                with contextlib.suppress(BaseException):
                    count_forever()
            count_forever()
        elif word == "spin":
            sum(itertools.repeat(1, 10**13))
        elif word == "cpu":
            return Verdict(True, str(time.process_time()), "-")
        elif word == "crash":
            os._exit(3)
        elif word == "segv":
            os.kill(os.getpid(), signal.SIGSEGV)
        elif word == "hog":
            return Verdict(bool(bytearray(8 << 30)), "hog", "hog")
        elif word == "modules":
            return Verdict(
                True,
                " ".join(m for m in ("torch", "transformers", "pandas") if m in sys.modules),
                "-",
            )
        elif word == "pid":
            return Verdict(True, str(os.getpid()), "-")
        elif word == "raise":
            raise LookupError("a bug in a verifier")
        return Verdict(completion == problem.answer, completion, "string")

    def key(self, answer: str) -> str:
        return answer

    def equivalent(self, left: str, right: str) -> bool:
        if "busy" in (left, right):
            count_forever()
        return left.casefold() == right.casefold()


class Unstartable(Misbehaving):
    """Fails when a worker warms it up."""

    def warm_up(self) -> None:
        raise ImportError("its library is missing")


class Dying(Misbehaving):
    """Takes its worker down without a word when it is warmed up."""

    def warm_up(self) -> None:
        os._exit(3)


class WrongInMain(Misbehaving):
    """Refuses to be used in the process that made the grader."""

    def __init__(self) -> None:
        self.parent = os.getpid()

    def grade(self, completion: str, problem: Problem) -> Verdict:
        if os.getpid() == self.parent:
            raise AssertionError("an unbounded verifier ran in the calling process")
        return super().grade(completion, problem)


def worker_pids() -> list[int]:
    """Process ids of the living children."""
    return [child.pid for child in multiprocessing.active_children() if child.pid]


def peak_address_space_mb(pid: int) -> float:
    """The largest address space (MiB) that a process has had; 0 when it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    return next(
        (int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmPeak")),
        0.0,
    )
