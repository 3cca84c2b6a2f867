"""What is wrong with a signal of one's own is said with its class, the line and the mend."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from g2rl.cli.build.signals import build_signal
from g2rl.exploration.asking import NEED_OF_FIELD, SignalError, ask, partition_of
from g2rl.exploration.combined import Combined
from g2rl.exploration.signal import NEEDS, Signal
from g2rl.exploration.uniqueness import Uniqueness
from g2rl.formulas.advantages import GroupAdvantage
from g2rl.training.observers import OncePerBatch, observe
from g2rl.types import GroupBatch
from tests.support import composed

HEAD = "from g2rl.exploration import Shaped, Stateless\nimport torch\n\n"
NAMED = 'name = "mine"'
ASKS = "needs = frozenset()"


def batch(**fields: Any) -> GroupBatch:
    return GroupBatch(
        rewards_PG=torch.tensor([[1.0, -1.0]]),
        correct_PG=torch.tensor([[True, False]]),
        lengths_PG=torch.tensor([[2, 1]]),
        **fields,
    )


def own(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str, *words: str) -> Signal:
    """A signal of a file of the user's own, built as g2rl-train builds it."""
    module = f"own_{abs(hash(body))}"
    (folder / f"{module}.py").write_text(HEAD + body, encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    config = composed("exploration=none", f"exploration._target_={module}.Mine", *words)
    return build_signal(config.exploration)


def shaping(statement: str, base: str = "Stateless", *attributes: str) -> str:
    lines = [f"class Mine({base}):"]
    for attribute in attributes or (NAMED, ASKS):
        lines.append(f"    {attribute}")
    return "\n".join([*lines, "    def __call__(self, batch):", f"        {statement}\n"])


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        (
            "return Shaped(batch.rewards_PG + batch.logp_mean_PG)",
            r"raised TypeError: .*, in line 8 of own_\d+\.py; batch\.logp_\w+ is None unless it "
            r"is asked for: name 'logps' in needs$",
        ),
        ("raise KeyError('my bug')", r"raised KeyError: 'my bug', in line 8 of own_\d+\.py$"),
        (
            "return batch.rewards_PG",
            r"returned a torch.float32 tensor of shape \(1, 2\) instead of a Shaped",
        ),
        ("return Shaped(None)", "gave None as rewards"),
        (
            "return Shaped(batch.rewards_PG, metrics={'m': batch.rewards_PG.mean()})",
            r"metric m is a torch\.float32 tensor of shape \(\); it must be an int or a float",
        ),
        (
            "return Shaped(batch.rewards_PG, metrics={'m': torch.ones(2).numpy()[0]})",
            "metric m is a float32; it must be an int or a float",
        ),
        (
            "return Shaped(batch.rewards_PG, metrics={'m': 10**400})",
            "metric m is an int that no float can hold; scale it",
        ),
        (
            "return Shaped(batch.rewards_PG, entropy_coef=-(10**5000))",
            "entropy_coef is no finite number, but a huge int",
        ),
        (
            "return Shaped(batch.rewards_PG, entropy_coef=float('-inf'))",
            "entropy_coef is no finite number, but -inf",
        ),
        ("return Shaped(batch.rewards_PG, metrics=None)", "gave None as metrics, not a dictionary"),
        (
            "return Shaped(batch.rewards_PG, diagnostics={'d': torch.zeros(4)})",
            r"diagnostic d is a torch\.float32 tensor of shape \(4,\), the batch has the shape",
        ),
        (
            "return Shaped(batch.rewards_PG, diagnostics={'d': [0.0, 0.0]})",
            "diagnostic d is a list, the batch has",
        ),
        ("return Shaped(batch.rewards_PG, keep_P=[True])", "gave a list as keep_P, not a tensor"),
        (
            "return Shaped(batch.rewards_PG, entropy_coef=float('nan'))",
            "entropy_coef is no finite number, but nan",
        ),
        # as many numbers as tokens, but of other responses
        (
            "return Shaped(batch.rewards_PG, token_bonus=[torch.ones(1), torch.ones(2)])",
            "gave a list as token_bonus; it must be a list with one tensor for each response",
        ),
        (
            "return Shaped(batch.rewards_PG, token_bonus=torch.ones(3))",
            r"gave a torch\.\w+ tensor of shape \(3,\) as token_bonus",
        ),
        # what would end a run without a word, or hide the line
        ("raise SystemExit(0)", r"raised SystemExit: 0, in line 8 of own_\d+\.py$"),
        ("raise ValueError('a\\n\\nb')", r"raised ValueError: a b, in line 8 of own_\d+\.py$"),
    ],
)
def test_a_signal_that_fails_is_named_with_its_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    statement: str,
    words: str,
) -> None:
    signal = own(tmp_path, monkeypatch, shaping(statement))
    who = r"^exploration=mine \(own_\d+\.Mine\):? "
    with pytest.raises(SignalError, match=who + words):
        ask(signal, batch())

    # as a part of a combination, too
    with pytest.raises(SignalError, match=who + words):
        Combined([signal], GroupAdvantage())(batch())

    # and as an observer, whose error ends in a warning
    with caplog.at_level(logging.WARNING):
        observe([signal], lambda _: batch(), 1)
    assert "exploration=mine" in caplog.text


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (shaping("pass", "Stateless", NAMED), "has no needs; write needs"),
        (shaping("pass", "Stateless", NAMED, 'needs = "logps"'), "has needs='logps'"),
        (shaping("pass", "Stateless", ASKS), "has no name"),
        (shaping("pass", "object", NAMED, ASKS), "has no state_dict; derive it from .*Stateless"),
        (f"class Mine(Stateless):\n    {NAMED}\n    {ASKS}\n", "cannot be called with a batch"),
        (
            "def Mine(batch):\n    return Shaped(batch.rewards_PG)\n",
            "no class, and asks for batch;",
        ),
        ("def Mine(b):\n    return Shaped(b.rewards_PG)\n", "no class, and asks for b; name a"),
        (
            shaping("pass").replace("Mine", "Of") + "\nMine = Of()\n",
            "no class, and asks for batch;",
        ),
    ],
)
def test_what_is_no_signal_is_refused_when_it_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, words: str
) -> None:
    with pytest.raises(SignalError, match=rf"^exploration\._target_=own_\d+\.Mine:? .*{words}"):
        own(tmp_path, monkeypatch, code)


