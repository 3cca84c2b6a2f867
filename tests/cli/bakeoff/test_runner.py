"""The bake-off carries out what is missing, goes on where it stopped, and measures what g2rl-train
does."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from g2rl.analysis.bakeoff.rows import Row, read_rows
from g2rl.analysis.columns import BENCH_ROWS
from g2rl.cli.bakeoff.one_run import config_hash, row_of, train
from g2rl.cli.bakeoff.plan import STAGES, Plan, PlannedRun, PlannedTask
from g2rl.cli.bakeoff.runner import Bench, carry_out
from g2rl.cli.build.settings import plain
from g2rl.cli.jobs.train import train as whole_train
from g2rl.runs.columns import differences
from g2rl.runs.interrupt import EXIT_INTERRUPTED, Interrupted
from tests.columns import word_of_json
from tests.support import composed, metric_rows

TASK = PlannedTask(
    "detour",
    "bakeoff_detour",
    ("2e-3", "1e-3"),
    "pass@4",
    "keeps",
    ("pass@1",),
    "pass@32",
    "fingerprint",
)
PLAN = Plan(
    100, (0, 1), "a", {"detour": TASK}, {"a": ("exploration=none",), "b": ("exploration=g2rl",)}
)


def fake_row(run: PlannedRun) -> Row:
    """The lower rate is better for b."""
    is_better = run.arm == "b" and run.rate == "1e-3"
    return {
        **run.identity,
        "command": run.command,
        "cpu_seconds": 1.0,
        "curve": [
            {"step": 0, "pass@1": 0.1, "distinct": 1.0},
            {"step": 3, "pass@1": 0.5 + 0.1 * is_better, "distinct": 1.0},
        ],
    }


def write_down(run: PlannedRun, work: Path) -> None:
    with (work.parent / "order.txt").open("a") as out:
        out.write(f"{run.folder.name}\n")


def quick(run: PlannedRun, work: Path, config_dirs: Sequence[Path]) -> Row:
    write_down(run, work)
    return fake_row(run)


def killed(run: PlannedRun, work: Path, config_dirs: Sequence[Path]) -> Row:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("it is dead")


def failing(run: PlannedRun, work: Path, config_dirs: Sequence[Path]) -> Row:
    if run.arm == "b":
        raise RuntimeError("b\n is broken")
    return quick(run, work, config_dirs)


def stopped_in_the_second(run: PlannedRun, work: Path, config_dirs: Sequence[Path]) -> Row:
    if run.arm == "b":
        os.kill(os.getppid(), signal.SIGTERM)
        raise Interrupted(2, signal.SIGTERM)
    return quick(run, work, config_dirs)


def bench(folder: Path, train: object, workers: int = 1) -> Bench:
    return Bench(folder / "rows", [], folder / "runs", [], workers, train)  # type: ignore[arg-type]


def order(folder: Path) -> list[str]:
    return (folder / "order.txt").read_text().split()


def test_rates_first_then_every_seed_over_all_arms_and_nothing_twice(tmp_path: Path) -> None:
    assert carry_out(PLAN, ["detour"], STAGES, bench(tmp_path, quick)) == 0
    expected = ["a-lr2e-3-seed100", "b-lr2e-3-seed100", "a-lr1e-3-seed100", "b-lr1e-3-seed100"]
    expected += ["a-lr2e-3-seed0", "b-lr1e-3-seed0", "a-lr2e-3-seed1", "b-lr1e-3-seed1"]
    assert order(tmp_path) == expected
    assert len(read_rows([tmp_path / "rows"]).by_key) == 8

    # all of it is stored: nothing runs
    assert carry_out(PLAN, ["detour"], STAGES, bench(tmp_path, failing)) == 0
    assert order(tmp_path) == expected


def test_arms_may_go_first_once_all_have_begun(tmp_path: Path) -> None:
    code = carry_out(PLAN, ["detour"], STAGES, bench(tmp_path, quick), first=["b"])
    assert code == 0
    expected = ["a-lr2e-3-seed100", "b-lr2e-3-seed100"]
    expected += ["b-lr1e-3-seed100", "b-lr1e-3-seed0", "b-lr1e-3-seed1"]
    expected += ["a-lr1e-3-seed100", "a-lr2e-3-seed0", "a-lr2e-3-seed1"]
    assert order(tmp_path) == expected


def test_two_at_a_time_make_the_same_rows(tmp_path: Path) -> None:
    assert carry_out(PLAN, ["detour"], STAGES, bench(tmp_path, quick, workers=2)) == 0
    assert len(set(order(tmp_path))) == len(read_rows([tmp_path / "rows"]).by_key) == 8


def test_a_run_that_fails_leaves_its_reason_and_the_others_go_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert carry_out(PLAN, ["detour"], STAGES, bench(tmp_path, failing)) == 1
    assert all(name.startswith("a-") for name in order(tmp_path))
    error = tmp_path / "runs" / "detour" / "b-lr2e-3-seed100" / "error.txt"
    assert "b is broken" in error.read_text()
    told = capfd.readouterr().err.splitlines()
    failed = [line for line in told if line.startswith("failed: ")]
    assert f"failed: RuntimeError: b is broken ({error})" in failed
    assert len(set(failed)) == len(failed) == 2

    # killed the next time: the reason of before is not this one's
    assert carry_out(PLAN, ["detour"], ["middle"], bench(tmp_path, killed)) == 1
    told = capfd.readouterr().err.splitlines()
    assert f"failed: ended without a word ({error.parent})" in told

    # mended: only what is missing runs, and b's reported seeds follow its rates
    assert carry_out(PLAN, ["detour"], STAGES, bench(tmp_path, quick)) == 0
    assert sum(name.startswith("b-") for name in order(tmp_path)) == 4
    assert len(order(tmp_path)) == 8


def test_a_stop_signal_ends_it_and_the_same_command_goes_on(tmp_path: Path) -> None:
    code = carry_out(PLAN, ["detour"], STAGES, bench(tmp_path, stopped_in_the_second))
    assert code == EXIT_INTERRUPTED
    assert order(tmp_path) == ["a-lr2e-3-seed100"]
    assert carry_out(PLAN, ["detour"], STAGES, bench(tmp_path, quick)) == 0
    assert len(order(tmp_path)) == 8


SMALL = (
    "trainer.steps=2",
    "trainer.prompts_per_step=2",
    "trainer.group_size=4",
    "trainer.eval_every=1",
    "trainer.eval_samples=2",
    "benchmark.problems=6",
    "benchmark.samples=4",
)


def test_a_run_measures_what_g2rl_train_measures(tmp_path: Path) -> None:
    run = PLAN.run(TASK, "b", "1e-3", 3)
    config = composed(*run.words, *SMALL)
    steps = train(config, tmp_path / "a", tmp_path / "before")
    whole_train(config, tmp_path / "b")

    # every number that both report, at every evaluation, to the last bit but for pass@1's rounding
    for own, other in zip(steps, metric_rows(tmp_path / "b"), strict=True):
        shared = {name for name in own if name.startswith("eval/") and name in other}
        assert {"eval/detour/pass@1", "eval/detour/pass@2", "eval/detour/distinct"} <= shared
        for name in shared:
            assert own[name] == pytest.approx(other[name], abs=1e-12)

    # the hard subset is part of the whole
    assert "eval/detour/hard/pass@4" in steps[0]
    row = row_of(run, plain(config), steps, 12.34)
    assert [point["step"] for point in row["curve"]] == [0, 1, 2]
    assert [point["samples"] for point in row["curve"]] == [4, 2, 4]
    assert row["cpu_seconds"] == 12.3
    assert row["command"] == run.command
    words = [(name, word_of_json(value)) for name, value in row.items()]
    assert differences(BENCH_ROWS, words) == []

    # another arm of the seed takes the evaluation before training from the file
    [kept] = (tmp_path / "before").iterdir()
    kept.write_text('{"eval/detour/pass@1": 0.125}')
    other_arm = composed(*PLAN.run(TASK, "a", "1e-3", 3).words, *SMALL, "trainer.steps=1")
    assert train(other_arm, tmp_path / "c", tmp_path / "before")[0]["eval/detour/pass@1"] == 0.125


def test_the_hash_is_of_settings_that_decide() -> None:
    words = ("experiment=bakeoff_detour", "exploration=none")
    reference = config_hash(plain(composed(*words)))
    free = ("trainer.checkpoint_every=7", "resume=never", "health.window=9")
    assert config_hash(plain(composed(*words, *free))) == reference
    for word in ("trainer.steps=7", "optimizer.lr=1", "seed=4", "exploration=maxrl"):
        assert config_hash(plain(composed(*words, word))) != reference
