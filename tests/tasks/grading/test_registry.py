"""Verifiers by name: every spelling finds its class, and no other code can be named."""

from __future__ import annotations

import pytest

from g2rl.tasks.countdown import CountdownVerifier
from g2rl.tasks.grading.choice import ChoiceVerifier
from g2rl.tasks.grading.gym import GymVerifier
from g2rl.tasks.grading.math import MathVerifier
from g2rl.tasks.grading.registry import VERIFIERS, UnknownVerifierError, verifier_named


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("math", MathVerifier),
        ("choice", ChoiceVerifier),
        ("reasoning_gym", GymVerifier),
        ("countdown", CountdownVerifier),
        ("g2rl.verify.math.MathVerifier", MathVerifier),
        ("g2rl.verify.mcq.ChoiceVerifier", ChoiceVerifier),
        ("g2rl.verify.gym.GymVerifier", GymVerifier),
        ("g2rl.tasks.countdown.CountdownVerifier", CountdownVerifier),
    ],
)
def test_every_spelling_finds_the_verifier(name: str, kind: type) -> None:
    assert type(verifier_named(name)) is kind


def test_the_path_of_each_class_finds_it() -> None:
    for name, path in VERIFIERS.items():
        verifier = verifier_named(path)
        assert f"{type(verifier).__module__}.{type(verifier).__qualname__}" == path
        assert type(verifier) is type(verifier_named(name))


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "builtins.eval",
        "g2rl.tasks.grading.grader.Grader",
        "g2rl.tasks.grading.absent.X",
        "g2rl.verify.os.system",
        "x",
        "",
    ],
)
def test_a_name_stands_for_no_other_code(name: str) -> None:
    with pytest.raises(UnknownVerifierError, match="no verifier"):
        verifier_named(name)