@pytest.mark.parametrize("level", ["reward", "estimator", "advantage", "loss"])
def test_a_part_of_any_level_that_fails_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, level: str
) -> None:
    code = shaping("raise KeyError('my bug')", "Stateless", NAMED, ASKS, f'level = "{level}"')
    combined = Combined([own(tmp_path, monkeypatch, code)], GroupAdvantage())
    words = r"^exploration=mine \(own_\d+\.Mine\) raised KeyError: 'my bug', in line 9"
    with pytest.raises(SignalError, match=words):
        combined(batch())


def test_a_field_that_was_asked_for_is_not_blamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = shaping("return batch.answer_keys[0]", "Stateless", NAMED, 'needs = {"answers"}')
    with pytest.raises(SignalError, match=r"raised TypeError: .*, in line 8 of own_\d+\.py$"):
        ask(own(tmp_path, monkeypatch, code), batch())


def test_a_bonus_that_fits_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = shaping("return Shaped(batch.rewards_PG, token_bonus=[torch.ones(2), torch.ones(1)])")
    assert ask(own(tmp_path, monkeypatch, code), batch()).token_bonus is not None


def test_a_plan_of_tokens_that_fails_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = shaping("pass") + "    def tokens(self, view):\n        raise KeyError('plan')\n"
    signal = own(tmp_path, monkeypatch, code)
    with pytest.raises(SignalError, match=r"exploration=mine .* raised KeyError: .*in line 10 of"):
        Combined([signal], GroupAdvantage())


class OwnParts:
    """A partitioner and an encoder of the user's own, which give what they are told."""

    needs: frozenset[str] = frozenset()
    name = "own"

    def __init__(self, gives: Any) -> None:
        self.gives = gives

    def __call__(self, batch: GroupBatch) -> Any:
        if isinstance(self.gives, BaseException):
            raise self.gives
        return self.gives

    def encode(self, texts: Sequence[str]) -> Any:
        return self(batch())


@pytest.mark.parametrize(
    ("gives", "words"),
    [
        (KeyError("my bug"), r"raised KeyError: 'my bug', in line \d+ of test_asking\.py$"),
        (SystemExit(0), r"raised SystemExit: 0, in line \d+ of test_asking\.py$"),
        ([[0, 1]], r"gave a list; it must be a tensor of whole numbers of shape \(1, 2\)$"),
        (torch.tensor([0, 1]), r"gave a torch\.\w+ tensor of shape \(2,\); it must be"),
        (torch.tensor([[0.0, 1.0]]), r"gave a torch\.\w+ tensor of shape \(1, 2\); it must be"),
    ],
)
def test_a_partitioner_that_fails_is_named(gives: Any, words: str) -> None:
    with pytest.raises(SignalError, match=rf"^partition=tests\.exploration\.\S+Parts {words}"):
        partition_of(OwnParts(gives), batch())
    assert partition_of(OwnParts(torch.tensor([[0, 1]])), batch()).tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("gives", "words"),
    [
        (KeyError("my bug"), r"raised KeyError: 'my bug', in line \d+ of test_asking\.py$"),
        (torch.ones(2, 3).numpy(), "gave a ndarray for 2 texts; it must be a tensor with one row"),
        (torch.ones(3, 3), r"gave a torch\.\w+ tensor of shape \(3, 3\) for 2 texts"),
        (torch.ones(2), r"gave a torch\.\w+ tensor of shape \(2,\) for 2 texts"),
        (
            torch.ones(2, 3, dtype=torch.int64),
            r"gave a torch\.int64 tensor of shape \(2, 3\) for 2 texts",
        ),
    ],
)
def test_an_encoder_that_fails_is_named(gives: Any, words: str) -> None:
    with pytest.raises(SignalError, match=rf"^encoder=tests\.exploration\.\S+Parts {words}"):
        OncePerBatch(OwnParts(gives)).encode(["a", "b"])
    assert OncePerBatch(OwnParts(torch.ones(2, 3))).encode(["a", "b"]).shape == (2, 3)


def test_signals_of_g2rl_keep_their_own_errors() -> None:
    with pytest.raises(ValueError, match="exploration=uniqueness needs") as caught:
        ask(Uniqueness(), batch())
    assert not isinstance(caught.value, SignalError)


def test_every_need_has_a_field() -> None:
    assert set(NEED_OF_FIELD.values()) == NEEDS
    assert all(hasattr(batch(), field) for field in NEED_OF_FIELD)
