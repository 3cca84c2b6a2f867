"""Alarms by hand: each holds where it should, is raised once, and survives a resume."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from g2rl.training.alarms import ALARMS, HealthLimits, Watch, alarms

LIMITS = HealthLimits(window=2, unsolved_steps=3)
WELL = {
    "train/entropy": 0.8,
    "train/truncated": 0.1,
    "train/empty": 0.0,
    "train/solved_any": 0.4,
    "advantage/uniform_correct": 0.1,
    "advantage/uniform_wrong": 0.3,
    "verify/timeout": 0.0,
    "verify/killed": 0.0,
    "update/skipped": 0.0,
    "update/first_ratio": 1.0001,
    "update/sampler_kl": 0.001,
    "sample/drift": 0.01,
}
SICK = {
    "entropy_collapse": {"train/entropy": 0.01},
    "no_contrast": {"advantage/uniform_correct": 0.5, "advantage/uniform_wrong": 0.48},
    "score_mismatch": {"update/first_ratio": 1.2},
    "sampler_drift": {"sample/drift": 0.7},
    "sampler_mismatch": {"update/sampler_kl": 0.05},
    "truncation": {"train/truncated": 0.9},
    "grader_failures": {"verify/timeout": 0.04, "verify/killed": 0.04},
    "bad_numbers": {"update/skipped": 0.5},
    "empty_responses": {"train/empty": 0.6},
    "no_reward": {"train/solved_any": 0.0},
}


def rows(*changes: dict[str, float]) -> list[dict[str, Any]]:
    return [{"step": step, **WELL, **change} for step, change in enumerate(changes, start=1)]


def test_every_alarm_has_a_case() -> None:
    assert set(SICK) == set(ALARMS)


def test_a_healthy_run_raises_nothing() -> None:
    assert alarms(rows(*[{}] * 5), LIMITS) == {}


@pytest.mark.parametrize("name", SICK)
def test_each_alarm_holds_alone_once_its_window_is_full(name: str) -> None:
    sick = SICK[name]
    assert set(alarms(rows(sick, sick, sick), LIMITS)) == {name}
    needed = {"score_mismatch": 1, "bad_numbers": 1, "sampler_drift": 1, "no_reward": 3}.get(
        name, 2
    )
    for count in (1, 2, 3):
        assert (name in alarms(rows(*[sick] * count), LIMITS)) == (count >= needed)


def test_means_run_over_the_window_alone() -> None:
    found = rows({"train/truncated": 1.0}, {"train/truncated": 1.0}, {"train/truncated": 0.0})
    assert "truncation" in alarms(found[:2], LIMITS)
    assert "truncation" not in alarms(found, LIMITS)  # mean 0.5 is not above 0.5


def test_a_metric_that_is_not_there_raises_nothing() -> None:
    assert alarms([{"step": 1.0}, {"step": 2.0}, {"step": 3.0}], LIMITS) == {}


def test_each_is_warned_of_once_and_a_resumed_run_does_not_repeat_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    found = [{"step": 0, "eval/countdown/pass@1": 0.1}, *rows(*[SICK["truncation"]] * 3)]
    with caplog.at_level(logging.WARNING):
        watch = Watch(LIMITS)
        raised = [watch(row) for row in found]
    assert [set(new) for new in raised] == [set(), set(), {"truncation"}, set()]
    assert caplog.text.count("health alarm truncation at step 2") == 1
    assert Watch(LIMITS, found[:3])(found[3]) == {}
    assert set(Watch(LIMITS, found[:2])(found[2])) == {"truncation"}, (
        "that row was lost with the process"
    )


@pytest.mark.parametrize("wrong", [{"window": 0}, {"unsolved_steps": 0}, {"ratio": -1.0}])
def test_limits_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"health\."):
        HealthLimits(**wrong)
