"""The stages of a profiled run as a table and as numbers for programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from g2rl.training.profiling import RunProfiler, Stage

HEAD = ("stage", "seconds", "share", "GFLOP", "GFLOP/s", "of rate", "peak MiB", "tokens", "padding")
ORDER = ("sample", "score", "grade_wait", "explore", "update", "write", "evaluate", "rest")
"""Stages in the order of a step; others follow by name."""


@dataclass(slots=True, frozen=True)
class Machine:
    """What the stages are compared with."""

    device: str
    dtype: str
    product: tuple[int, int, int]
    """(rows, in, out) of the products whose rate was measured."""
    rate: float
    """Operations per second of these products."""
    memory: str
    """What the peak of memory is of, in words."""


@dataclass(slots=True, frozen=True)
class StageTable:
    """Stages of a few steps beside the rate of the machine.

    Args:
        stages: by name.
        steps: that they are of.
        under_trace: whether these steps were traced, which slows them down.
        traced_steps: of the trace.
        machine: where they ran.
    """

    stages: Mapping[str, Stage]
    steps: int
    under_trace: bool
    traced_steps: int
    machine: Machine

    @classmethod
    def of(cls, profiler: RunProfiler, machine: Machine) -> StageTable:
        """The stages that were counted without a trace, or all if no step was."""
        stages: dict[str, Stage] = {}
        under_trace = profiler.timed_steps == 0
        counted = [profiler.traced, profiler.timed] if under_trace else [profiler.timed]
        for found in counted:
            for name, stage in found.items():
                whole = stages.setdefault(name, Stage())
                whole.add(stage.seconds, stage.work, stage.peak_bytes)
        traced_steps = max(0, min(profiler.traced_steps, profiler.steps_begun - 1))
        steps = traced_steps if under_trace else profiler.timed_steps
        return cls(stages, steps, under_trace, traced_steps, machine)

    @property
    def names(self) -> list[str]:
        """Stages in the order of a step."""
        known = [name for name in ORDER if name in self.stages]
        return known + sorted(set(self.stages) - set(ORDER))

    @property
    def total(self) -> Stage:
        """All stages together."""
        total = Stage()
        for stage in self.stages.values():
            total.add(stage.seconds, stage.work, stage.peak_bytes)
        return total

    def numbers(self) -> dict[str, Any]:
        """Everything as plain data; seconds, operations, bytes and tokens."""
        machine, total = self.machine, self.total
        stages = {name: self._numbers_of(self.stages[name], total) for name in self.names}
        return {
            "steps": self.steps,
            "under_trace": self.under_trace,
            "traced_steps": self.traced_steps,
            "device": machine.device,
            "dtype": machine.dtype,
            "product": list(machine.product),
            "product_rate": machine.rate,
            "memory": machine.memory,
            "total": self._numbers_of(total, total),
            "stages": stages,
        }

    def _numbers_of(self, stage: Stage, total: Stage) -> dict[str, Any]:
        """One row; None where there is nothing to say."""
        seconds, work = stage.seconds, stage.work
        rate = work.flop / seconds if work.flop and seconds else None
        padding = None
        if work.computed_tokens:
            padding = 1 - work.real_tokens / work.computed_tokens
        return {
            "seconds": seconds,
            "share": seconds / total.seconds if total.seconds else 0.0,
            "flop": work.flop or None,
            "flop_per_second": rate,
            "share_of_rate": None if rate is None else rate / self.machine.rate,
            "peak_bytes": stage.peak_bytes,
            "computed_tokens": work.computed_tokens or None,
            "real_tokens": work.real_tokens or None,
            "padding_share": padding,
        }

    def lines(self) -> list[str]:
        """The table in Markdown, with columns that stand below each other, and what it is of."""
        numbers = self.numbers()
        rows: list[tuple[str, ...]] = [HEAD]
        for name, stage in numbers["stages"].items():
            rows.append(_cells(name, stage))
        rows.append(_cells("all", numbers["total"]))

        # the first column is text, the others are numbers
        widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
        lines: list[str] = []
        for row in rows:
            cells = [row[0].ljust(widths[0])]
            for cell, width in zip(row[1:], widths[1:], strict=True):
                cells.append(cell.rjust(width))
            lines.append(f"| {' | '.join(cells)} |")
        rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
        return [self._heading(), "", lines[0], f"| {' | '.join(rule)} |", *lines[1:]]

    def _heading(self) -> str:
        """What the table is of, and what its rate is."""
        machine = self.machine
        steps = "step" if self.steps == 1 else "steps"
        under = " under the trace, which slows them down" if self.under_trace else ""
        rows, inner, outer = machine.product
        return (
            f"profile of {self.steps} {steps} after the first{under}, on {machine.device}; rate: "
            f"{machine.rate / 1e9:.0f} GFLOP/s of products {rows} x {inner} x {outer} in "
            f"{machine.dtype}; memory: {machine.memory}"
        )


def _cells(name: str, row: Mapping[str, Any]) -> tuple[str, ...]:
    """One row in words; a dash where there is nothing to say."""
    formats = (
        ("seconds", 1, "{:.2f}"),
        ("share", 100, "{:.1f} %"),
        ("flop", 1e-9, "{:.1f}"),
        ("flop_per_second", 1e-9, "{:.1f}"),
        ("share_of_rate", 100, "{:.0f} %"),
        ("peak_bytes", 1 / (1 << 20), "{:.0f}"),
        ("computed_tokens", 1, "{:,}"),
        ("padding_share", 100, "{:.1f} %"),
    )
    cells = [name]
    for key, factor, words in formats:
        value = row[key]
        cells.append("-" if value is None else words.format(value * factor))
    return tuple(cells)
