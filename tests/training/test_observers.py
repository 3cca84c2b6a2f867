"""Observers measure and touch nothing: not one byte of the training, whatever they do."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from g2rl.cli.jobs.train import train
from g2rl.exploration.encoders.ngram import NgramHashing
from g2rl.policy.loading import load
from g2rl.policy.policy import Policy
from g2rl.policy.scoring import Scores
from g2rl.tasks.countdown_traces import trace
from g2rl.training import stages, validation
from g2rl.training.observers import observe, private_copy
from g2rl.types import GroupBatch, Shaped
from tests.support import NO_EVALUATION, SMOKE, composed, metric_rows, untimed

COMMON = (
    *SMOKE,
    *NO_EVALUATION,
    "trainer.steps=1",
    "task.max_response_tokens=24",
    "optimizer.mini_batches=2",
)


def run(folder: Path, *words: str) -> Path:
    train(composed(*COMMON, *words), folder)
    return folder


def training_of(folder: Path) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    """The weights, and the rows without what observers add and what the clock says."""
    rows = []
    for row in metric_rows(folder):
        rows.append({k: v for k, v in untimed(row).items() if not k.startswith("observe/")})
    return load_file(folder / "model" / "model.safetensors"), rows


def assert_same_training(one: Path, other: Path) -> None:
    weights, rows = training_of(one)
    other_weights, other_rows = training_of(other)
    assert rows == other_rows
    assert all(torch.equal(weights[name], other_weights[name]) for name in weights)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny policy with a vocabulary of 4,200: the head is so large that its loss is
    differentiated in the forward, except in a forward that was kept."""
    loaded = load("builtin:tiny", device="cpu")
    words = len(loaded.model.get_output_embeddings().weight)
    loaded.model.resize_token_embeddings(4200, mean_resizing=False)
    head_VD = loaded.model.get_output_embeddings().weight

    # no hidden state points where the fillers do, so they are never drawn
    with torch.no_grad():
        traces = [" ".join(trace(0, number, 512)) for number in range(20)]
        hidden = []
        for text in traces:
            ids = torch.tensor([loaded.tokenizer.encode(f"<bos> {text} <eos>")])
            hidden.append(loaded.model.model(ids).last_hidden_state[0])
        mean_D = torch.cat(hidden).mean(0)
        head_VD[words:] = -20 * mean_D / mean_D.norm()
    folder = tmp_path_factory.mktemp("wide")
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)  # type: ignore[attr-defined]
    return f"model.source={folder}"


@pytest.mark.parametrize("signal", ["none", "evol"])
def test_not_one_byte_of_the_training_changes(signal: str, wide: str, tmp_path: Path) -> None:
    """With a large vocabulary; `tests/whole/test_training.py` has the tiny one."""
    words = [f"exploration={signal}", wide]
    alone = run(tmp_path / "alone", *words)
    observers = "g2rl,entropy" if signal == "none" else "g2rl,entropy,evol"
    observed = run(tmp_path / "observed", *words, f"exploration.observe=[{observers}]")
    assert "observe/g2rl/cosine" in metric_rows(observed)[1]
    assert_same_training(alone, observed)

    # something was learnt, so that there was something to change
    assert metric_rows(alone)[1]["update/grad_norm"] > 0


