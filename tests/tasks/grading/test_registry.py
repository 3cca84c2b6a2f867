"""Verifiers by name: every spelling finds its class, and no other code can be named."""

from __future__ import annotations

import pytest

from g2rl.evaluation.files import verifier_name
from g2rl.tasks.countdown import CountdownVerifier
from g2rl.tasks.grading import grader
from g2rl.tasks.grading.choice import ChoiceVerifier
from g2rl.tasks.grading.grader import Graders
from g2rl.tasks.grading.gym import GymVerifier
from g2rl.tasks.grading.math import MathVerifier
from g2rl.tasks.grading.registry import VERIFIERS, UnknownVerifierError, verifier_named
from g2rl.types import Problem


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


def test_a_setting_stands_behind_a_name() -> None:
    for name in ("math:boxed_only", "g2rl.tasks.grading.math.MathVerifier:boxed_only"):
        verifier = verifier_named(name)
        assert verifier.boxed_only is True  # type: ignore[attr-defined]
        assert verifier_name(verifier) == "g2rl.tasks.grading.math.MathVerifier:boxed_only"
    assert verifier_named("math").boxed_only is False  # type: ignore[attr-defined]
    assert verifier_name(verifier_named("math")) == "g2rl.tasks.grading.math.MathVerifier"
    for name in ("math:other", "choice:boxed_only", "math:__class__"):
        with pytest.raises(UnknownVerifierError):
            verifier_named(name)


class NoWorkers:
    """A pool that nothing is given to, because the first stage settles it all."""

    def __init__(self, *settings: object) -> None:
        pass

    def close(self) -> None:
        pass


def test_verifiers_with_different_settings_have_graders_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(grader, "WorkerPool", NoWorkers)
    graders = Graders(workers=1, timeout_seconds=5.0, memory_mb=2048)
    try:
        loose, strict = (graders(MathVerifier(boxed_only)) for boxed_only in (False, True))
        problem = Problem("p", "", "4")
        assert loose.grade([("The answer is 4.", problem)])[0].correct
        assert not strict.grade([("The answer is 4.", problem)])[0].correct
        assert graders(MathVerifier(True)) is strict
    finally:
        graders.close()
