"""A training step under every exploration signal against exploration=none, in CPU seconds.

Both sides sample the same 16 x 16 responses of the tiny policy, whose learning rate is next to
nothing, so that it does not change. CPU seconds of this process instead of the clock, because the
cores are shared; one thread.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable

import torch
from builder import make_trainer, replay
from harness import Row, options, ratio_row, report

from g2rl.cli.config.choices import choices

TARGET = "<= 1.03"


def cpu_seconds(call: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    gc.collect()
    started = time.process_time()
    call()
    return time.process_time() - started


def main() -> None:
    """Time one step of every choice, in turns with `none`."""
    args = options(__doc__.splitlines()[0], repeats=5)
    torch.set_num_threads(1)
    rows: list[Row] = []
    peer = make_trainer("exploration=none", "optimizer.lr=1e-9")
    replay(peer, 1)
    for name in choices("exploration"):
        ours = make_trainer(f"exploration={name}", "optimizer.lr=1e-9")
        replay(ours, 1)

        # a warm-up, then in turns, every other repeat beginning with the peer
        for _ in range(2):
            ours.step(1)
            peer.step(1)
        seconds: dict[int, list[float]] = {0: [], 1: []}
        for repeat in range(args.repeats):
            sides = [(0, ours), (1, peer)]
            for place, trainer in sides if repeat % 2 == 0 else sides[::-1]:
                seconds[place].append(cpu_seconds(lambda t=trainer: t.step(1)))
        note = f"{statistics.median(seconds[0]):.3g} CPU s against"
        note += f" {statistics.median(seconds[1]):.3g}"
        label = f"step after sampling, exploration={name}"
        rows.append(
            ratio_row(label, "exploration=none", "CPU time", seconds[0], seconds[1], TARGET, note)
        )
        report(rows[-1:])
    report(rows, args.json)


if __name__ == "__main__":
    main()
