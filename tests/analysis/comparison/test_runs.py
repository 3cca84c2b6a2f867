"""Runs are found, told apart by their settings, and joined; intervals over seeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from g2rl.analysis.comparison.choices import Choices
from g2rl.analysis.comparison.compared import read_compared
from g2rl.analysis.comparison.runs import (
    COLUMNS,
    RunsError,
    arms,
    collect,
    find_runs,
    runs_to_compare,
)
from g2rl.analysis.comparison.training_geometry import step_numbers, training_geometry
from g2rl.analysis.figures.curves import POINTS, arm_colours, curve, learning_panels
from g2rl.analysis.loaded import Tables
from g2rl.analysis.palette import SIGNAL_COLOURS
from g2rl.analysis.tables import at_end, comparison_table
from g2rl.formulas.intervals import seed_interval, t_quantile
from g2rl.formulas.tensors import cosine_matrix

TARGETS = {
    "none": "g2rl.exploration.none.NoExploration",
    "g2rl": "g2rl.exploration.g2rl.GradientGuided",
}


def make_run(
    folder: Path,
    seed: int = 0,
    signal: str = "none",
    finished: bool = True,
    value: float = 0.5,
    **settings: Any,
) -> Path:
    """A run's folder with two rows of metrics; settings like `exploration__lam=3` override."""
    config: dict[str, Any] = {
        "seed": seed,
        "resume": "auto",
        "data_dir": None,
        "tracking": {"_target_": "a.B"},
        "benchmark": {"name": "countdown"},
        "exploration": {"_target_": TARGETS[signal], "observe": []},
        "model": {"name": "tiny"},
        "trainer": {"steps": 2, "keep_best": True},
        "optimizer": {"lr": 1e-4, "betas": [0.9, 0.95]},
    }
    if signal == "g2rl":
        config["exploration"] |= {"lam": 1.0, "clip": 3.0}
    for key, setting in settings.items():
        node, name = key.split("__")
        config[node][name] = setting
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    rows = [
        {"step": 0, "eval/countdown/pass@1": 0.25},
        {"step": 1, "train/accuracy": value / 2},
        {"step": 2, "train/accuracy": value, "eval/countdown/pass@1": value},
    ]
    (folder / "metrics.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
    )
    if finished:
        (folder / "summary.json").write_text("{}", encoding="utf-8")
    return folder


def test_t_quantiles_are_those_of_printed_tables() -> None:
    for freedom, expected in (
        (1, 12.706),
        (2, 4.303),
        (4, 2.776),
        (9, 2.262),
        (30, 2.042),
        (1000, 1.962),
    ):
        assert t_quantile(0.95, freedom) == pytest.approx(expected, abs=5e-4)
    assert t_quantile(0.99, 5) == pytest.approx(4.032, abs=5e-4)
    assert t_quantile(0.5, 1) == pytest.approx(1.0), "the quartile of Cauchy"
    with pytest.raises(ValueError, match="freedom"):
        t_quantile(0.95, 0)


def test_the_interval_over_seeds_by_hand_and_its_coverage() -> None:
    mean, low, high = seed_interval([1.0, 2.0, 3.0])
    assert (mean, low, high) == pytest.approx(
        (2.0, 2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5), abs=1e-4
    )
    alone = seed_interval([0.4])
    assert alone.value == 0.4
    assert np.isnan([alone.low, alone.high]).all()
    with pytest.raises(ValueError, match="finite"):
        seed_interval([0.1, float("nan")])
    draws = np.random.default_rng(0).normal(size=(2000, 4))
    covered = np.mean([low <= 0 <= high for _, low, high in map(seed_interval, draws)])
    assert covered == pytest.approx(0.95, abs=0.02)


