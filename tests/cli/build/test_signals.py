"""Combinations of signals as the user types them, and groups that are too small for a signal."""

from __future__ import annotations

import pytest

from g2rl.cli.build.signals import build_observers, build_signal, build_signals
from g2rl.cli.config.words import expand_combinations
from g2rl.exploration.combined import Combined
from g2rl.exploration.signal import Signal
from g2rl.formulas.advantages import GroupAdvantage
from tests.support import composed


def signal_of(*overrides: str) -> Signal:
    node = composed("exploration=combined", *overrides).exploration
    return build_signal(node, GroupAdvantage(scale="none"))


def test_a_list_of_signals_is_a_combination() -> None:
    words = expand_combinations(["seed=1", "exploration=[maxrl,entropy]", "exploration.lam=[1]"])
    parts = ["exploration=combined", "exploration.parts=[maxrl,entropy]"]
    assert words == ["seed=1", *parts, "exploration.lam=[1]"]
    assert expand_combinations(["exploration=g2rl", "exploration=none,g2rl"]) == [
        "exploration=g2rl",
        "exploration=none,g2rl",
    ]
    combined = signal_of(parts[1])
    assert [part.name for part in combined.parts] == ["maxrl", "entropy"]
    assert combined.advantage.scale == "none"


def test_parts_take_the_settings_of_their_files_and_what_was_changed() -> None:
    combined = signal_of(
        "exploration.parts=[passk,outcome]",
        "+exploration.settings.passk.k=8",
        "+exploration.settings.outcome.mode=batch",
    )
    passk, outcome = combined.parts
    assert (passk.k, passk.estimator) == (8, "analytic")
    assert (outcome.mode, outcome.coefficient) == ("batch", 0.5)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["exploration.parts=[passk,clip_curve]"], r"exploration.parts: no signal 'clip_curve'"),
        (["+exploration.settings.g2rl.lam=1"], r"settings.g2rl: it is none of the parts"),
        (["+exploration.settings.passk.q=1"], r"settings.passk.q: passk has no such setting"),
        (["exploration.parts=[darling,g2rl]"], "cannot go together"),
        (["exploration.parts=[combined]"], "different signals"),
        (["exploration.parts=[]"], "at least one"),
    ],
)
def test_what_cannot_be_combined_is_refused_by_name(overrides: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        signal_of(*overrides)


def test_combinations_observe_too() -> None:
    [observer] = build_observers(["combined"])
    assert isinstance(observer, Combined)


@pytest.mark.parametrize(
    ("exploration", "group_size", "words"),
    [
        ("passk", 3, r"group_size=3 with signal passk: .* at least 4"),
        ("poly_epo", 3, r"group_size=3 with signal poly_epo: .* at least 4"),
        ("combined", 3, r"group_size=3 with signal combined: .* at least 4"),
        ("darling", 1, "compares responses"),
        ("unlikeliness", 1, "compares responses"),
    ],
)
def test_groups_that_are_too_small_are_refused(
    exploration: str, group_size: int, words: str
) -> None:
    node = composed(f"exploration={exploration}").exploration
    with pytest.raises(ValueError, match=words):
        build_signals(node, group_size)
    build_signals(node, 4)


def test_a_signal_that_compares_nothing_takes_groups_of_one() -> None:
    for choice in ("nsr", "maxrl", "none"):
        build_signals(composed(f"exploration={choice}").exploration, 1)


@pytest.mark.parametrize(
    ("exploration", "uniform_groups", "warned"),
    [
        ("maxrl", "drop", True),
        ("combined", "floor", True),
        ("maxrl", "shape", False),  # the default, which nobody has asked for
        ("darling", "drop", False),
        ("uniqueness", "drop", False),  # it changes what the algorithm makes, by this policy
    ],
)
def test_a_policy_that_has_no_effect_is_warned_of(
    exploration: str, uniform_groups: str, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    node = composed(f"exploration={exploration}").exploration
    build_signals(node, 4, GroupAdvantage(uniform_groups=uniform_groups))
    assert (f"uniform_groups={uniform_groups} has no effect" in caplog.text) == warned
