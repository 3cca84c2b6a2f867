"""Fingerprints of inputs: what changes them, and what a folder says of changed inputs."""

from __future__ import annotations

import json
import logging
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from g2rl.runs.inputs import (
    adapter_inputs,
    check_inputs,
    encoder_inputs,
    files_digest,
    grading_inputs,
    model_inputs,
    problems_digest,
)
from g2rl.tasks.grading.math import MathVerifier
from g2rl.types import Problem
from tests.support import told_by_g2rl


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(bytes(8_000_000))
    for name in ("config.json", "tokenizer.json", "chat_template.jinja", "README.md"):
        (folder / name).write_text(name)
    return folder


@pytest.mark.parametrize(
    ("file", "named"),
    [
        ("model.safetensors", {"weights"}),
        ("config.json", {"model configuration"}),
        ("tokenizer.json", {"tokenizer"}),
        ("chat_template.jinja", {"tokenizer"}),
        ("README.md", set()),
    ],
)
def test_one_changed_byte_of_a_model_changes_the_fingerprint_of_its_part(
    model: Path, file: str, named: set[str]
) -> None:
    before = model_inputs(model)
    assert set(before) == {"weights", "model configuration", "tokenizer"}
    assert model_inputs(model) == before
    content = bytearray((model / file).read_bytes())
    content[len(content) // 3] ^= 1
    (model / file).write_bytes(content)
    after = model_inputs(model)
    assert {name for name in before if before[name] != after[name]} == named


def test_a_gguf_model_is_the_file_that_is_read(model: Path) -> None:
    (model / "a.gguf").write_bytes(b"a")
    (model / "b.gguf").write_bytes(b"b")
    before = model_inputs(model, "a.gguf")
    (model / "b.gguf").write_bytes(b"c")
    assert model_inputs(model, "a.gguf") == before
    (model / "a.gguf").write_bytes(b"c")
    assert model_inputs(model, "a.gguf")["weights"] != before["weights"]


def test_a_name_on_a_hub_has_no_files(tmp_path: Path) -> None:
    assert model_inputs(tmp_path / "Qwen" / "Qwen3-1.7B-Base") == {}
    assert files_digest(tmp_path, ["*"]) is None


def test_adapters_and_encoders_have_fingerprints_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text("mean")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"1")
    folder = SimpleNamespace(source=str(tmp_path))
    adapter, encoder = adapter_inputs(tmp_path), encoder_inputs(folder)
    assert set(adapter) == {"adapter"}
    assert set(encoder) == {"encoder"}
    (tmp_path / "1_Pooling" / "config.json").write_text("cls")
    assert adapter_inputs(tmp_path) == adapter
    assert encoder_inputs(folder) != encoder

    # on a hub, and one without weights
    hub = SimpleNamespace(source="some/encoder", revision="abc")
    assert encoder_inputs(hub) == {"revision of the encoder": "abc"}
    assert encoder_inputs(SimpleNamespace(name="n-grams")) == {}


def test_problems_differ_by_everything_that_decides() -> None:
    one = Problem("a/1", "what?", "4", {"choices": ["3", "4"]})
    others = [
        [Problem("a/2", "what?", "4", {"choices": ["3", "4"]})],
        [Problem("a/1", "what??", "4", {"choices": ["3", "4"]})],
        [Problem("a/1", "what?", "5", {"choices": ["3", "4"]})],
        [Problem("a/1", "what?", "4", {"choices": ["4", "3"]})],
        [one, one],
        [],
    ]
    digests = {problems_digest(problems) for problems in [[one], *others]}
    assert len(digests) == 7
    assert problems_digest([one]) == problems_digest([one])


def test_what_grades_counts_by_its_files_and_versions(tmp_path: Path) -> None:
    one, other = tmp_path / "one.py", tmp_path / "other.py"
    for file in (one, other):
        file.write_text(f"NAME = {file.name!r}")
    functions = SimpleNamespace(code_files=lambda: [one, other])
    mathematics = SimpleNamespace(packages=("pytest", "no-such-package"))
    found = grading_inputs([functions, mathematics, SimpleNamespace()])
    assert set(found) == {"code of reward functions", "versions of grading packages"}
    versions = f"no-such-package (not installed), pytest {pytest.__version__}"
    assert found["versions of grading packages"] == versions

    # in any order, and with any byte
    assert grading_inputs([SimpleNamespace(code_files=lambda: [other, one]), mathematics]) == found
    one.write_text("NAME = 1")
    after = grading_inputs([functions, mathematics])
    assert after["code of reward functions"] != found["code of reward functions"]
    assert grading_inputs([SimpleNamespace(packages=(), code_files=list)]) == {}


def test_the_mathematics_goes_by_the_versions_that_are_installed() -> None:
    [versions] = grading_inputs([MathVerifier()]).values()
    assert f"math-verify {metadata.version('math-verify')}" in versions
    assert "not installed" not in versions


def test_changed_inputs_are_named_and_recorded_ones_are_kept(tmp_path: Path) -> None:
    check_inputs(tmp_path, {"weights": "1", "tokenizer": "1"}, continued=False)
    check_inputs(tmp_path, {"weights": "1", "tokenizer": "1"}, continued=True)
    with pytest.raises(ValueError, match="begun with other weights and tokenizer under"):
        check_inputs(tmp_path, {"weights": "2", "tokenizer": "2"}, continued=True)
    check_inputs(tmp_path, {"adapter": "1"}, continued=False)
    with pytest.raises(ValueError, match="other weights under"):
        check_inputs(tmp_path, {"weights": "2", "adapter": "1"}, continued=True)


@pytest.mark.parametrize("old", [None, {"weights": "of an earlier version"}])
def test_work_that_recorded_nothing_is_continued_with_a_warning(
    old: dict[str, str] | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if old is not None:
        (tmp_path / "inputs.json").write_text(json.dumps(old))
    with caplog.at_level(logging.WARNING):
        check_inputs(tmp_path, {"weights": "1"}, continued=True)
    assert "does not say with which inputs" in caplog.text
    assert "weights" in caplog.text

    # from here on it is recorded
    caplog.clear()
    check_inputs(tmp_path, {"weights": "1"}, continued=True)
    assert not told_by_g2rl(caplog)
    with pytest.raises(ValueError, match="other weights"):
        check_inputs(tmp_path, {"weights": "2"}, continued=True)


@pytest.mark.parametrize(
    "name", ["additional_chat_templates/default.jinja", "tekken.json", "bpe.codes", "x.spm"]
)
def test_a_new_file_of_the_tokenizer_changes_its_fingerprint(name: str, model: Path) -> None:
    before = model_inputs(model)
    (model / name).parent.mkdir(exist_ok=True)
    (model / name).write_text("a")
    with_file = model_inputs(model)
    (model / name).write_text("b")
    assert len({found["tokenizer"] for found in (before, with_file, model_inputs(model))}) == 3
    assert {part for part in before if before[part] != with_file[part]} == {"tokenizer"}


@pytest.mark.parametrize("content", ["", "[1]", "{", "[" * 100_000])
def test_a_file_that_cannot_be_read_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "inputs.json").write_text(content)
    with pytest.raises(ValueError, match=r"inputs\.json"):
        check_inputs(tmp_path, {"weights": "1"}, continued=True)
