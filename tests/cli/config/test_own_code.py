"""Classes and functions of the user's own are found from any folder, or named with where they
were looked for."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from g2rl.cli.build.arguments import object_of
from g2rl.cli.build.signals import build_observers, build_signal, signal_file
from g2rl.cli.config import own_code
from g2rl.cli.config.mistakes import Shelf
from g2rl.cli.config.own_code import make_importable, named_code
from g2rl.cli.door import Door
from g2rl.tasks.grading import code_files
from g2rl.tasks.grading.code_files import file_of
from g2rl.tasks.grading.grader import Grader
from g2rl.tasks.grading.reward_function import RewardFunction, RewardVerifier, load_function
from g2rl.types import Problem
from tests import commands
from tests.support import metric_rows

SIGNAL = """
from g2rl.exploration import GroupBatch, Shaped, Stateless


class Surprise(Stateless):
    name = "surprise"
    needs = frozenset({"logps"})
    level = "reward"

    def __init__(self, weight: float = 0.5) -> None:
        self.weight = weight

    def __call__(self, batch: GroupBatch) -> Shaped:
        return Shaped(batch.rewards_PG, metrics={"surprise_weight": self.weight})
"""
REWARD = """
from own_helper import ONE


def length(completions, **columns):
    return [ONE * (len(text) % 2) for text in completions]
