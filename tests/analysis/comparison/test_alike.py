"""Runs that were measured on different problems are not compared, and arms are named as typed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from g2rl.analysis.comparison.alike import comparable
from g2rl.analysis.comparison.runs import Run, flat, group_runs
from tests.support import composed


def run(name: str, *words: str, seed: int = 0) -> Run:
    """A run as the command would have stored it, without a folder on disk."""
    from omegaconf import OmegaConf

    config = composed("tracking=local", f"seed={seed}", *words)
    node: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    return Run(Path(name), flat(node))


def folders(groups: dict[str, list[Run]]) -> dict[str, list[str]]:
    return {label: [str(one.folder) for one in members] for label, members in groups.items()}


def test_each_benchmark_is_compared_by_itself() -> None:
    runs = [
        run("a", "task=countdown"),
        run("b", "task=detour", "model=detour"),
        run("c", "task=countdown", "exploration=none", "benchmark.samples=4", "benchmark.ks=[1]"),
        run("d", "task=detour", "model=detour", "benchmark.limit=4"),
    ]
    assert folders(comparable(runs)) == {
        "benchmark=countdown": ["a", "c"],
        "benchmark=detour": ["b"],
        "benchmark=detour limit=4": ["d"],
    }, "how many samples are drawn does not choose the problems"


def test_runs_with_a_benchmark_in_common_belong_together() -> None:
    math = ("task=math", "model=smollm2_135m")
    runs = [run("a", *math, "benchmark=math500"), run("b", *math, "benchmark=aime24")]
    assert list(comparable(runs)) == ["benchmark=math500", "benchmark=aime24"]
    suite = run("c", *math, "benchmark=math")
    assert folders(comparable([*runs, suite])) == {
        "benchmark=math500+aime24+amc23+aime25": ["a", "b", "c"]
    }


@pytest.mark.parametrize(
    ("words", "labels"),
    [
        # another task on the same benchmark: its name, and nothing of what it brings
        (
            [["task=countdown_hard", "benchmark=countdown"], ["task=countdown"]],
            ["task=countdown", "task=countdown_hard"],
        ),
        ([["model=tiny"], ["model=hf", "model.source=mine/model"]], ["model=mine", "model=tiny"]),
        ([["algorithm=grpo"], ["algorithm=dapo"]], ["algorithm=dapo", "algorithm=grpo"]),
        (
            [["partition=answer"], ["partition=ngram"]],
            ["partition=ByAnswer", "partition=ByNgrams"],
        ),
        # whatever run comes first, the signal's own setting stands before others
        (
            [
                ["exploration=none"],
                ["exploration=g2rl"],
                ["exploration=g2rl", "exploration.lam=3", "optimizer.lr=0.1"],
            ],
            ["none", "g2rl lam=1", "g2rl lam=3"],
        ),
    ],
)
def test_arms_are_named_as_they_were_typed(words: list[list[str]], labels: list[str]) -> None:
    runs = [run(str(number), *of_run) for number, of_run in enumerate(words)]
    found = list(group_runs(runs))
    assert found == labels
    assert not any("_target_" in label for label in found)


def test_no_arm_stands_for_two() -> None:
    """Classes of one module's name in different packages; a choice that has no name."""
    runs = []
    for place in ("one", "other"):
        made = run(place, "exploration=none")
        made.settings["encoder._target_"] = f"{place}.enc.Encoder"
        made.settings.pop("encoder.name", None)
        runs.append(made)
    assert group_runs(runs).keys() == {
        "encoder._target_=one.enc.Encoder",
        "encoder._target_=other.enc.Encoder",
    }

    # where one choice has a name and the other has none, their classes tell them apart
    runs[0].settings["encoder._target_"] = "one.ngram.Encoder"
    runs[1].settings["encoder.name"] = "mine"
    assert group_runs(runs).keys() == {"encoder=ngram", "encoder=enc"}
