"""Several values where one run is made: what helps is said in words that can be typed."""

from __future__ import annotations

import pytest

from g2rl.cli.config.launch import register_resolvers
from g2rl.cli.config.several import IN_A_SHELL, explain_several, refuse_several_values
from g2rl.cli.config.words import Words

register_resolvers()


def told(*typed: str, command: str = "train") -> str | None:
    return explain_several(typed, command, (), IN_A_SHELL)


@pytest.mark.parametrize("command", ["train", "evaluate", "analyze_geometry", "analyze_fidelity"])
def test_the_flag_is_named(command: str) -> None:
    message = "seed=1,2: one run takes one value of seed: add --multirun for a run with each"
    assert told("seed=1,2", command=command) == message


@pytest.mark.parametrize(
    ("typed", "advice"),
    [
        ("exploration=none,g2rl", "of exploration: add --multirun for a run with each"),
        ("seed=range(3)", "of seed: add --multirun for a run with each"),
        ("benchmark.ks=1,2", "with each, or type the list as benchmark.ks=[1,2]"),
        ("model.dtype=a,b", "or type the text as \"model.dtype='a,b'\", quotes included"),
        ("data_dir=a,b", "or type a list as data_dir=[a,b], a text as \"data_dir='a,b'\", quotes"),
    ],
)
def test_a_list_or_a_text_may_have_been_meant(typed: str, advice: str) -> None:
    assert advice in (told("trainer.steps=3", typed) or "")


@pytest.mark.parametrize(
    "typed",
    [
        ["seed=1"],
        ["benchmark.ks=[1,2]"],
        ["model.dtype='a,b'"],
        ["hydra.mode=MULTIRUN", "seed=1,2"],
    ],
)
def test_what_makes_one_run_or_a_sweep_that_was_asked_for_passes(typed: list[str]) -> None:
    assert told(*typed) is None


def test_an_experiment_that_is_a_sweep_needs_no_flag() -> None:
    assert told("experiment=signals", "seed=1,2") is None
    assert told("experiment=signals", "hydra.mode=RUN", "seed=1,2") is not None


@pytest.mark.parametrize("flag", ["--multirun", "-m"])
def test_the_flag_makes_a_sweep(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    refuse_several_values("train", Words.of(["seed=1,2", flag]))
    with pytest.raises(SystemExit) as end:
        refuse_several_values("train", Words.of(["seed=1,2"]))
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("error: seed=1,2: one run takes one value")
