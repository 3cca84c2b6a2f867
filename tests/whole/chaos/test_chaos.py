"""Chaos: the real command is killed with SIGKILL again and again, and ends as if nothing had
happened.

`make test` runs the short version, `make chaos` the long one. A kill comes either at a chosen
moment (`killed.py`: in the middle of a rollout, an update, a checkpoint, ...) or after a random
line that it has printed.
"""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from tests import commands
from tests.support import EVERYTHING, untimed_rows

KILLED = Path(__file__).resolve().parent / "killed.py"
SETTINGS = (
    *EVERYTHING,
    "trainer.checkpoint_every=2",
    "trainer.eval_every=2",
    "trainer.keep_checkpoints=1",
    "exploration.observe=[evol,outcome,entropy_controller]",  # two of them keep a state
)
DIED = -signal.SIGKILL


def start(program: Sequence[str], folder: Path, *settings: str) -> commands.Running:
    words = [*program, *SETTINGS, *settings, f"hydra.run.dir={folder}"]
    return commands.start(words, folder.parent, PYTHONUNBUFFERED="1")


COMMAND = ("-m", "g2rl.cli.train")


def finish(process: commands.Running) -> tuple[int | None, str]:
    output, _ = process.communicate(timeout=240)
    return process.returncode, output


def killed_at(point: str, number: int, folder: Path, *settings: str) -> int:
    """Start the run and let it die at the N-th time of a moment; 0 when it ended before."""
    code, output = finish(start((str(KILLED), point, str(number)), folder, *settings))
    assert code in (DIED, 0), output
    return code


def killed_after(lines: int, folder: Path, *settings: str) -> int:
    """Start the run and kill it soon after it has printed so many lines; 0 when it ended before.

    What it has done by then decides, and never the time, so that a fast machine and a busy one kill
    alike.
    """
    process = start(COMMAND, folder, *settings)
    assert process.stdout is not None
    for number, _ in enumerate(process.stdout, 1):
        if number == lines:
            process.kill()
            break
    code, output = finish(process)
    assert code in (DIED, 0), output
    return code


def rows(folder: Path) -> list[str]:
    """The rows of metrics.jsonl without time/*, as text."""
    return [json.dumps(row) for row in untimed_rows(folder)]


def same(folder: Path, clean: Path, steps: int) -> None:
    """Metrics, weights, samples, geometry and export agree byte for byte, the optimizer exactly."""
    assert rows(folder) == rows(clean)
    assert [json.loads(row)["step"] for row in rows(folder)] == list(range(steps + 1))
    last, checked = f"checkpoints/step_{steps:06d}", 0
    weights = f"{last}/model.safetensors"
    assert (folder / weights).read_bytes() == (clean / weights).read_bytes()

    # by value: pickle also writes down which objects are one and the same
    state = f"{last}/training.pt"
    torch.testing.assert_close(
        torch.load(folder / state), torch.load(clean / state), rtol=0, atol=0
    )
    for part in ("rollouts", "geometry", "probe", "model"):
        names = sorted(path.name for path in (clean / part).iterdir())
        assert sorted(path.name for path in (folder / part).iterdir()) == names
        for name in names:
            assert (folder / part / name).read_bytes() == (clean / part / name).read_bytes(), (
                f"{part}/{name}"
            )
            checked += 1
    assert checked >= 10
    hidden = [path for path in folder.rglob(".*") if path.name.endswith((".partial", ".old"))]
    assert not hidden


def test_two_kills_and_a_preemption_change_nothing(tmp_path: Path) -> None:
    """Killed in a row's write, then in a checkpoint's; then preempted by SIGTERM; then it ends."""
    clean, folder = tmp_path / "clean", tmp_path / "run"
    words = ("trainer.steps=4", "benchmark.max_tokens=8")
    reference = start(COMMAND, clean, *words)
    assert killed_at("row", 4, folder, *words) == DIED  # the row of step 3; step 2 is saved
    assert killed_at("checkpoint_weights", 1, folder, *words) == DIED
    process = start(COMMAND, folder, *words)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step 3"):
            process.send_signal(signal.SIGTERM)
            break
    code, output = finish(process)
    assert code == 75, output
    assert "stopped by SIGTERM after step" in output
    assert finish(start(COMMAND, folder, *words))[0] == 0
    code, output = finish(reference)
    assert code == 0, output
    same(folder, clean, 4)


MOMENTS = (
    # in the middle of what, and how often it may happen first (drawn from the seed)
    ("evaluation", 1, 15),
    ("rollout", 1, 60),
    ("scoring", 1, 10),
    ("grading", 1, 3),
    ("backward", 1, 5),
    ("update", 1, 5),
    ("table", 1, 6),
    ("row", 2, 4),
    ("after_row", 2, 4),
    ("checkpoint_weights", 1, 2),
    ("checkpoint_state", 1, 4),
    ("checkpoint_unnamed", 1, 4),
    ("checkpoint_named", 1, 4),
    ("rotation", 1, 2),
    ("evaluation_graded", 1, 2),
    ("mending", 1, 1),
    ("rollout", 40, 150),
    ("evaluation", 20, 60),
    ("update", 4, 9),
    ("checkpoint_named", 2, 4),
)
LAST_MOMENTS = ("export", "summary")
RANDOM_KILLS = 8


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [0])
def test_more_than_twenty_kills_change_nothing(tmp_path: Path, seed: int) -> None:
    """Every moment, in seeded order among random lines; a run that ends is compared and another
    begun."""
    words, count, draw = ("trainer.steps=8", "benchmark.max_tokens=40"), 8, random.Random(seed)
    clean = tmp_path / "clean"
    code, output = finish(start(COMMAND, clean, *words))
    assert code == 0, output
    lines = output.splitlines()
    to_the_last_step = [line.startswith(f"step {count}/") for line in lines].index(True)
    plan = [(point, draw.randint(low, high)) for point, low, high in MOMENTS]
    plan += [("line", draw.randint(1, to_the_last_step)) for _ in range(RANDOM_KILLS)]
    draw.shuffle(plan)
    kills, ended, log = 0, 0, []
    folder = tmp_path / "run0"
    for point, number in [*plan, *((point, 1) for point in LAST_MOMENTS)]:
        if point == "line":
            code = killed_after(number, folder, *words)
        else:
            code = killed_at(point, number, folder, *words)
        kills += code == DIED
        place = folder / "metrics.jsonl"
        written = place.read_text().count("\n") if place.exists() else 0
        log.append(f"{point} {number}: {'killed' if code == DIED else 'ended'} with {written} rows")
        if code == 0:
            same(folder, clean, count)
            ended += 1
            folder = tmp_path / f"run{ended}"
    assert finish(start(COMMAND, folder, *words))[0] == 0
    same(folder, clean, count)
    print(f"seed {seed}: {kills} kills, {ended + 1} runs ended and compared", *log, sep="\n  ")
    assert kills >= 20, log
