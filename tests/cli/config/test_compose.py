"""Every config file composes, and what it describes can be built."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hydra.errors import InstantiationException
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf

from g2rl.cli.build.benchmarks import build_benchmarks
from g2rl.cli.build.settings import read_algorithm, read_trainer_settings
from g2rl.cli.build.signals import build_observers, build_signal, build_signals
from g2rl.cli.config.choices import choices
from g2rl.cli.config.mistakes import Shelf, groups
from g2rl.policy.loading import load
from g2rl.policy.policy import Policy
from g2rl.training.alarms import HealthLimits
from g2rl.training.optimizer import OptimizerSettings
from tests import remembered, support
from tests.support import DATA

ROWS = (
    f"task.source.source={DATA / 'own_rows.jsonl'}",
    "task.source.prompt_column=problem",
    "task.source.held_out=3",
    "task.source.verifier=math",
)
"""What task=rows needs: it has no data of its own."""
CASES = [(group, choice) for group in groups() for choice in choices(group)]


def composed(*overrides: str, command: str = "train", with_hydra: bool = False) -> DictConfig:
    return support.composed(f"data_dir={DATA}", *overrides, command=command, with_hydra=with_hydra)


@pytest.mark.parametrize(("group", "choice"), CASES)
def test_every_choice_composes_with_nothing_missing(group: str, choice: str) -> None:
    # model=hf is any model, which the user names
    named = ["model.source=builtin:tiny"] if (group, choice) == ("model", "hf") else []
    config = composed(f"{group}={choice}", *named)
    OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    read_trainer_settings(config)
    read_algorithm(config.algorithm)
    HealthLimits(**config.health)
    OptimizerSettings(**{**config.optimizer, "betas": tuple(config.optimizer.betas)})


@pytest.mark.parametrize("choice", choices("exploration"))
def test_signals_are_built(choice: str) -> None:
    signal = build_signal(composed(f"exploration={choice}").exploration)
    assert signal.name == choice
    signal.load_state_dict(signal.state_dict())
    assert build_observers([choice])[0].name == choice


@pytest.mark.parametrize("choice", choices("task"))
def test_tasks_are_built_and_give_problems(choice: str) -> None:
    if choice == "taskset":
        pytest.skip("it is nothing without a taskset: tests/tasks/test_taskset.py has one")
    if choice == "reasoning_gym":
        pytest.importorskip("reasoning_gym")
    more = ROWS if choice == "rows" else ()
    task = instantiate(composed(f"task={choice}", *more).task.source)
    batch = task.batch(0, 0, 5)
    assert len({problem.id for problem in batch}) == 5
    assert batch[2:] == task.batch(0, 2, 3)


@pytest.mark.parametrize("choice", choices("benchmark"))
def test_benchmarks_are_built(choice: str) -> None:
    if choice == "taskset":
        pytest.skip("it is nothing without a taskset: tests/tasks/test_taskset.py has one")
    if choice == "reasoning_gym":
        pytest.importorskip("reasoning_gym")
    for command in ("train", "evaluate"):
        words = [f"benchmark={choice}"]
        if choice == "rows":
            words += [word.replace("task.source", "benchmark") for word in ROWS]
        benchmarks = build_benchmarks(composed(*words, command=command).benchmark)
        assert len({benchmark.name for benchmark in benchmarks}) == len(benchmarks) > 0
        for benchmark in benchmarks:
            assert benchmark.problems
            assert max(benchmark.ks) <= benchmark.samples


@pytest.mark.parametrize("choice", choices("engine"))
def test_engines_are_built(choice: str) -> None:
    loaded = load("builtin:tiny")
    config = composed(f"engine={choice}").engine
    parts = {
        "policy": Policy(loaded.model),
        "tokenizer": loaded.tokenizer,
        "stop_ids": loaded.stop_ids,
    }
    if (
        choice.startswith("vllm") and find_spec("vllm") is None
    ):  # its settings fit; tests/vllm_cpu builds it
        with pytest.raises(InstantiationException, match=r"g2rl\[vllm\]"):
            instantiate(config, **parts)
        return
    engine = instantiate(config, **parts)
    engine.close()


@pytest.mark.parametrize(("group", "choice"), [c for c in CASES if c[0] in ("encoder", "tracking")])
def test_encoders_and_tracking_name_real_classes(group: str, choice: str) -> None:
    node = composed(f"{group}={choice}")[group]
    target = get_class(node._target_)
    if choice not in ("qwen3_embedding", "minilm"):  # those load weights
        assert isinstance(instantiate(node), target)


NODES = (
    ("train", ("experiment=smoke", "exploration=combined", "+benchmark.note=${seed}")),
    ("train", ("task=detour", "~exploration.observe", "hydra.job.chdir=false")),
    ("train", ("task=math", "exploration=evol", "seed=1")),
    ("evaluate", ("benchmark=math500",)),
    ("analyze_fidelity", ("task=forked_skills", "seed=3")),
)
"""Configurations that are compared whole."""


def whole(node: Any) -> Any:
    """Everything that a node of a configuration holds: kind, flags, types and raw values."""
    about = node._metadata
    kept = (type(node), about.flags, about.ref_type, about.object_type, about.key)
    content = node._content if isinstance(node, DictConfig | ListConfig) else node._value()
    if isinstance(content, dict):
        return (kept, {key: whole(value) for key, value in content.items()})
    if isinstance(content, list):
        return (kept, [whole(value) for value in content])
    return (kept, content)


def test_what_is_remembered_is_what_hydra_composes() -> None:
    """The tests compose with a memory, see `tests.remembered`: the first time, and from it."""

    def fresh() -> list[Any]:
        support._composed_once.cache_clear()
        return [
            whole(support.composed(*words, command=command, with_hydra=True))
            for command, words in NODES
        ]

    remembered.forget()
    try:
        expected = fresh()
    finally:
        remembered.remember()
    assert fresh() == expected
    assert fresh() == expected


def test_a_file_that_has_changed_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "task" / "mine.yaml"
    file.parent.mkdir()
    for name in ("one", "another"):
        file.write_text(f"max_prompt_tokens: 5\nname: {name}\n")
        assert Shelf("train", (tmp_path,)).compose(["task=mine"]).task.name == name

    # as long as before, and a program has set back the time of its change
    about = file.stat()
    file.write_text("max_prompt_tokens: 5\nname: changes\n")
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert file.stat().st_size == about.st_size
    assert Shelf("train", (tmp_path,)).compose(["task=mine"]).task.name == "changes"


def test_a_list_of_choices_that_has_changed_is_read_again(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    shelf = Shelf("train", (first, second))
    for folder, signal in ((second, "entropy"), (second, "evol"), (first, "g2rl")):
        file = folder / "experiment" / "mine.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"# @package _global_\ndefaults: [override /exploration: {signal}]\n")
        made_by = shelf.compose(["experiment=mine", "seed=1"]).exploration._target_
        assert made_by.startswith(f"g2rl.exploration.{signal}.")


def test_the_experiment_has_the_last_word() -> None:
    assert composed("experiment=smoke").trainer.steps == 2
    assert composed("experiment=paper_1_7b").model.name == "qwen3_1_7b"
    assert composed("experiment=smoke", "trainer.steps=3").trainer.steps == 3


def test_the_model_chooses_the_encoder_and_the_task_the_benchmark() -> None:
    assert composed().encoder._target_.endswith("NgramHashing")
    assert composed("model=qwen3_4b").encoder.name == "Qwen/Qwen3-Embedding-4B"
    assert composed("model=qwen3_4b", "encoder=ngram").encoder._target_.endswith("NgramHashing")
    assert composed("task=math").benchmark.name == "math500"


def test_tasks_with_a_policy_of_their_own_choose_the_model() -> None:
    """Unless another one is named, on the command line or by an experiment."""
    for task in ("detour", "forked_skills"):
        config = composed(f"task={task}", with_hydra=True)
        assert config.model.source == f"builtin:{task}"
        assert config.hydra.runtime.choices.model == task
        assert config.benchmark.samples >= 32
        assert config.encoder._target_.endswith("NgramHashing")
        assert composed(f"task={task}", "model=tiny").model.source == "builtin:tiny"
        for command in ("analyze_geometry", "analyze_fidelity"):
            assert composed(f"task={task}", command=command).model.name == task
    assert composed("task=countdown_hard").model.name == "tiny"
    assert composed("experiment=detour").model.name == "detour"
    assert composed("experiment=detour").optimizer.lr == 5e-4
    assert composed("experiment=math_smoke").model.name == "smollm2_135m"


def test_an_unknown_observer_is_named() -> None:
    with pytest.raises(ValueError, match="g2lr"):
        build_observers(["g2lr"])


def test_problems_in_other_words_are_reported_under_their_own_name() -> None:
    [benchmark] = build_benchmarks(composed("benchmark=countdown_text").benchmark)
    assert benchmark.name == "countdown_text"


@pytest.mark.parametrize(
    ("exploration", "is_warned"), [("none", True), ("entropy", True), ("nsr", False)]
)
def test_groups_of_one_are_warned_of_where_they_teach_nothing(
    exploration: str, is_warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    build_signals(composed(f"exploration={exploration}").exploration, group_size=1)
    assert ("rewards teach nothing" in caplog.text) == is_warned
    caplog.clear()
    build_signals(composed(f"exploration={exploration}").exploration, group_size=2)
    assert "teach nothing" not in caplog.text
