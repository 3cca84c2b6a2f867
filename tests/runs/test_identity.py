"""Which settings make another run, another arm, another folder; files of earlier versions."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from g2rl.runs.identity import (
    ADDED_SETTINGS,
    FREE_SETTINGS,
    differences,
    free_keys,
    is_under,
    unnamed_keys,
    with_present_names,
)
from tests.support import composed


def test_what_may_differ_on_resume_makes_no_other_arm() -> None:
    # but for the length: a run may grow, and two lengths are two arms
    free_to_resume = set(free_keys("train", "resume")) - {"trainer.steps"}
    assert free_to_resume <= set(free_keys("train", "arm"))
    assert "seed" not in free_keys("train", "resume")
    assert "seed" in free_keys("train", "arm")


@pytest.mark.parametrize("command", FREE_SETTINGS)
def test_every_command_can_be_resumed_in_a_folder_of_the_same_name(command: str) -> None:
    assert "resume" in free_keys(command, "resume")
    assert "resume" in free_keys(command, "name")


def test_a_node_stands_for_its_settings_and_for_nothing_else() -> None:
    assert is_under("verify.workers", ["verify"])
    assert is_under("verify", ["verify"])
    assert not is_under("verifying", ["verify"])
    assert not is_under("trainer", ["trainer.keep_best"])


def test_names_leave_out_every_setting_of_a_free_node_but_not_of_a_choice() -> None:
    config = {
        "verify": {"workers": 2},
        "exploration": {"lam": 1},
        "tracking": {"project": "p"},
    }
    keys = unnamed_keys("train", config)
    assert {"verify.workers", "exploration", "tracking"} <= set(keys)
    assert "exploration.lam" not in keys
    assert "tracking.project" not in keys, "folders have been named by it"


def test_differences_name_the_setting_and_both_values() -> None:
    before = {"a": {"b": 1, "c": [1]}, "free": {"x": 1}}
    after = {"a": {"b": 2, "c": [1]}, "free": {"x": 2}, "new": None}
    assert differences(before, after, ["free"]) == ["a.b: 1 -> 2"]


def test_settings_that_were_added_have_the_value_that_changes_nothing_in_older_runs() -> None:
    as_now = composed()
    for key, value in ADDED_SETTINGS.items():
        node, name = key.split(".")
        assert as_now[node][name] == value, "the default must be what older runs did"
        older = {node: {"name": "as then"}}
        present = {node: {"name": "as then", name: value}}
        assert differences(older, present) == []
        changed = {node: {"name": "as then", name: "other"}}
        assert differences(older, changed) == [f"{key}: {value} -> other"]
    assert differences({"a": 1}, {"a": 1, "algorithm": {"sampling_rounds": 1}}) != []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("g2rl.encoders.ngram.NgramHashing", "g2rl.exploration.encoders.ngram.NgramHashing"),
        ("g2rl.benchmarks.math.math_benchmark", "g2rl.tasks.benchmarks.math.math_benchmark"),
        ("g2rl.wandb_mirror.WandbMirror", "g2rl.runs.wandb_mirror.WandbMirror"),
        ("g2rl.tracking.NoMirror", "g2rl.runs.tracking.NoMirror"),
        ("g2rl.tasks.countdown.Countdown", "g2rl.tasks.countdown.Countdown"),
        ("g2rl.trackings", "g2rl.trackings"),
        ("see g2rl.tracking.NoMirror", "see g2rl.tracking.NoMirror"),
    ],
)
def test_moved_modules_are_the_same_setting(old: str, new: str) -> None:
    assert with_present_names({"node": [{"_target_": old}]}) == {"node": [{"_target_": new}]}
    assert differences({"encoder": {"_target_": old}}, {"encoder": {"_target_": new}}) == []


def test_a_run_of_g2rl_from_before_its_reward_was_a_choice_continues() -> None:
    present = OmegaConf.to_container(composed("exploration=g2rl").exploration, resolve=True)
    assert isinstance(present, dict)
    added = ("reward", "spread")
    older = {name: value for name, value in present.items() if name not in added}
    assert differences({"exploration": older}, {"exploration": present}) == []


def test_an_argument_that_was_added_later_is_no_difference_if_it_changes_nothing() -> None:
    """Wherever the node stands, and under a name of an earlier version too."""
    old = {"_target_": "g2rl.benchmarks.math.math_benchmark", "name": "m"}
    new = {
        "_target_": "g2rl.tasks.benchmarks.math.math_benchmark",
        "name": "m",
        "boxed_only": False,
    }
    assert differences({"suite": {"m": old}}, {"suite": {"m": new}}) == []
    changed = {**new, "boxed_only": True}
    assert differences({"suite": {"m": old}}, {"suite": {"m": changed}}) == [
        "suite.m.boxed_only: False -> True"
    ]
