"""Files of settings are read in one way, whoever asks for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from g2rl.cli.bakeoff.plan import _fingerprint
from g2rl.cli.build import signals
from g2rl.cli.config.settings_file import read_settings


def test_an_empty_file_holds_no_settings_and_an_absent_one_is_told_by_the_system(
    tmp_path: Path,
) -> None:
    (tmp_path / "empty.yaml").touch()
    assert read_settings(tmp_path / "empty.yaml") == {}
    with pytest.raises(FileNotFoundError):
        read_settings(tmp_path / "absent.yaml")


def test_a_damaged_part_of_a_combination_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "exploration" / "mine.yaml"
    path.parent.mkdir()
    path.write_text("3\n")
    monkeypatch.setattr(signals, "own_folders", lambda: (tmp_path,))
    with pytest.raises(ValueError, match=f"^{path} holds no settings"):
        signals.signal_file("mine", "exploration.parts")


def test_a_damaged_experiment_of_a_plan_is_named(tmp_path: Path) -> None:
    path = tmp_path / "experiment" / "short.yaml"
    path.parent.mkdir()
    path.write_text("a: [\n")
    with pytest.raises(ValueError, match=f"^{path} cannot be read as YAML: while parsing"):
        _fingerprint("short", [tmp_path])
