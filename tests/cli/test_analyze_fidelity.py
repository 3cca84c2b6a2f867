"""g2rl-analyze fidelity: what it writes for the tiny policy, settings that are refused, and the
command."""

from __future__ import annotations

import json
import subprocess
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
from omegaconf import OmegaConf

from g2rl.analysis.columns import FIDELITY_PAIRS, FIDELITY_RESPONSES
from g2rl.cli.config.choices import choices
from g2rl.cli.config.mistakes import groups_of
from g2rl.cli.jobs import fidelity as fidelity_job
from g2rl.cli.jobs.fidelity import OUTPUTS, fidelity
from tests import commands, support
from tests.columns import wrongly_described
from tests.support import DATA

SMALL = ("problems=3", "responses=3", "max_tokens=30", "resamples=50")
BLOCKS = ["embedding", "layer.0", "layer.1", "layer.2", "final norm", "head"]


composed = partial(support.composed, command="analyze_fidelity")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fidelity")
    fidelity(composed(*SMALL), folder)
    return folder


def test_the_tiny_policy_is_measured(finished: Path) -> None:
    pairs = pd.read_parquet(finished / "pairs.parquet")
    assert len(pairs) == 3 * 3
    cosines = [
        "phi",
        "hidden",
        "embedding",
        "ngram",
        "true/all",
        *(f"true/{name}" for name in BLOCKS),
    ]
    assert set(pairs) == {
        "problem",
        "first",
        "second",
        "pair",
        "identical",
        "entropy",
        "verdict",
        *cosines,
    }
    assert wrongly_described(finished, FIDELITY_PAIRS, FIDELITY_RESPONSES) == []
    assert pairs[cosines].abs().to_numpy().max() <= 1 + 1e-9
    assert not pairs.isna().to_numpy().any()
    summary = json.loads((finished / "fidelity.json").read_text(encoding="utf-8"))
    assert list(summary["blocks"]) == sorted(BLOCKS), "JSON keys are sorted"
    assert sum(b["gradient_share"] for b in summary["blocks"].values()) == pytest.approx(1)
    assert (summary["pairs"], summary["groups"], summary["projection"]) == (9, 3, None)
    row = next(r for r in summary["correlations"] if r["predictor"] == "phi")
    frame = pairs[["phi", "true/all"]]
    assert row["spearman"]["value"] == pytest.approx(frame.corr(method="spearman").iloc[0, 1])
    assert row["pearson"]["value"] == pytest.approx(frame.corr().iloc[0, 1])
    table = (finished / "table.md").read_text(encoding="utf-8")
    assert "sampled at temperature 1 with no truncation" in table
    assert f"{row['pearson']['value']:.3f}" in table
    assert (finished / "fidelity.png").stat().st_size > 20_000


@pytest.fixture
def unfigured(monkeypatch: pytest.MonkeyPatch) -> None:
    """No figure, for tests that look at numbers."""
    monkeypatch.setattr(fidelity_job, "draw", lambda pairs, summary, words, file: None)


def test_the_same_settings_give_the_same_table_and_others_are_refused(
    finished: Path, unfigured: None
) -> None:
    before = (finished / "pairs.parquet").read_bytes()
    fidelity(composed(*SMALL), finished)
    assert (finished / "pairs.parquet").read_bytes() == before
    with pytest.raises(ValueError, match=r"seed: 0 -> 1"):
        fidelity(composed(*SMALL, "seed=1"), finished)


def test_projection_blocks_and_no_encoder(tmp_path: Path, unfigured: None) -> None:
    fidelity(composed(*SMALL, "projection=512", "blocks=[layer.2,head]", "embed=false"), tmp_path)
    pairs = pd.read_parquet(tmp_path / "pairs.parquet")
    assert "embedding" not in pairs
    assert {name for name in pairs if name.startswith("true/")} == {
        "true/all",
        "true/layer.2",
        "true/head",
    }
    table = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert "sketched to 512 cells a block" in table
    assert "of layer.2, head only" in table


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("problems=300", "countdown has 256"),
        ("responses=1", "at least 2"),
        ("blocks=[layer.7]", r"the model has embedding, layer\.0"),
        ("projection=0", "projection must be null or >= 1"),
        ("run=nowhere", "there is no folder nowhere"),
        ("temperature=0", "^temperature=0: need a temperature > 0"),
        ("feature_temperature=-1", "^feature_temperature=-1: need a temperature > 0"),
        ("resamples=0", "resamples=0: must be at least 1"),
        ("max_tokens=600", "over the model's 512 positions"),
    ],
)
def test_settings_that_cannot_be_are_refused(override: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        fidelity(composed(*SMALL, override), tmp_path)


def test_a_suite_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="choose one"):
        fidelity(composed(*SMALL, "benchmark=math", f"data_dir={DATA}"), tmp_path)


@pytest.mark.parametrize("group", ["model", "task", "benchmark", "encoder", "engine"])
def test_every_choice_composes(group: str) -> None:
    assert group in groups_of("analyze_fidelity")
    for choice in choices(group):
        # model=hf is any model, which the user names
        named = ["model.source=builtin:tiny"] if (group, choice) == ("model", "hf") else []
        config = composed(f"{group}={choice}", f"data_dir={DATA}", *named)
        OmegaConf.to_container(config, resolve=True, throw_on_missing=True)


def test_the_command_makes_its_folder_and_names_a_misspelt_setting(tmp_path: Path) -> None:
    program = "from g2rl.cli.analyze import fidelity; fidelity()"

    def command(*words: str) -> subprocess.CompletedProcess[str]:
        return commands.run(["-c", program, *words], tmp_path)

    wrong = command("respones=4")
    assert wrong.returncode == 2
    assert "did you mean responses" in wrong.stderr
    done = command(*SMALL, "projection=512")
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "evals").iterdir()
    assert folder.name.startswith("tiny-fidelity-countdown")
    assert {path.name for path in folder.iterdir()} >= set(OUTPUTS)
    assert str(folder.relative_to(tmp_path)) in done.stdout
    refused = command(*SMALL, "run=nowhere")
    assert refused.returncode == 1
    assert "there is no folder " in refused.stderr