"""


@pytest.fixture(autouse=True)
def untouched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The import path, the modules and the known folders are as before, afterwards."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(own_code, "_own_folders", [])
    monkeypatch.setattr(code_files, "_first_places", [])
    yield
    for name in list(sys.modules):
        if name.startswith(("own_", "placed_")):
            del sys.modules[name]


def mine(folder: Path) -> Path:
    """A folder with a signal and a task of the user's own."""
    own = folder / "mine"
    (own / "exploration").mkdir(parents=True)
    (own / "task").mkdir()
    (own / "own_signal.py").write_text(SIGNAL)
    (own / "exploration" / "surprise.yaml").write_text("_target_: own_signal.Surprise\nweight: 2\n")
    (own / "own_rewards.py").write_text(REWARD)
    (own / "own_helper.py").write_text("ONE = 1.0\n")
    rows = [{"prompt": f"use 3 5 7 make {number} :"} for number in range(10, 20)]
    (own / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {
        "source": str(own / "rows.jsonl"),
        "reward": "own_rewards.py:length",
        "answer_column": None,
        "held_out": 2,
    }
    task = {"defaults": ["rows", "_self_"], "name": "mine", "source": source}
    (own / "task" / "mine.yaml").write_text(yaml.safe_dump(task))
    return own


@pytest.mark.parametrize("place", ["mine", "mine/exploration", ".", "here"])
def test_a_module_is_found_beside_its_yaml_above_it_or_here(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine" / "exploration").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / place / "placed_signal.py").write_text(SIGNAL)
    node = {"exploration": {"_target_": "placed_signal.Surprise"}}
    make_importable(OmegaConf.create(node), [tmp_path / "mine"])
    found = object_of("placed_signal.Surprise", "exploration")
    assert sys.modules["placed_signal"].__file__ == str(tmp_path / place / "placed_signal.py")
    assert found.__name__ == "Surprise"
    assert sys.path[-1] == str((tmp_path / place).resolve()), "at the end: it hides nothing"


def test_what_is_installed_is_not_looked_for(tmp_path: Path) -> None:
    """A file of the user's called math.py must not stand for Python's own."""
    (tmp_path / "math.py").write_text("")
    before = list(sys.path)
    make_importable({"a": {"_target_": "math.sqrt"}, "reward": "math:sqrt"}, [tmp_path])
    assert sys.path == before


def test_every_setting_that_names_code_is_looked_at() -> None:
    node = {
        "task": {"source": {"_target_": "a.B", "reward": [{"function": "c.py:d"}, "e:f"]}},
        "exploration": {"_target_": "g.H", "reward": "pm1"},
        "benchmark": {"reward": "${task.source.reward}", "taskset": "mine"},
    }
    assert list(named_code(node)) == [
        ("task.source._target_", "a.B"),
        ("task.source.reward", "e:f"),
        ("task.source.reward[0].function", "c.py:d"),
        ("exploration._target_", "g.H"),
        ("exploration.reward", "pm1"),
        ("benchmark.reward", "${task.source.reward}"),
        ("benchmark.taskset", "mine"),
    ]

    # of these only classes and functions that stand there are looked for
    assert [one for one in named_code(node) if own_code._is_sought(*one)] == [
        ("task.source._target_", "a.B"),
        ("task.source.reward", "e:f"),
        ("task.source.reward[0].function", "c.py:d"),
        ("exploration._target_", "g.H"),
    ]


def test_what_is_nowhere_is_named_with_the_folders_that_were_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = mine(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"exploration\._target_=surprize\.X: there is no module"):
        make_importable({"exploration": {"_target_": "surprize.X"}}, [own])
    with pytest.raises(ValueError, match=f"no file gone.py.*{own}, {own}/exploration, {own}/task"):
        make_importable({"source": {"reward": "gone.py:f"}}, [own])

    # the module is there, the class is not, or importing it fails
    make_importable({"_target_": "own_signal.Suprise"}, [own])
    with pytest.raises(ValueError, match=r"own_signal\.py has no Suprise; did you mean own_signal"):
        object_of("own_signal.Suprise", "exploration")
    (own / "own_broken.py").write_text("import nowhere_to_be_found\n")
    with pytest.raises(ValueError, match=r"_target_=own_broken\.X cannot be imported.*nowhere_to"):
        object_of("own_broken.X", "exploration")


def test_reward_functions_lie_beside_the_yaml_too(tmp_path: Path) -> None:
    own = mine(tmp_path)
    make_importable({"reward": "own_rewards.py:length"}, [own])
    assert file_of("own_rewards.py:length") == own / "own_rewards.py"
    assert load_function("own_rewards.py:length")(["abc", "ab"]) == [1.0, 0.0]


def test_a_package_without_init_on_pythons_path_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python takes a folder for a package, wherever it lies."""
    for folder in ("lib/own_space", "mine/exploration", "mine/own_near", "here"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "lib" / "own_space" / "sig.py").write_text(SIGNAL)
    (tmp_path / "mine" / "own_near" / "sig.py").write_text(SIGNAL)
    sys.path.append(str(tmp_path / "lib"))
    for target in ("own_space.sig.Surprise", "own_near.sig.Surprise"):
        make_importable({"_target_": target}, [tmp_path / "mine"])
        assert object_of(target, "exploration").__name__ == "Surprise"


@pytest.mark.parametrize("place", ["mine/placed_group", ".", "here"])
def test_a_folder_of_yaml_files_is_no_module(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A group may have the name of the module that its choices are built by."""
    for folder in ("mine/placed_group", "here"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "mine" / "placed_group" / "e.yaml").write_text("_target_: placed_group.E\n")
    (tmp_path / place / "placed_group.py").write_text("class E:\n    pass\n")
    make_importable({"placed_group": {"_target_": "placed_group.E"}}, [tmp_path / "mine"])
    assert object_of("placed_group.E", "placed_group").__name__ == "E"


def paid(text: str) -> float:
    """What a grading worker pays for a response by `statistics.py:score`."""
    judge = RewardVerifier((RewardFunction("statistics.py:score"),))
    problem = Problem("rows/0", "?", "1")
    with Grader(judge, workers=1) as grader:
        [verdict] = grader.grade([(text, problem)])
    return verdict.reward


def test_a_reward_file_beside_the_yaml_comes_before_pythons_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have the name of a file of Python's, which stays what it is for everybody else."""
    own = mine(tmp_path)
    source = "import fractions\nimport statistics\n\n"
    source += "def score(completions, **_):\n"
    source += "    return [statistics.mean([len(text), 1]) for text in completions]\n"
    (own / "statistics.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    make_importable({"reward": "statistics.py:score"}, [own])
    assert file_of("statistics.py:score") == own / "statistics.py"
    judge = RewardVerifier((RewardFunction("statistics.py:score"),))
    assert judge.code_files() == [own / "statistics.py"]
    assert paid("abc") == 2.0, "workers have the same file, and Python's module"

    # a file that only Python's path has is taken from there, as ever
    (own / "statistics.py").unlink()
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "own_far.py").write_text("")
    sys.path.append(str(tmp_path / "lib"))
    make_importable({"reward": "own_far.py:f"}, [own])
    assert file_of("own_far.py:f") == tmp_path / "lib" / "own_far.py"


def test_own_signals_observe_and_are_combined(tmp_path: Path) -> None:
    own = mine(tmp_path)
    make_importable({}, [own])
    [observer] = build_observers(["surprise"])
    assert (observer.name, getattr(observer, "weight", None)) == ("surprise", 2)
    with pytest.raises(ValueError, match=r"no signal 'suprise'; choose from .*'surprise'"):
        signal_file("suprise", "exploration.observe")


def test_own_signals_made_of_others_observe_and_are_combined(tmp_path: Path) -> None:
    own, second = mine(tmp_path), tmp_path / "second"
    files = {
        own: {
            "own_g2rl": "defaults: [g2rl, _self_]\nlam: 0.25\n",
            "own_gone": "defaults: [g2lr, _self_]\n",
            "own_empty": "lam: 0.25\n",
        },
        second: {"own_g2rl": "defaults: [g2rl, _self_]\nlam: 0.5\n"},
    }
    for folder, signals in files.items():
        (folder / "exploration").mkdir(parents=True, exist_ok=True)
        for name, text in signals.items():
            (folder / "exploration" / f"{name}.yaml").write_text(text)
    (second / "exploration" / "surprise.yaml").write_text("_target_: elsewhere.Surprise\n")

    # the loader of a running command is there afterwards; the first folder wins, as in Hydra
    make_importable({}, [own, second])
    with initialize_config_dir(str(own), version_base="1.3"):
        running = GlobalHydra.instance().hydra
        observers = build_observers(["own_g2rl", "surprise"])
        assert GlobalHydra.instance().hydra is running
    assert [(signal.name, getattr(signal, "lam", None)) for signal in observers] == [
        ("g2rl", 0.25),
        ("surprise", None),
    ]
    node = Shelf("train").compose(["exploration=combined", "exploration.parts=[own_g2rl]"])
    combined = build_signal(node.exploration)
    assert [part.lam for part in combined.parts] == [0.25]
    with pytest.raises(ValueError, match=r"exploration\.observe: signal own_gone .*g2lr"):
        build_observers(["own_gone"])
    with pytest.raises(ValueError, match=r"observe: .*own_empty\.yaml builds no signal; give it"):
        build_observers(["own_empty"])


def test_a_worker_of_a_sweep_finds_them_by_itself(tmp_path: Path) -> None:
    """Launchers start workers that have only the configuration of their arm."""
    own = mine(tmp_path)
    config = Shelf("train", (own,)).compose(["exploration=surprise", "hydra.mode=MULTIRUN"], True)
    Door("train").on_job_start(config)
    assert str(own) in sys.path


def test_a_run_from_another_folder(tmp_path: Path) -> None:
    """Own task, own signal, own reward function in grading workers, an own observer."""
    own = mine(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    words = ["--config-dir", "../mine", "task=mine", "exploration=surprise"]
    words += ["exploration.observe=[surprise]", "tracking=local", "report=false"]
    words += ["trainer.steps=1", "trainer.prompts_per_step=2", "trainer.group_size=2"]
    words += ["trainer.eval_every=0", "trainer.probe_problems=0", "optimizer.mini_batches=1"]
    words += ["task.max_prompt_tokens=40", "task.max_response_tokens=9", "hydra.run.dir=run"]
    done = commands.run(["-m", "g2rl.cli.train", *words], elsewhere)
    assert done.returncode == 0, done.stderr
    row = metric_rows(elsewhere / "run")[-1]
    assert row["explore/surprise_weight"] == row["observe/surprise/surprise_weight"] == 2.0
    assert row["verify/error"] == 0
    again = commands.run(["-m", "g2rl.cli.train", *words], elsewhere)
    assert again.returncode == 0, again.stderr
    assert own.is_dir()
