"""Paired measurement: ours and a named peer in turns, in one run; ratios, never absolute claims.

Two cores that others share make absolute times meaningless, and drift within a minute. So each
repeat times both sides one after the other, in alternating order, and the figure is the median of
the repeats' ratios with their quartiles.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch


@dataclass(slots=True)
class Row:
    """One line of the results."""

    what: str
    against: str
    quantity: str
    ratio: float
    low: float
    high: float
    target: str
    """For example "<= 1.03"; "" for a line without a target."""
    note: str = ""

    @property
    def met(self) -> str:
        """Whether the target is met, as a cell of the table."""
        if not self.target:
            return ""
        sign, bound = self.target.split()
        return "yes" if (self.ratio <= float(bound)) == (sign == "<=") else "**no**"


def paired_times(
    ours: Callable[[], object], peer: Callable[[], object], repeats: int, warmup: int = 1
) -> tuple[list[float], list[float]]:
    """Seconds of each repeat of both sides."""
    for _ in range(warmup):
        ours()
        peer()

    # every other repeat begins with the peer
    seconds: dict[int, list[float]] = {0: [], 1: []}
    for repeat in range(repeats):
        sides = [(0, ours), (1, peer)]
        for place, run in sides if repeat % 2 == 0 else sides[::-1]:
            gc.collect()
            started = time.perf_counter()
            run()
            seconds[place].append(time.perf_counter() - started)
    return seconds[0], seconds[1]


def ratio_row(
    what: str,
    against: str,
    quantity: str,
    ours: Sequence[float],
    peer: Sequence[float],
    target: str,
    note: str = "",
) -> Row:
    """Median and quartiles of the paired ratios; of one or two, the smallest and the largest."""
    # quartiles of two numbers would lie outside of them
    ratios = [of_ours / of_peer for of_ours, of_peer in zip(ours, peer, strict=True)]
    low, high = min(ratios), max(ratios)
    if len(ratios) > 2:
        low, _, high = statistics.quantiles(ratios, n=4)
    note = note or f"{statistics.median(ours):.3g} s against {statistics.median(peer):.3g} s"
    return Row(what, against, quantity, statistics.median(ratios), low, high, target, note)


def peak_bytes(run: Callable[[], object]) -> int:
    """Bytes by which the process's resident memory rises at most during a call (Linux)."""
    # give free memory back, and set the high-water mark to what is resident now
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")

    before = _status("VmRSS")
    run()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    """A size of this process in bytes, such as VmRSS, as the kernel tells it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {name}: peak memory needs Linux")


def machine() -> str:
    """Processor, threads and versions, without the name of the machine."""
    processor = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            processor = line.partition(":")[2].strip()
            break
    return (
        f"{processor}, {os.cpu_count()} cores, {torch.get_num_threads()} torch threads, "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


def options(description: str, repeats: int) -> argparse.Namespace:
    """The command line of a comparison; `repeats` is its default."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--repeats", type=int, default=repeats)
    parser.add_argument("--json", type=Path, help="also write the rows there")
    return parser.parse_args()


def report(rows: Sequence[Row], json_path: Path | None = None) -> None:
    """Print the rows, and write them for `run_all.py`."""
    print(machine())
    for row in rows:
        print(
            f"{row.what} / {row.against}: {row.quantity} x {row.ratio:.3f} [{row.low:.3f}, "
            f"{row.high:.3f}]  target {row.target or '-'} {row.met}  ({row.note})"
        )
    if json_path is not None:
        json_path.write_text(json.dumps([asdict(row) for row in rows]), encoding="utf-8")
