"""What the notebooks draw with: stored results read back, ends of runs, one group, fidelity."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from g2rl.analysis.fidelity.report import rows_of
from g2rl.analysis.figures import curves, ends
from g2rl.analysis.figures import fidelity as fidelity_figures
from g2rl.analysis.figures import group as group_plot
from g2rl.analysis.figures.ends import draw_panel, outcome_panels, probe_panels, spread, tick_names
from g2rl.analysis.figures.style import plt
from g2rl.analysis.geometry.report import headline
from g2rl.analysis.stored import UNKNOWN, probe_conditions, read_fidelity, read_geometry, read_runs
from tests.support import ROOT

NOTEBOOKS = ROOT / "notebooks"
DATA = NOTEBOOKS / "data"
COLUMNS = ["arm", "seed", "run", "step", "metric", "value"]


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Figures that would have been saved, open."""
    kept: list[object] = []
    for module in (group_plot, fidelity_figures):
        monkeypatch.setattr(module, "save_figure", lambda figure, path: kept.append(figure) or path)
    return kept


def frame_of(values: dict[tuple[str, int, int, str], float]) -> pd.DataFrame:
    rows = [
        (arm, seed, f"{arm}/{seed}", step, metric, v)
        for (arm, seed, step, metric), v in values.items()
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def test_runs_are_read_from_a_table_or_refused(tmp_path: Path) -> None:
    frame = frame_of({("none", 0, 1, "train/accuracy"): 0.5})
    frame.assign(extra=1).to_parquet(tmp_path / "runs.parquet")
    assert read_runs(tmp_path / "runs.parquet").equals(frame)
    frame[["arm"]].to_parquet(tmp_path / "other.parquet")
    with pytest.raises(ValueError, match=r"other.parquet has the columns arm, not arm, seed"):
        read_runs(tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="holds no run"):
        read_runs([tmp_path])


def test_the_conditions_of_probes_are_said_and_mixtures_too() -> None:
    names = ("sampled_at", "top_p", "top_k", "scored_at")
    one = {
        ("none", 0, 0, f"probe/{n}"): v for n, v in zip(names, (0.6, 0.9, 50.0, 1.0), strict=True)
    }
    other = {
        ("g2rl", 0, 0, f"probe/{n}"): v for n, v in zip(names, (1.0, 1.0, 0.0, 1.0), strict=True)
    }
    said = "sampled at temperature 0.6, top-p 0.9 and top-k 50; p_t scored at temperature 1"
    assert probe_conditions(frame_of(one)) == said
    mixed = probe_conditions(frame_of(one | other))
    assert mixed.startswith("mixed: ")
    assert said in mixed
    assert "sampled at temperature 1, no truncation" in mixed
    assert probe_conditions(frame_of({("none", 0, 1, "train/length"): 3.0})) == UNKNOWN


def test_stored_geometry_agrees_with_its_pairs() -> None:
    tables, about = read_geometry(DATA / "geometry" / "g2rl")
    pairs, numbers = tables["pairs"], tables["numbers"]
    gradient = numbers[numbers["space"] == "gradient"].set_index(["metric", "pair"])["value"]
    assert gradient["mean_cosine"]["all"] == pytest.approx(pairs["cosine"].mean(), abs=1e-5)
    for name, mine in pairs.groupby("pair")["cosine"]:
        assert gradient["mean_cosine"][name] == pytest.approx(mine.mean(), abs=1e-5)
        assert gradient["negative_ratio"][name] == pytest.approx((mine < 0).mean(), abs=1e-5)
    semantic = numbers[numbers["space"] == "semantic"].set_index(["metric", "pair"])["value"]
    assert semantic["mean_cosine"]["all"] == pytest.approx(pairs["semantic"].mean(), abs=1e-5)
    assert about["problems"] * about["responses"] == len(tables["responses"])
    mean, negative = pairs["cosine"].mean(), (pairs["cosine"] < 0).mean()
    assert headline(tables).startswith(
        f"mean cosine {mean:+.2f} over all pairs, {negative:.0%} negative"
    )
    with pytest.raises(
        FileNotFoundError, match=r"has no geometry.json: give a folder that g2rl-analyze"
    ):
        read_geometry(DATA)


def test_stored_fidelity_agrees_with_its_pairs() -> None:
    pairs, summary = read_fidelity(DATA / "fidelity" / "start")
    ranks = pairs[["phi", "true/all"]].rank()
    row = rows_of(summary)["phi"]
    assert row["spearman"]["value"] == pytest.approx(np.corrcoef(ranks.T)[0, 1], abs=1e-4)
    assert row["pearson"]["value"] == pytest.approx(
        np.corrcoef(pairs[["phi", "true/all"]].T)[0, 1], abs=1e-4
    )


def test_blocks_stand_in_the_order_of_the_model(figures: list, tmp_path: Path) -> None:
    summary = read_fidelity(DATA / "fidelity" / "start")[1]
    assert list(summary["blocks"]) == sorted(summary["blocks"]), (
        "JSON sorts keys: no order to rely on"
    )
    fidelity_figures.draw_blocks(summary, tmp_path / "x.png")
    names = [text.get_text().split(" (")[0] for text in figures[0].axes[0].get_yticklabels()]
    assert names[::-1] == ["embedding", "layer.0", "layer.1", "layer.2", "final norm", "head"]
    lengths = [bar.get_width() for bar in figures[0].axes[0].patches]
    assert lengths[::-1] == [
        rows_of(summary, name)["phi"]["spearman"]["value"] for name in names[::-1]
    ]


def test_a_panel_shows_means_intervals_seeds_and_the_start() -> None:
    after = pd.DataFrame(
        {"arm": ["a"] * 3 + ["b"], "seed": [0, 1, 2, 0], "value": [1.0, 2.0, 3.0, 5.0]}
    )
    before = pd.DataFrame({"step": [0, 0, 7], "value": [0.2, 0.4, 9.0]})
    _, axis = plt.subplots()
    draw_panel(axis, before, after, ["a", "b"], {"a": (0, 0, 0), "b": (0, 0, 0)})
    marks = {line.get_marker(): [] for line in axis.lines}
    for line in axis.lines:
        marks[line.get_marker()].append(np.ravel(line.get_ydata()).tolist())
    assert marks["D"] == [[2.0], [5.0]]
    assert marks["o"] == [[1.0, 2.0, 3.0]], "one seed has no dots beside it"
    [start] = [y for y in marks["None"] if len(set(y)) == 1 and y[0] < 1]
    assert start[0] == pytest.approx(0.3), "step 0 only"
    [bar] = axis.collections
    low, high = bar.get_segments()[0][:, 1]
    assert (low, high) == pytest.approx((2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5), abs=1e-4)
    plt.close()


def test_words_of_the_ends() -> None:
    assert tick_names(["lam=0.1", "lam=10"]) == ["0.1", "10"]
    assert tick_names(["none", "g2rl"]) == ["none", "g2rl"]
    assert tick_names(["lam=1", "clip=3"]) == ["lam=1", "clip=3"]
    after = pd.DataFrame({"arm": ["lam=0", "lam=0", "lam=1"], "value": [0.2, 0.4, 0.6]})
    assert spread(after) == "0.30 (λ = 0) to 0.60 (λ = 1)"
    assert spread(after.assign(value=[0.5, 0.5, 0.501])).startswith("0.500 (λ = 0) to 0.501")
    names = [
        "eval/c/pass@1",
        "eval/c/pass@4",
        "eval/c/pass@16",
        "eval/c/pass@16_low",
        "probe/cosine",
        "probe/cosine_wrong_wrong",
    ]
    frame = frame_of({("none", 0, 0, name): 0.0 for name in names})
    assert list(outcome_panels(frame)) == ["eval/c/pass@1", "eval/c/pass@16", "probe/cosine"]
    assert list(probe_panels(frame, "cosine", "")) == ["probe/cosine", "probe/cosine_wrong_wrong"]


def test_a_group_by_hand(figures: list, tmp_path: Path) -> None:
    """Three responses, the second right: it comes first, and S is reordered with it."""
    pairs = pd.DataFrame({"first": [0, 0, 1], "second": [1, 2, 2], "cosine": [0.5, -0.25, 0.125]})
    cosine_GG = group_plot.cosines_of(pairs, 3)
    assert cosine_GG.tolist() == [[1, 0.5, -0.25], [0.5, 1, 0.125], [-0.25, 0.125, 1]]
    means = group_plot.class_means(cosine_GG, np.array([False, True, False]))
    assert means == {"correct-wrong": 0.3125, "wrong-wrong": -0.25}
    with pytest.raises(ValueError, match="not the pairs of one group of 4"):
        group_plot.cosines_of(pairs, 4)
    at = {"problem": "p", "sampled_at": 0.6, "scored_at": 1.0}
    responses = pd.DataFrame(
        {
            "sample": [0, 1, 2],
            "correct": [False, True, False],
            "prompt": "?",
            "completion": ["a", "b $2", "c"],
        }
    ).assign(**at)
    tables = {"pairs": pairs.assign(**at), "responses": responses}
    group_plot.draw_group(tables, {"model": "m", "top_p": 1.0, "top_k": 0}, tmp_path / "x.png")
    heat, texts = figures[0].axes[0], figures[0].axes[1]
    assert heat.images[0].get_array().tolist() == [
        [1, 0.5, 0.125],
        [0.5, 1, -0.25],
        [0.125, -0.25, 1],
    ]
    assert [label.get_text() for label in heat.get_yticklabels()] == ["1 ✓", "0 ✗", "2 ✗"]
    assert [text.get_text() for text in texts.texts] == [r"b \$2", "a", "c"]
    assert "sampled at temperature 0.6, no truncation; p_t scored at temperature 1" in (
        figures[0].get_supxlabel()
    )
    with pytest.raises(ValueError, match="no problem 'q'; there are p"):
        group_plot.draw_group(tables, {"model": "m"}, tmp_path / "x.png", problem="q")


def test_the_most_mixed_group_and_the_cut() -> None:
    responses = pd.DataFrame(
        {"problem": ["a"] * 4 + ["b"] * 4, "correct": [1, 0, 0, 0, 1, 1, 0, 0]}
    )
    assert group_plot.most_mixed(responses) == "b"
    assert group_plot.cut("one\n  two", 20) == "one two"
    short = group_plot.cut("try 1 + 2 and then some more so 3", 17)
    assert short == "try 1 + … re so 3", "7 characters at each end and 3 between"


@pytest.fixture
def maker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """notebooks/make_data.py, writing into a folder of its own."""
    spec = importlib.util.spec_from_file_location("make_data", NOTEBOOKS / "make_data.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "DATA", tmp_path / "data")
    return module


def test_data_are_made_again_from_folders(
    maker: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From what ships itself, under a machine's path, and from runs."""
    source = tmp_path / "from"
    for name in ("geometry/g2rl", "fidelity/start"):
        (source / name).mkdir(parents=True)
        for path in (DATA / name).iterdir():
            (source / name / path.name).write_bytes(path.read_bytes())
    responses = pd.read_parquet(source / "geometry" / "g2rl" / "responses.parquet")
    left_out = ["gold", "answer", "route", "finish", "style", "answer_class"]
    responses.assign(**dict.fromkeys(left_out, "")).to_parquet(
        source / "geometry" / "g2rl" / "responses.parquet"
    )
    place = source / "geometry" / "g2rl" / "geometry.json"
    text = place.read_text(encoding="utf-8")
    place.write_text(text.replace("after ", "after /some/where/else/"), encoding="utf-8")
    words = [
        "--geometry",
        f"x={source / 'geometry' / 'g2rl'}",
        "--fidelity",
        f"y={source / 'fidelity/start'}",
    ]
    monkeypatch.setattr(sys, "argv", ["make_data.py", *words])
    maker.main()
    again = tmp_path / "data" / "geometry" / "x"
    assert json.loads((again / "geometry.json").read_text(encoding="utf-8")) == json.loads(text)
    tables, _ = read_geometry(again)
    original, _ = read_geometry(DATA / "geometry" / "g2rl")
    assert tables["pairs"].equals(original["pairs"])
    assert tables["responses"].equals(original["responses"])
    pairs, summary = read_fidelity(tmp_path / "data" / "fidelity" / "y")
    kept, known = read_fidelity(DATA / "fidelity" / "start")
    assert pairs.equals(kept)
    assert summary == known


def test_unfinished_runs_are_left_out_of_the_data(
    maker: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for signal, seed, finished in (("none", 0, True), ("none", 1, False), ("g2rl", 0, True)):
        folder = tmp_path / "runs" / signal / f"seed{seed}"
        folder.mkdir(parents=True)
        exploration = {"_target_": f"g2rl.exploration.{signal}.Class"} | (
            {"lam": 1} if signal == "g2rl" else {}
        )
        config = {"seed": seed, "trainer": {"steps": 1}, "exploration": exploration}
        (folder / "config.yaml").write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML
        (folder / "metrics.jsonl").write_text(
            '{"step": 1, "train/length": 7, "update/kl": 0}\n', encoding="utf-8"
        )
        if finished:
            (folder / "summary.json").write_text("{}", encoding="utf-8")
    runs = tmp_path / "runs"
    words = ["--signals", str(runs), "--lam", str(runs / "g2rl"), "--lam-zero", str(runs / "none")]
    monkeypatch.setattr(sys, "argv", ["make_data.py", *words])
    maker.main()
    assert f"left out, not finished: {runs / 'none' / 'seed1'}" in capsys.readouterr().out
    frame = read_runs(tmp_path / "data" / "signals.parquet")
    assert frame[["arm", "seed"]].drop_duplicates().values.tolist() == [["none", 0], ["g2rl", 0]]
    assert set(frame["run"]) == {"none/seed0", "g2rl/seed0"}
    assert set(frame["metric"]) == {"train/length"}, "only what is drawn"
    assert set(read_runs(tmp_path / "data" / "lambda.parquet")["arm"]) == {"lam=0", "lam=1"}


def test_no_band_of_a_share_leaves_0_and_1_in_any_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arms near both bounds, whose t-intervals would run beyond; a length is not cut."""
    shares = (
        "eval/b/pass@1",
        "train/accuracy",
        "probe/negative_pairs",
        "geometry/negative_pairs",
        "negative_pairs",
    )
    near = {"low": (0.0, 0.02, 0.1), "high": (1.0, 0.97, 0.9)}
    values: dict[tuple[str, int, int, str], float] = {}
    for metric in shares:
        for arm, of_arm in near.items():
            for seed, value in enumerate(of_arm):
                for step in (0, 1, 2):
                    values[arm, seed, step, metric] = value
    for seed in range(3):
        values["low", seed, 1, "train/length"] = 0.1 * seed
    frame = frame_of(values)

    # bands over steps, on files and in pages
    for metric in shares:
        for arm in near:
            drawn = curves.curve(frame, arm, metric)
            assert drawn is not None
            assert drawn.low.min() >= 0, metric
            assert drawn.high.max() <= 1, metric
            assert (drawn.high - drawn.low).min() > 0.05, "an interval all the same"
    length = curves.curve(frame, "low", "train/length")
    assert length is not None
    assert length.low[0] < 0, "only shares have bounds"

    # bars of the ends
    kept: list[Any] = []
    monkeypatch.setattr(ends, "save_figure", lambda figure, path: kept.append(figure) or path)
    panels = {metric: (metric, "share") for metric in shares}
    ends.draw_ends(frame, panels, Path("unused.png"), title="", caption="")
    bars = 0
    for axis in kept[0].axes:
        for collection in axis.collections:
            heights = np.concatenate([path.vertices[:, 1] for path in collection.get_paths()])
            assert heights.min() >= 0
            assert heights.max() <= 1
            bars += 1
    assert bars == len(shares) * len(near)
    plt.close("all")
