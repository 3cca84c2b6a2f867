"""Settings of one's own classes are checked by their signature, whether it is annotated or not."""

from __future__ import annotations

from typing import Any

import pytest

from g2rl.cli.build.arguments import argument_types, check_arguments


class Plain:
    def __init__(self, weight=0.5, steps: int = 3) -> None:  # type: ignore[no-untyped-def]
        self.weight, self.steps = weight, steps


class Bare:
    pass


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


def test_classes_written_in_c_are_not_checked() -> None:
    check_arguments(dict, {"anything": 1}, "exploration")