def test_arms_are_what_differs_beside_the_seed(tmp_path: Path) -> None:
    for seed in (1, 0):
        make_run(tmp_path / f"a{seed}", seed)
        make_run(tmp_path / "deep" / "er" / f"b{seed}", seed, "g2rl")
        make_run(
            tmp_path / f"c{seed}", seed, "g2rl", exploration__lam=10, trainer__keep_best=seed == 0
        )
        make_run(tmp_path / f"d{seed}", seed, "g2rl", exploration__lam=3.0)
    (tmp_path / "a0" / "eval").mkdir()
    (tmp_path / "a0" / "eval" / "config.yaml").write_text("benchmark: {}\nseed: 0\n")
    (tmp_path / ".hidden").mkdir()
    make_run(tmp_path / ".hidden" / "x")
    assert arms([tmp_path]) == {
        "none": [tmp_path / "a0", tmp_path / "a1"],
        "g2rl lam=1": [tmp_path / "deep" / "er" / "b0", tmp_path / "deep" / "er" / "b1"],
        "g2rl lam=3": [tmp_path / "d0", tmp_path / "d1"],
        "g2rl lam=10": [tmp_path / "c0", tmp_path / "c1"],
    }, "signals in their order, numbers by size, keys that do not matter left out"
    assert list(arms([tmp_path / "c0", tmp_path / "d0"])) == ["lam=3", "lam=10"], (
        "one signal is not named"
    )
    assert list(arms([tmp_path / "a0", tmp_path / "a1"])) == ["none"], (
        "a single arm is named by its signal"
    )
    assert list(arms([tmp_path / "a0", tmp_path / "d0"], by=["exploration.name"])) == [
        "none",
        "g2rl",
    ]
    assert len(find_runs([tmp_path, tmp_path / "a0"])) == 8, "a run named twice counts once"


def test_a_whole_number_is_the_same_setting_and_equal_leaves_are_told_apart(tmp_path: Path) -> None:
    one = make_run(tmp_path / "a", 0, "g2rl", exploration__lam=1)
    two = make_run(tmp_path / "b", 1, "g2rl", exploration__lam=1.0)
    assert list(arms([one, two])) == ["g2rl"]
    three = make_run(tmp_path / "c", 0, "g2rl", optimizer__lr=3e-4)
    assert list(arms([one, two, three])) == ["lr=0.0001", "lr=0.0003"]

    # where another key that tells arms apart ends alike, both are named in full
    rates = [(1e-4, 1e-4), (1e-4, 3e-4), (2e-4, 1e-4)]
    more = []
    for number, (of_model, rate) in enumerate(rates):
        folder = tmp_path / "more" / str(number)
        more.append(make_run(folder, 0, model__lr=of_model, optimizer__lr=rate))
    assert list(arms(more)) == [
        "model.lr=0.0001 optimizer.lr=0.0001",
        "model.lr=0.0001 optimizer.lr=0.0003",
        "model.lr=0.0002",
    ]


