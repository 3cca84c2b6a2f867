"""What the user typed: groups, choices, keys and tags."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from g2rl.cli.config.choices import choices, config_dir
from g2rl.cli.config.launch import launch, register_resolvers
from g2rl.cli.config.mistakes import _compose, explain_mistakes, groups, overrides_of
from g2rl.cli.config.names import run_tag
from g2rl.runs.identity import free_keys

register_resolvers()


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("exploration=g2lr", "g2rl"),
        ("model=qwen_1_7b", "qwen3_1_7b"),
        ("trainer.step=3", "trainer.steps"),
        ("exploration.lambda=3", "exploration.lam"),
        ("algorithm.clip_hi=0.3", "algorithm.clip_high"),
        ("optimizer.learning_rate=1", "optimizer.eps"),
        ("explorations=none", "exploration"),
        ("lam=3", "exploration.lam"),
    ],
)
def test_a_misspelt_override_is_refused_with_the_near_match(typed: str, meant: str) -> None:
    message = explain_mistakes([typed], "train")
    assert message is not None
    assert typed.split("=")[0].split(".")[-1] in message
    if typed != "optimizer.learning_rate=1":  # nothing is near: the known keys are listed instead
        assert meant in message.split("did you mean")[1]


@pytest.mark.parametrize(
    "typed",
    [
        ["exploration=none", "trainer.steps=3"],
        ["exploration.coefficient=0.1", "exploration=entropy"],
        ["exploration.lam=0,0.1,1"],
        ["exploration=none,g2rl", "seed=range(3)"],
        ["+new.key=3", "hydra.run.dir=/tmp/x", "~tracking"],
        ["encoder=minilm", "benchmark=math500", "experiment=smoke"],
        ["model.overrides.num_hidden_layers=2"],
    ],
)
def test_good_overrides_pass(typed: list[str]) -> None:
    if typed == ["model.overrides.num_hidden_layers=2"]:
        assert "overrides" in (
            explain_mistakes(typed, "train") or ""
        )  # new keys need the + of Hydra
    else:
        assert explain_mistakes(typed, "train") is None


def test_a_broken_override_is_explained() -> None:
    assert explain_mistakes(["exploration.lam=[1,"], "train")


def test_flags_are_not_overrides() -> None:
    assert overrides_of(["--cfg", "job", "seed=1", "--multirun"]) == ["seed=1"]
    assert overrides_of(["--config-name", "other", "a=1"]) is None


def test_run_tag_is_short_safe_and_distinct() -> None:
    assert run_tag("") == ""
    assert run_tag("exploration.lam=3") == "-exploration.lam=3"
    long = [
        run_tag(f"a.very.long.key.that.goes.on.and.on={i},another.key.as.long.as.that={i}")
        for i in range(3)
    ]
    assert len(set(long)) == 3
    assert all(
        len(tag) <= 62 and "/" not in tag and " " not in tag
        for tag in [*long, run_tag("a='x/y z'")]
    )


def test_every_group_of_the_design_exists() -> None:
    assert {
        "model",
        "exploration",
        "task",
        "benchmark",
        "engine",
        "algorithm",
        "tracking",
        "experiment",
    } <= set(groups())
    assert {"none", "entropy", "evol", "g2rl"} <= set(choices("exploration"))
    assert {"grpo", "dr_grpo", "dapo", "gspo", "cispo"} <= set(choices("algorithm"))
    assert (config_dir() / "train.yaml").is_file()


@pytest.mark.parametrize("words", [[], ["experiment=signals"]])
def test_settings_that_matter_to_no_result_make_no_other_folder(words: list[str]) -> None:
    """Every setting that may change when a run continues is left out of the folder's name."""
    config = _compose(words, "train", hydra=True)
    left_out = set(config.hydra.job.config.override_dirname.exclude_keys)
    plain = OmegaConf.to_container(config, resolve=False)
    for name in free_keys("train", "resume"):
        node = plain
        for part in name.split("."):
            node = node[part]
        leaves = (
            [f"{name}.{leaf}" for leaf in node]
            if isinstance(node, dict) and name != "tracking"
            else [name]
        )
        assert set(leaves) <= left_out, name


def test_the_flag_that_unpickles_a_file_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["--experimental-rerun", "x.pickle"], ["--experimental-rerun=x.pickle"]):
        monkeypatch.setattr("sys.argv", ["g2rl-train", *words])
        with pytest.raises(SystemExit) as stopped:
            launch("train", lambda config: None, ())
        assert stopped.value.code == 2
        assert "unpickle" in capsys.readouterr().err
