"""reasoning_gym as a training task: an endless stream that never meets a held-out question."""

from __future__ import annotations

import json
from typing import Any

import pytest

from g2rl.tasks.benchmarks.reasoning_gym import reasoning_gym_benchmark
from g2rl.tasks.grading.gym import SAFE
from g2rl.tasks.reasoning_gym import ReasoningGymTask, check_configs, config_of
from g2rl.tasks.task import refuse_leaks
from g2rl.types import Problem


def test_configs_are_of_families_that_are_there() -> None:
    assert config_of("gcd", {"gcd": {"b": [1, 2], "a": 3}}) == (("a", 3), ("b", (1, 2)))
    assert config_of("gcd", None) == config_of("gcd", {"gcd": {}}) == ()
    check_configs(["gcd"], {"gcd": {"min_value": 2}})
    with pytest.raises(ValueError, match="settings for chain_sum, which is not among"):
        check_configs(["gcd"], {"chain_sum": {}, "gcd": {}})


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"families": []}, "families must not be empty"),
        ({"families": ["gcd"], "held_out": -1}, "not below 0"),
        ({"families": ["countdown"]}, "not offered"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        ReasoningGymTask(**settings)


def test_the_stream_is_endless_takes_turns_and_its_golds_are_right() -> None:
    pytest.importorskip("reasoning_gym")
    families = ["gcd", "chain_sum", "base_conversion"]
    task = ReasoningGymTask(families, {"chain_sum": {"max_terms": 2}}, held_out=5)
    batch = task.batch(3, 0, 12)
    assert [problem.meta["family"] for problem in batch] == families * 4
    assert task.batch(3, 6, 6) == batch[6:]
    assert task.batch(4, 0, 3) != batch[:3]
    assert len({problem.id for problem in [*batch, *task.batch(3, 10**6, 3)]}) == 15
    for problem in batch:
        assert task.verifier.grade(f"\\boxed{{{problem.answer}}}", problem).correct
        assert json.loads(json.dumps(problem.meta)) == problem.meta
        if problem.meta["family"] == "chain_sum":
            assert problem.meta["entry"]["metadata"]["num_terms"] == 2


def test_held_out_problems_are_never_met() -> None:
    pytest.importorskip("reasoning_gym")
    # a family so small that its problems repeat
    configs = {"gcd": {"min_value": 2, "max_value": 9}}
    benchmark = reasoning_gym_benchmark(["gcd"], configs, per_family=10)
    task = ReasoningGymTask(["gcd"], configs, held_out=10)
    refuse_leaks(task, benchmark.problems, "reasoning_gym")
    held_out = {problem.prompt for problem in benchmark.problems}
    drawn = {problem.prompt for problem in task.batch(0, 0, 200)}
    assert not held_out & drawn
    unaware = ReasoningGymTask(["gcd"], configs, held_out=0)
    assert held_out & {problem.prompt for problem in unaware.batch(0, 0, 200)}
    with pytest.raises(ValueError, match="problems of task reasoning_gym"):
        refuse_leaks(unaware, benchmark.problems, "reasoning_gym")
    assert not task.may_draw(Problem("x", "", "", {}))


def test_what_a_family_refuses_is_named() -> None:
    pytest.importorskip("reasoning_gym")
    for config, complaint in (
        ({"no_such_setting": 1}, "gcd refuses its settings.*no_such_setting"),
        ({"min_value": -1}, "gcd refuses its settings.*positive"),
        ({"min_value": 2, "max_value": 3}, "nearly all of its problems are held out"),
    ):
        with pytest.raises(ValueError, match=complaint):
            ReasoningGymTask(["gcd"], {"gcd": config}).batch(0, 0, 1)
    assert len(SAFE) == 12
