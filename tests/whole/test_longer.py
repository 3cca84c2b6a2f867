"""A finished run is made longer by asking for more steps, and nothing else about it changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from g2rl.cli.folder import OtherSettingsError, refuse_shorter
from g2rl.cli.jobs.train import train
from g2rl.cli.sweep.finished import finished_score
from tests.support import FINISHED_RUN, composed, metric_rows

OTHERS = [word for word in FINISHED_RUN if not word.startswith("trainer.steps=")]


def test_a_run_that_is_made_longer_is_the_run_that_had_this_length_at_once(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shorter, longer = (composed(*OTHERS, f"trainer.steps={steps}") for steps in (2, 3))
    train(shorter, tmp_path)
    assert finished_score(shorter, tmp_path) is not None
    assert finished_score(longer, tmp_path) is None
    train(longer, tmp_path)
    assert "longer: 2 steps become 3; the learning rate stays" in capsys.readouterr().out

    # bit for bit, with one row a step
    ours = load_file(tmp_path / "model" / "model.safetensors")
    whole = load_file(finished_run / "model" / "model.safetensors")
    assert all(torch.equal(ours[name], tensor) for name, tensor in whole.items())
    assert [row["step"] for row in metric_rows(tmp_path)] == [0, 1, 2, 3]
    assert finished_score(longer, tmp_path) == finished_score(longer, finished_run)


def test_a_run_is_never_made_shorter(finished_run: Path) -> None:
    with pytest.raises(OtherSettingsError, match=r"has 3 steps already, and trainer\.steps=2"):
        refuse_shorter(finished_run, 2, "auto")
    refuse_shorter(finished_run, 2, "never")
    refuse_shorter(finished_run, 3, "auto")
    config = composed(*OTHERS, "trainer.steps=2")
    before = (finished_run / "config.yaml").read_bytes()
    with pytest.raises(OtherSettingsError):
        train(config, finished_run)
    assert (finished_run / "config.yaml").read_bytes() == before
