"""Settings of one's own classes are checked by their signature, whether it is annotated or not."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from omegaconf import OmegaConf

from g2rl.cli.build.arguments import argument_types, build, check_arguments


class Plain:
    def __init__(self, weight=0.5, steps: int = 3) -> None:  # type: ignore[no-untyped-def]
        self.weight, self.steps = weight, steps


class Bare:
    pass


class Elsewhere:
    """Its annotation names what only a type checker imports."""

    def __init__(self, weight: Unknown = 0.5, steps: int = 3) -> None:  # type: ignore[name-defined]  # noqa: F821
        self.weight, self.steps = weight, steps


class Failing:
    def __init__(self, steps: int) -> None:
        raise KeyError(f"no\n{steps}")


class Maker:
    """An object that makes others, as a function does."""

    def __call__(self, steps: int = 3) -> Plain:
        return Plain(steps=steps)


make_plain = partial(Plain, weight=2.0)
number = 3


def test_arguments_without_annotation_are_settings_of_any_type() -> None:
    assert argument_types(Plain) == {"weight": Any, "steps": int}
    check_arguments(Plain, {"weight": "heavy"}, "exploration")
    with pytest.raises(ValueError, match=r"^exploration\.steps must be a whole number, got 'two'$"):
        check_arguments(Plain, {"steps": "two"}, "exploration")


@pytest.mark.parametrize(
    ("target", "rest"), [(Plain, "exploration has weight, steps"), (Bare, "takes no settings")]
)
def test_a_setting_that_does_not_exist_is_answered_with_those_that_do(
    target: type, rest: str
) -> None:
    with pytest.raises(ValueError, match=rf"^exploration\.wieght: there is no such .*{rest}$"):
        check_arguments(target, {"wieght": 1}, "exploration")


def test_annotations_that_cannot_be_read_are_not_checked() -> None:
    assert argument_types(Elsewhere) == {"weight": Any, "steps": Any}
    check_arguments(Elsewhere, {"weight": "heavy", "steps": 2}, "exploration")
    with pytest.raises(ValueError, match="there is no such setting; exploration has weight, steps"):
        check_arguments(Elsewhere, {"wieght": 1}, "exploration")


@pytest.mark.parametrize("target", [Maker(), partial(Plain, steps=5)], ids=["object", "partial"])
def test_what_can_be_called_is_as_good_as_a_class(target: Any) -> None:
    with pytest.raises(ValueError, match=r"^exploration\.steps must be a whole number, got 'two'$"):
        check_arguments(target, {"steps": "two"}, "exploration")


HERE = "tests.cli.build.test_arguments"


def test_a_node_is_built_with_its_settings() -> None:
    built = build({"_target_": f"{HERE}.make_plain", "steps": 7}, "exploration")
    assert (built.weight, built.steps) == (2.0, 7)


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ({"_target_": f"{HERE}.number"}, r"\._target_=.*number is a int; name a class, or a funct"),
        (
            {"_target_": f"{HERE}.Failing"},
            rf"\.steps has no value, and {HERE}\.Failing needs one: add \+exploration\.steps=VALUE",
        ),
        (
            {"_target_": f"{HERE}.Failing", "steps": 1},
            r"\._target_=.*Failing raised KeyError: 'no\\n1', in line \d+ of test_arguments\.py$",
        ),
    ],
)
def test_what_cannot_be_built_is_named(node: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=f"^exploration{words}"):
        build(node, "exploration")


@pytest.mark.parametrize(
    "node", [None, "mine.Mine", ["mine.Mine"], {}, {"steps": 3}, {"_target_": None}]
)
def test_a_node_without_a_class_is_named(node: Any) -> None:
    for given in (node, OmegaConf.create({"node": node}).node):
        with pytest.raises(ValueError, match=r"^task\.source names no class; write source: \{_tar"):
            build(given, "task.source")


def test_classes_written_in_c_are_not_checked() -> None:
    check_arguments(dict, {"anything": 1}, "exploration")