def test_what_cannot_be_joined_is_refused_by_name(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "a", 0)
    make_run(tmp_path / "runs" / "b", 0, optimizer__lr=2e-4)
    with pytest.raises(
        RunsError, match=r"holds seed 0 twice.*runs/a.*runs/b; they differ in optimizer\.lr"
    ):
        arms([tmp_path / "runs"], by=["exploration.name"])
    with pytest.raises(
        RunsError, match=r"no run has the setting 'lam'; the runs differ in optimizer\.lr"
    ):
        arms([tmp_path / "runs"], by=["lam"])
    make_run(tmp_path / "runs" / "copy", 0)
    with pytest.raises(RunsError, match=r"seed 0 twice.*leave one out"):
        arms([tmp_path / "runs"])
    with pytest.raises(RunsError, match="there is no folder"):
        find_runs([tmp_path / "absent"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunsError, match=r"holds no run .* at any depth"):
        find_runs([tmp_path / "empty"])

    # what is there and damaged is not said to be missing
    config = tmp_path / "empty" / "config.yaml"
    config.write_text("a: [1")
    with pytest.raises(RunsError, match=r"config\.yaml cannot be read as YAML: "):
        find_runs([tmp_path / "empty"])
    for text in ("", "other: 1"):
        config.write_text(text)
        with pytest.raises(RunsError, match=r"config\.yaml is of another command, or empty"):
            find_runs([tmp_path / "empty"])


def test_unfinished_runs_can_be_left_out_by_name_and_are_never_all_there_is(
    tmp_path: Path,
) -> None:
    make_run(tmp_path / "done", 0)
    begun = tmp_path / "begun"
    make_run(begun, 1, finished=False)
    finished, left_out = runs_to_compare([tmp_path])
    assert [run.folder.name for run in finished] == ["done"]
    assert [run.folder.name for run in left_out] == ["begun"]
    with pytest.raises(RunsError, match="none of the 1 runs has finished"):
        runs_to_compare([begun])
    assert len(runs_to_compare([tmp_path], partial=True)[0]) == 2


def test_runs_are_collected_long_and_unfinished_ones_named(tmp_path: Path) -> None:
    make_run(tmp_path / "a0", 0, value=0.5)
    make_run(tmp_path / "a1", 1, value=0.7)
    make_run(tmp_path / "b0", 0, "g2rl", finished=False, value=0.6)
    with pytest.raises(RunsError, match=r"1 of 3 runs have not finished.*b0.*--partial"):
        collect([tmp_path])
    frame = collect([tmp_path], partial=True)
    assert frame.columns.tolist() == ["arm", "seed", "run", "step", "metric", "value"]
    assert len(frame) == 3 * 4
    row = frame.query("arm == 'none' and seed == 1 and step == 2 and metric == 'train/accuracy'")
    assert row["value"].tolist() == [0.7]
    assert set(at_end(frame, "train/accuracy")["value"]) == {0.5, 0.7, 0.6}
    assert set(at_end(frame, "train/accuracy", first=True)["value"]) == {0.25, 0.35, 0.3}
    (tmp_path / "b0" / "metrics.jsonl").write_text("")
    with pytest.raises(RunsError, match=r"b0 has no row"):
        collect([tmp_path], partial=True)


def test_the_table_has_means_and_t_intervals(tmp_path: Path) -> None:
    for seed, value in enumerate((0.4, 0.5, 0.6)):
        make_run(tmp_path / f"a{seed}", seed, value=value)
    make_run(tmp_path / "b0", 0, "g2rl", value=0.7)
    frame = collect([tmp_path])
    half = 4.302653 * 0.1 / 3**0.5
    assert comparison_table(frame, {"eval/countdown/pass@1": "pass@1", "absent": "absent"}) == (
        "| arm | seeds | pass@1 | absent |\n|---|---|---|---|\n"
        f"| none | 3 | 0.500 [{0.5 - half:.3f}, {0.5 + half:.3f}] | - |\n"
        "| g2rl | 1 | 0.700 | - |"
    )
    assert "| none | 3 | 0.250 [0.250, 0.250] |" in comparison_table(
        frame, ["eval/countdown/pass@1"], first=True
    )


def test_a_mean_over_some_of_the_seeds_says_so() -> None:
    rows = [("a", seed, "f", 1, "x", 0.5) for seed in (0, 1, 2)]
    rows += [("a", seed, "f", 1, "rare", value) for seed, value in ((0, 0.4), (2, 0.6))]
    half = 12.7062 * 0.2 / 2  # t(0.975; 1) s / sqrt(2), s = 0.2 / sqrt(2)
    line = comparison_table(pd.DataFrame(rows, columns=list(COLUMNS)), ["x", "rare"]).splitlines()[
        2
    ]
    bounds = f"[{0.5 - half:.3f}, {0.5 + half:.3f}]"
    assert line == f"| a | 3 | 0.500 [0.500, 0.500] | 0.500 {bounds} (2 of 3) |"


def test_curves_average_seeds_over_shared_steps_in_blocks() -> None:
    rows = [("a", 0, step, float(step)) for step in range(1, 31)] + [
        ("a", 1, step, step + 2.0) for step in range(1, 26)
    ]
    frame = pd.DataFrame(rows, columns=["arm", "seed", "step", "value"]).assign(metric="m")
    found = curve(frame, "a", "m")
    assert found is not None
    assert (found.seeds, found.block) == (2, 3), "25 shared steps in at most 12 points"
    assert len(found.steps) == 9 <= POINTS
    np.testing.assert_allclose(found.steps[:2], [2, 5])
    np.testing.assert_allclose(found.mean, found.steps + 1)
    np.testing.assert_allclose(
        found.high - found.mean, 12.7062 * np.sqrt(2) / np.sqrt(2), rtol=1e-4
    )
    assert curve(frame, "b", "m") is None
    alone = curve(frame[frame["seed"] == 0], "a", "m")
    assert alone is not None
    assert np.isnan(alone.low).all()


def test_a_signal_has_one_colour_everywhere() -> None:
    from matplotlib.colors import to_hex

    found = arm_colours(["none", "g2rl lam=1", "g2rl lam=3", "other"])
    assert to_hex(found["none"]).upper() == SIGNAL_COLOURS["none"]
    assert to_hex(found["g2rl lam=1"]).upper() == SIGNAL_COLOURS["g2rl"]
    assert len(set(found.values())) == 4
    numbered = arm_colours([f"lam={v}" for v in (0, 0.1, 0.3, 1, 3, 10)])
    light = [sum(colour[:3]) for colour in numbered.values()]
    assert light == sorted(light), "from dark to light"


def test_panels_are_what_the_runs_report(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    assert list(learning_panels(collect([tmp_path]))) == ["eval/countdown/pass@1", "train/accuracy"]


def test_geometry_of_training_is_read_from_the_files_of_runs(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    correct = [True, True, False, False, False, True]
    features = torch.tensor([[[1.0, 0], [2, 0], [0, 1]], [[1, 0], [-1, 0], [0, 1]]])
    rows = cosine_matrix(features)[0].flatten(0, 1).tolist()
    table = pd.DataFrame({"sample": [0, 1, 2] * 2, "correct": correct, "cosine": rows})
    (run / "geometry").mkdir()
    table.to_parquet(run / "geometry" / "step_000001.parquet")
    frame = training_geometry(collect([tmp_path])).set_index("metric")
    assert frame["value"].to_dict() == pytest.approx(
        {
            "geometry/cosine": 0,
            "geometry/negative_pairs": 1 / 6,
            "geometry/cosine_correct_correct": 1,
            "geometry/negative_pairs_correct_correct": 0,
            "geometry/cosine_correct_wrong": 0,
            "geometry/negative_pairs_correct_wrong": 0,
            "geometry/cosine_wrong_wrong": -1,
            "geometry/negative_pairs_wrong_wrong": 1,
        }
    )
    assert set(frame["step"]) == {1}
    table.iloc[:5].to_parquet(run / "geometry" / "step_000001.parquet")
    with pytest.raises(ValueError, match="whole groups"):
        step_numbers(run / "geometry" / "step_000001.parquet")
    table.drop(columns="cosine").to_parquet(run / "geometry" / "step_000001.parquet")
    assert training_geometry(collect([tmp_path])).empty

    # a file that was cut off is named
    (run / "geometry" / "step_000001.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"step_000001\.parquet cannot be read as parquet \("):
        training_geometry(collect([tmp_path]))


def test_comparing_reads_every_run_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from g2rl.analysis.comparison import runs
    from g2rl.cli.jobs.compare import compare

    folders = [make_run(tmp_path / "runs" / f"a{seed}", seed) for seed in (0, 1)]
    configs_read: list[Path] = []
    metrics_read: list[Path] = []
    read_run, read_metrics = runs.read_run, runs.read_metrics
    monkeypatch.setattr(runs, "read_run", lambda p: configs_read.append(p) or read_run(p))
    monkeypatch.setattr(runs, "read_metrics", lambda p: metrics_read.append(p) or read_metrics(p))
    compare(folders, tmp_path / "out")
    assert configs_read == folders
    assert metrics_read == [folder / "metrics.jsonl" for folder in folders]


def test_a_key_of_one_benchmark_alone_is_no_mistake(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "a", 0)
    make_run(tmp_path / "runs" / "b", 0, benchmark__name="detour", exploration__lam=3.0)
    choices = Choices(by=["exploration.lam"], partial=True)
    compared, _ = read_compared([tmp_path / "runs"], choices)
    assert len(compared) == 2


def test_tables_of_several_benchmarks_are_found_by_their_folders(tmp_path: Path) -> None:
    frame = pd.DataFrame({"seed": [0]})
    for name in ("countdown", "detour"):
        (tmp_path / name).mkdir()
        frame.to_parquet(tmp_path / name / "runs.parquet")
    tables = Tables(tmp_path)
    assert list(tables) == ["countdown/runs", "detour/runs"]
    assert tables["detour/runs"].equals(frame)
    with pytest.raises(KeyError, match="there are countdown/runs, detour/runs"):
        tables["runs"]
