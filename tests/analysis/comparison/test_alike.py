"""Runs that were measured on different problems are not compared, and arms are named as typed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from g2rl.analysis.comparison.alike import OF_THE_ANSWERS, benchmarks_of, comparable
from g2rl.analysis.comparison.runs import Run, flat, group_runs
from g2rl.cli.jobs.compare import folder_name
from tests.support import ROOT, composed

OF_THE_PROBLEMS = frozenset(
    (
        *("source", "split", "config", "revision", "problems", "limit", "subset", "held_out"),
        *("problem_column", "prompt_column", "answer_column", "answer_after"),
        *("shuffle_seed", "size", "walls", "form", "families", "configs", "per_family"),
        *("taskset", "settings", "first", "suite"),
    )
)
"""Settings of benchmarks that choose or make problems, or in which benchmarks lie."""


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


def test_every_setting_of_a_benchmark_is_known_to_make_problems_or_not() -> None:
    assert not OF_THE_PROBLEMS & OF_THE_ANSWERS
    for place in sorted((ROOT / "conf" / "benchmark").glob("**/*.yaml")):
        names = set(yaml.safe_load(place.read_text(encoding="utf-8"))) - {"defaults"}
        unknown = names - OF_THE_PROBLEMS - OF_THE_ANSWERS
        assert not unknown, f"{place.name}: does it choose problems? Say so here, or in alike.py"


@pytest.mark.parametrize(
    "words",
    [
        ("benchmark=reasoning_gym", "+benchmark.configs.chain_sum.max_terms=3"),
        ("benchmark=taskset", "benchmark.taskset=mine", "+benchmark.settings.level=2"),
        ("benchmark=rows", "benchmark.source=a.jsonl", "benchmark.prompt_column=question"),
        ("benchmark=rows", "benchmark.source=a.jsonl", "benchmark.answer_column=gold"),
        ("benchmark=rows", "benchmark.source=a.jsonl", "benchmark.answer_after=is"),
        ("benchmark=math500", "benchmark.revision=v2"),
        ("benchmark=gpqa_diamond", "benchmark.shuffle_seed=1"),
        ("benchmark=countdown", "+benchmark.of_ones_own=1"),
        ("benchmark=math", "benchmark.limit=4"),
    ],
)
def test_a_setting_that_makes_other_problems_keeps_runs_apart(words: tuple[str, ...]) -> None:
    kept = [
        word
        for word in words
        if word.startswith(("benchmark=", "benchmark.source", "benchmark.taskset"))
    ]
    assert len(comparable([run("a", *kept), run("b", *words)])) == 2


def test_a_setting_of_a_suite_holds_for_its_members() -> None:
    whole = benchmarks_of(run("a", "benchmark=math", "benchmark.limit=4", "benchmark.samples=2"))
    assert set(whole) == {"math500", "amc23", "aime24", "aime25"}
    for settings in whole.values():
        assert ("limit", "4") in settings
        assert not dict(settings).keys() & OF_THE_ANSWERS


def test_labels_of_long_settings_are_short_and_unlike() -> None:
    start = "+benchmark.of_ones_own='$numbers to $target, " + "very " * 30
    runs = [run(str(number), f"{start}{number}'") for number in range(3)]
    labels = list(comparable(runs))
    assert len(set(labels)) == 3
    assert len({folder_name(label) for label in labels}) == 3
    assert max(map(len, labels)) < 100
    assert folder_name("benchmark=detour limit=4") == "detour-limit-4"
    assert folder_name("benchmark=a template=x?") != folder_name("benchmark=a template=x!")


def test_how_problems_are_answered_and_graded_makes_arms() -> None:
    rows = ("benchmark=rows", "benchmark.source=a.jsonl")
    runs = [run("a", *rows), run("b", *rows, "+benchmark.reward.function=mine.py:f")]
    assert len(comparable(runs)) == 1
    worded = run("b", "benchmark=countdown", "benchmark.template='$numbers to $target'")
    assert len(comparable([run("a", "benchmark=countdown"), worded])) == 1


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