def test_the_wide_head_is_fused_only_where_no_forward_is_kept(
    wide: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What would tell a kept forward from the update's own: the test above can fail."""
    losses: list[bool] = []
    forward = Policy.forward

    def spy(self: Policy, *args: Any, **kwargs: Any) -> Any:
        output = forward(self, *args, **kwargs)
        losses.append(output.loss is not None)
        return output

    monkeypatch.setattr(Policy, "forward", spy)
    run(tmp_path / "none", wide, "exploration=none", "exploration.observe=[g2rl]")
    assert any(losses)
    fused = sum(losses)
    losses.clear()
    run(tmp_path / "g2rl", wide, "exploration=g2rl")
    assert sum(losses) < fused


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without observers."""
    return run(tmp_path_factory.mktemp("alone"), "exploration=none")


def nan_features(monkeypatch: pytest.MonkeyPatch) -> str:
    score = stages.score

    def broken(*args: Any, **kwargs: Any) -> Scores:
        scores = score(*args, **kwargs)
        if scores.features_ND is not None:
            scores.features_ND[5, 0] = torch.nan
        return scores

    monkeypatch.setattr(stages, "score", broken)
    return "g2rl"


def nan_embeddings(monkeypatch: pytest.MonkeyPatch) -> str:
    def broken(self: object, texts: list[str]) -> torch.Tensor:
        return torch.full((len(texts), 4), torch.nan)

    monkeypatch.setattr(NgramHashing, "encode", broken)
    return "evol"


def dead_encoder(monkeypatch: pytest.MonkeyPatch) -> str:
    def broken(self: object, texts: list[str]) -> torch.Tensor:
        raise RuntimeError("no connection")

    monkeypatch.setattr(NgramHashing, "encode", broken)
    return "evol"


def broken_observer(monkeypatch: pytest.MonkeyPatch) -> str:
    def broken(self: object, batch: GroupBatch) -> Shaped:
        raise KeyError("a defect")

    monkeypatch.setattr("g2rl.exploration.g2rl.GradientGuided.__call__", broken)
    return "g2rl"


def vandal(monkeypatch: pytest.MonkeyPatch) -> str:
    def broken(self: object, batch: GroupBatch) -> Shaped:
        torch.manual_seed(99)
        for tensor in batch.tensors().values():
            tensor.zero_()
        for answers in batch.answers or []:
            answers.clear()
        return Shaped(batch.rewards_PG, metrics={"cosine": float("nan")})

    monkeypatch.setattr("g2rl.exploration.g2rl.GradientGuided.__call__", broken)
    return "g2rl"


@pytest.mark.parametrize(
    "fault", [nan_features, nan_embeddings, dead_encoder, broken_observer, vandal]
)
def test_a_fault_of_an_observer_costs_its_own_metrics(
    fault: Callable[[pytest.MonkeyPatch], str],
    alone: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    name = fault(monkeypatch)
    with caplog.at_level(logging.WARNING):
        observed = run(
            tmp_path / "observed", "exploration=none", "exploration.observe=[entropy,g2rl,evol]"
        )
    assert_same_training(alone, observed)
    assert f"the observer {name} measured nothing" in caplog.text
    for row in metric_rows(observed)[1:]:
        assert row["update/skipped"] == 0.0
        measured = {key for key in row if key.startswith(f"observe/{name}/")}
        assert measured == {f"observe/{name}/failed"}
        other = "evol" if name == "g2rl" else "g2rl"
        assert len([key for key in row if key.startswith(f"observe/{other}/")]) > 1


def test_a_column_that_does_not_fit_the_table_is_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Odd:
        name = "odd"
        needs: frozenset[str] = frozenset()

        def __call__(self, batch: GroupBatch) -> Shaped:
            return Shaped(batch.rewards_PG, diagnostics={"odd": torch.zeros(3)})

    batch = GroupBatch(torch.ones(2, 2), torch.ones(2, 2).bool(), torch.ones(2, 2).long())
    found = observe([Odd()], lambda _: batch, 7)  # type: ignore[list-item]
    assert found.metrics == {"observe/odd/failed": 1.0}
    assert not found.diagnostics
    assert "step 7" in caplog.text


def test_an_observer_that_draws_and_fails_leaves_every_generator_as_it_was() -> None:
    class Gambler:
        name = "gambler"
        needs: frozenset[str] = frozenset()

        def __call__(self, batch: GroupBatch) -> Shaped:
            random.seed(1)
            np.random.seed(1)
            torch.manual_seed(1)
            torch.set_float32_matmul_precision("medium")
            raise ValueError("and then it fails")

    batch = GroupBatch(torch.ones(2, 2), torch.ones(2, 2).bool(), torch.ones(2, 2).long())

    def generators() -> list[object]:
        state = [random.getstate(), np.random.get_state()[1].tolist()]
        return [*state, torch.get_rng_state().tolist(), torch.get_float32_matmul_precision()]

    before = generators()
    found = observe([Gambler()], lambda _: batch, 7)  # type: ignore[list-item]
    assert found.metrics == {"observe/gambler/failed": 1.0}
    assert generators() == before


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_probe_that_cannot_measure_costs_its_own_metrics(
    value: float, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drawing: object
) -> None:
    score = validation.score

    def broken(*args: Any, **kwargs: Any) -> Scores:
        scores = score(*args, **kwargs)
        assert scores.features_ND is not None
        scores.features_ND[0] = value
        return scores

    monkeypatch.setattr(validation, "score", broken)
    probed = run(tmp_path, "exploration=none", "trainer.probe_problems=2", "benchmark.samples=2")
    for row in metric_rows(probed):
        found = {name for name in row if name.startswith("probe/")}
        assert found == {"probe/failed"}
    assert not list((probed / "probe").glob("*.parquet"))
    weights, _ = training_of(probed)
    expected, _ = training_of(alone)
    assert all(torch.equal(weights[name], expected[name]) for name in weights)


def test_a_private_copy_shares_no_memory() -> None:
    batch = GroupBatch(
        torch.ones(1, 2),
        torch.ones(1, 2).bool(),
        torch.ones(1, 2).long(),
        features_PGD=torch.ones(1, 2, 3),
        answers=[["1", None]],
    )
    copied = private_copy(batch)
    for name, tensor in batch.tensors().items():
        assert torch.equal(copied.tensors()[name], tensor)
        assert copied.tensors()[name].data_ptr() != tensor.data_ptr()
    assert copied.answers == batch.answers
    assert copied.answers is not batch.answers
