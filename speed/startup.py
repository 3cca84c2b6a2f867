"""Start-up: `g2rl-train --help`, and from the command to the end of the first training step.

Seconds are compared with targets (2 s and 10 s); no other figures of this folder are absolute. The
first step is timed without the evaluation before training (benchmark.limit=1, samples=1).
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import Row, options, report

FIRST_STEP = [
    "tracking=local",
    "trainer.steps=1",
    "trainer.eval_samples=1",
    "trainer.probe_problems=0",
    "benchmark.limit=1",
    "benchmark.samples=1",
    "benchmark.ks=[1]",
]


def until(command: list[str], word: str | None) -> float:
    """Seconds until a line of the output starts with `word`, or until the end."""
    started = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if word is not None and line.startswith(word):
                seconds = time.perf_counter() - started
                process.kill()
                return seconds
    if process.returncode or word is not None:
        raise RuntimeError(f"{command} ended with {process.returncode} before {word!r}")
    return time.perf_counter() - started


def main() -> None:
    """Time both, each in fresh processes."""
    args = options(__doc__.splitlines()[0], repeats=5)
    train = [sys.executable, "-u", "-m", "g2rl.cli.train"]
    rows = []
    for what, words, word, target in (
        ("g2rl-train --help", ["--help"], None, 2.0),
        ("command to first training step", FIRST_STEP, "step 1", 10.0),
    ):
        seconds = []
        for _ in range(args.repeats):
            with tempfile.TemporaryDirectory() as folder:
                place = [f"hydra.run.dir={Path(folder) / 'run'}"] if word else []
                seconds.append(until([*train, *words, *place], word))
        low, middle, high = statistics.quantiles(seconds, n=4)
        rows.append(
            Row(what, "nothing: seconds", "s", middle, low, high, f"<= {target}", "absolute")
        )
    report(rows, args.json)


if __name__ == "__main__":
    main()
