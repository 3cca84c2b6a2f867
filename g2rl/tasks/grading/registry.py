"""Find a verifier by the name that a samples file gives it.

The column ``verifier`` of samples.parquet holds the dotted path of a class. The path is looked up
in a closed table, so a file from elsewhere cannot make g2rl import or call anything else.
"""

from __future__ import annotations

import importlib
from typing import cast

from g2rl.tasks.grading.verifier import Verifier

VERIFIERS = {
    "math": "g2rl.tasks.grading.math.MathVerifier",
    "choice": "g2rl.tasks.grading.choice.ChoiceVerifier",
    "reasoning_gym": "g2rl.tasks.grading.gym.GymVerifier",
    "countdown": "g2rl.tasks.countdown.CountdownVerifier",
    "detour": "g2rl.tasks.detour.DetourVerifier",
    "forked_skills": "g2rl.tasks.forked_skills.ForkedSkillsVerifier",
    "arithmetic_sum": "g2rl.tasks.arithmetic.SumVerifier",
    "arithmetic_between": "g2rl.tasks.arithmetic.BetweenVerifier",
    "arithmetic_parts": "g2rl.tasks.arithmetic.PartsVerifier",
    "exact": "g2rl.tasks.grading.plain.ExactVerifier",
    "number": "g2rl.tasks.grading.plain.NumberVerifier",
}
"""Every verifier of g2rl: its short name and the path of its class. A new verifier is added
here."""

MOVED = {
    "g2rl.verify.mcq.": "g2rl.tasks.grading.choice.",
    "g2rl.verify.": "g2rl.tasks.grading.",
}
"""Where modules stood when older files were written, and where they stand now. The first prefix
that fits is replaced."""


SETTING = ":"
"""Stands between the name of a verifier and its setting: "math:boxed_only"."""
SETTINGS = {
    ("g2rl.tasks.grading.math.MathVerifier", "boxed_only"): {"boxed_only": True},
}
"""What each setting of a verifier means."""


class UnknownVerifierError(ValueError):
    """A name stands for none of g2rl's verifiers."""


def verifier_named(name: str) -> Verifier:
    """Make the verifier that a name stands for.

    Args:
        name: a short name ("math"), the path of the class ("g2rl.tasks.grading.math.MathVerifier"),
            or the path it had in an earlier version ("g2rl.verify.math.MathVerifier"); perhaps with
            a setting behind it ("math:boxed_only").

    Raises:
        UnknownVerifierError: for any other name. Nothing is imported then.
    """
    name, _, setting = name.partition(SETTING)

    # older files name modules by the places where they stood then
    class_path = VERIFIERS.get(name, present_path(name))
    if class_path not in VERIFIERS.values():
        raise UnknownVerifierError(f"there is no verifier {name!r} in this version of g2rl")

    # imported only now, because a caller that grades letters should not load the mathematics
    module_name, _, class_name = class_path.rpartition(".")
    verifier_class = getattr(importlib.import_module(module_name), class_name)
    if not setting:
        return cast(Verifier, verifier_class())

    # a name may come from a file, so it can ask for nothing but settings of this list
    if (class_path, setting) not in SETTINGS:
        raise UnknownVerifierError(f"the verifier {name!r} has no setting {setting!r}")
    return cast(Verifier, verifier_class(**SETTINGS[class_path, setting]))


def present_path(path: str) -> str:
    """The path that a class has now, given the one it had when a file was written."""
    for old_prefix, new_prefix in MOVED.items():
        if path.startswith(old_prefix):
            return new_prefix + path.removeprefix(old_prefix)
    return path
