"""Where the time of a run goes: seconds, operations, memory and padding of each stage, and a trace.

The first step of the process warms up and is not counted. The steps behind it are traced with
torch's profiler, as many as were asked for. All later time is counted: every moment up to the end
of the run belongs to the stage that a lap has ended with it, or to the rest. Nothing here draws a
random number or touches a tensor of the run, so the training is that of a run without profile.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from g2rl.runs.files import atomic_path
from g2rl.training.work import Work, WorkMeter

REST = "rest"
"""The stage of what no lap claims: writing rows and checkpoints, pushing weights at the start."""
FORWARDS_TRACED = 64
"""Forwards of a stage from which on nothing more of the stage is traced, which bounds the file."""


class Profiler(Protocol):
    """Is told when a step begins and ends, and which stage has just ended."""

    def step(self) -> AbstractContextManager[None]:
        """Around a training step."""
        ...

    def lap(self, stage: str) -> None:
        """What was done since the last lap belongs to this stage."""
        ...

    def close(self) -> None:
        """Stop watching, whatever has happened."""
        ...


class NoProfile:
    """Watches nothing."""

    @contextmanager
    def step(self) -> Iterator[None]:
        yield

    def lap(self, stage: str) -> None:
        pass

    def close(self) -> None:
        pass


@dataclass(slots=True)
class Stage:
    """What one stage came to."""

    seconds: float = 0.0
    work: Work = field(default_factory=Work)
    peak_bytes: int | None = None
    """The most memory during the stage; None where it cannot be known."""

    def add(self, seconds: float, work: Work, peak_bytes: int | None) -> None:
        """Add a lap."""
        self.seconds += seconds
        self.work.add(work)
        if peak_bytes is not None:
            self.peak_bytes = max(peak_bytes, self.peak_bytes or 0)


class PeakMemory:
    """The peak of memory since it was last asked for.

    On a GPU it is what torch has allocated there; elsewhere what the process has resident, which
    Linux alone tells.

    Args:
        device: of the policy.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    @property
    def kind(self) -> str:
        """What is measured, in words."""
        if self.device.type == "cuda":
            return "allocated on the GPU"
        return "resident in the process"

    def take(self) -> int | None:
        """Bytes at the peak since the last call, which begins a new peak; None if unknown."""
        if self.device.type == "cuda":
            peak = int(torch.cuda.max_memory_allocated(self.device))
            torch.cuda.reset_peak_memory_stats(self.device)
            return peak
        try:
            status = Path("/proc/self/status").read_text(encoding="ascii")
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        except OSError:
            return None
        facts = dict(line.split(":", 1) for line in status.splitlines())
        return int(facts["VmHWM"].split()[0]) << 10


class Trace:
    """A Chrome trace of a few steps, bounded in size; chrome://tracing and Perfetto show it.

    Of a stage with more than `FORWARDS_TRACED` forwards, what comes after these is left out. A mark
    named `end of STAGE` stands where a stage ends.

    Args:
        file: where it is written, gzipped.
        cuda: whether kernels of a GPU are traced too.
    """

    def __init__(self, file: Path, cuda: bool) -> None:
        self.file = file
        self.activities = [ProfilerActivity.CPU]
        if cuda:
            self.activities.append(ProfilerActivity.CUDA)
        self._profile: profile | None = None
        self._forwards = 0
        self._is_paused = False

    def start(self) -> None:
        """Begin to trace."""
        self._profile = profile(activities=self.activities)
        self._profile.start()
        self._forwards, self._is_paused = 0, False

    @property
    def runs(self) -> bool:
        """Whether a trace is under way."""
        return self._profile is not None

    def forward(self) -> None:
        """A forward begins; after many of them in one stage, the trace pauses."""
        self._forwards += 1
        if self._profile is None or self._is_paused or self._forwards <= FORWARDS_TRACED:
            return
        self._profile.toggle_collection_dynamic(False, self.activities)
        self._is_paused = True

    def mark(self, stage: str) -> None:
        """A stage ends; the next one is traced from its beginning."""
        self._forwards = 0
        if self._profile is None:
            return
        if self._is_paused:
            self._profile.toggle_collection_dynamic(True, self.activities)
            self._is_paused = False
        with record_function(f"end of {stage}"):
            pass

    def stop(self, keep: bool) -> None:
        """End the trace, and write it if it is to be kept."""
        if self._profile is None:
            return
        ended, self._profile = self._profile, None
        ended.stop()
        if keep:
            with atomic_path(self.file) as partial:
                # torch gzips a file of this name
                named = partial.with_name(f"{partial.name}.json.gz")
                ended.export_chrome_trace(str(named))
                named.rename(partial)


class RunProfiler:
    """Counts the stages of a run and traces a few of its steps.

    Args:
        traced_steps: steps to trace, >= 1.
        trace_file: where the trace is written.
        device: of the policy.
        clock: seconds, for tests.
    """

    def __init__(
        self,
        traced_steps: int,
        trace_file: Path,
        device: torch.device,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.traced_steps, self.clock = traced_steps, clock
        self.trace = Trace(trace_file, cuda=device.type == "cuda")
        self.meter = WorkMeter(self.trace.forward)
        self.memory = PeakMemory(device)

        # what is counted after the warm-up, while a trace runs and without one
        self.timed: dict[str, Stage] = {}
        self.traced: dict[str, Stage] = {}
        self.timed_steps = self.steps_begun = 0
        self._last = self.clock()

    @contextmanager
    def step(self) -> Iterator[None]:
        """Around a training step: the first warms up, the next few are traced."""
        self.lap(REST)
        self.steps_begun += 1
        if self.steps_begun == 2:
            self.trace.start()
            self._last = self.clock()
        yield

        # the first counted moment is the one at which the last traced step has been written
        self.lap(REST)
        if self.trace.runs and self.steps_begun > self.traced_steps:
            self.trace.stop(keep=True)
            self.memory.take()
            self._last = self.clock()
        elif self.steps_begun > self.traced_steps + 1:
            self.timed_steps += 1

    def lap(self, stage: str) -> None:
        """Give what was done since the last lap to a stage."""
        self.trace.mark(stage)
        now, work, peak_bytes = self.clock(), self.meter.take(), self.memory.take()
        seconds, self._last = now - self._last, now

        # nothing of the warm-up is kept
        if self.steps_begun < 2:
            return
        stages = self.traced if self.trace.runs else self.timed
        stages.setdefault(stage, Stage()).add(seconds, work, peak_bytes)

    def close(self) -> None:
        """Take the hooks away, and drop a trace that was interrupted."""
        self.trace.stop(keep=False)
        self.meter.close()
