"""Settings are read once into typed records, and a wrong one is refused by its full key."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from g2rl.cli.build.benchmarks import build_benchmarks
from g2rl.cli.build.settings import TrainSettings, check_command, read_train_settings
from g2rl.cli.build.trainer import build_exploration
from tests.support import composed


def settings_of(*overrides: str) -> TrainSettings:
    config = composed(*overrides)
    check_command("train", config)
    return read_train_settings(config)


def test_every_node_becomes_a_record() -> None:
    settings = settings_of(
        "trainer.steps=3",
        "optimizer.mini_batches=4",
        "optimizer.epochs=5",
        "optimizer.lr=1",
        "task.max_response_tokens=7",
        "exploration.feature_temperature=0.5",
        "plan=off",
        "parallel=fsdp",
        "model.lora.r=2",
        "verify.workers=9",
        "trainer.keep_checkpoints=6",
    )
    assert settings.total_updates == 3 * 4 * 5
    assert settings.optimizer.lr == 1
    assert settings.trainer.sampling.max_tokens == 7
    assert settings.trainer.feature_temperature == 0.5
    assert settings.plan == "off"
    assert settings.parallel.shard is not None
    assert settings.model.lora is not None
    assert settings.model.lora.r == 2
    assert settings.grading.workers == 9
    assert settings.checkpoints.keep == 6


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.steps=many", "trainer.steps must be a whole number, got 'many'"),
        ("trainer.steps=1e3", "trainer.steps must be a whole number, got 1000.0"),
        ("trainer.keep_checkpoints=all", "trainer.keep_checkpoints must be a whole number"),
        ("health.window=true", "health.window must be a whole number, got True"),
        ("model.chat=1", "model.chat must be true or false, got 1"),
        ("model.revision=123", "model.revision must be text or null, got 123"),
        (
            "model.stop_tokens=eos",
            "model.stop_tokens must be a list, typed as model.stop_tokens=[A,B], got 'eos'",
        ),
        ("optimizer.betas=[0.9]", "optimizer.betas must be two numbers"),
        ("task.top_p=2", "task.top_p must lie in"),
        ("task.max_response_tokens=0", "task.max_response_tokens must be >= 1, got 0"),
        ("exploration.feature_temperature=-1", "exploration.feature_temperature must be > 0"),
        ("algorithm.advantage_eps=none", "algorithm.advantage_eps must be a number, got 'none'"),
        ("algorithm.sampling_rounds=0", "algorithm.sampling_rounds must be >= 1"),
        ("algorithm.sampling_rounds=many", "algorithm.sampling_rounds must be a whole number"),
        ("algorithm.overlong_buffer=2", "algorithm.overlong_buffer must lie in"),
        ("algorithm.overlong_penalty=much", "algorithm.overlong_penalty must be a number"),
        ("algorithm.kl_bias_correction=1", "algorithm.kl_bias_correction must be true or false"),
        ("algorithm.sampler_mode=cut", "algorithm.sampler_mode must be one of"),
        ("seed=first", "seed must be a whole number, got 'first'"),
        ("+optimizer.momentum=1", "optimizer.momentum: there is no such setting"),
        ("seed=[0,1]", "seed must be a whole number, got .0, 1"),
        ("data_dir=3", "data_dir must be text or null, got 3"),
        ("resume=1", "resume must be text, got 1"),
        ("exploration.lam=abc", "exploration.lam must be a number, got 'abc'"),
        ("+exploration.lambda=1", "exploration.lambda: there is no such setting; exploration has"),
        ("exploration.observe=g2rl", "exploration.observe must be a list of texts, got 'g2rl'"),
        ("task.source.held_out=all", "task.source.held_out must be a whole number"),
        ("benchmark.ks=[1,four]", "benchmark.ks must be a list of whole numbers or null"),
        ("engine.max_rows=many", "engine.max_rows must be a whole number"),
        ("tracking.samples=few", "tracking.samples must be a whole number"),
    ],
)
def test_a_wrong_setting_is_named_by_its_full_key(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message.replace('[', '.')}"):
        settings_of(override)


@pytest.mark.parametrize(
    ("command", "override", "message"),
    [
        ("evaluate", "part=half", "part must be a whole number, got 'half'"),
        (
            "evaluate",
            "compare=runs/a",
            "compare must be a list, typed as compare=[A,B], got 'runs/a'",
        ),
        ("evaluate", "model.tile_mb=big", "model.tile_mb must be a whole number"),
        ("evaluate", "benchmark.temperature=hot", "benchmark.temperature must be a number"),
        ("analyze_geometry", "sampled_at=0.6", "sampled_at must be a list of numbers, got 0.6"),
        ("analyze_fidelity", "verify.workers=two", "verify.workers must be a whole number"),
    ],
)
def test_every_command_checks_the_types_of_its_settings(
    command: str, override: str, message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{message.replace('[', '.')}"):
        check_command(command, composed(override, command=command))


def test_a_setting_of_a_member_of_a_suite_is_named_by_its_full_key() -> None:
    with pytest.raises(ValueError, match=r"^benchmark\.suite\.aime24\.limit must be"):
        check_command("train", composed("benchmark=math", "benchmark.suite.aime24.limit=all"))


@pytest.mark.parametrize("setting", ["task.top_p=0.9", "task.top_k=5"])
def test_truncation_with_sampler_weights_is_refused_before_anything_is_loaded(setting: str) -> None:
    words = ["engine=vllm", "algorithm.sampler_correction=token", setting]
    with pytest.raises(ValueError, match=r"truncated distribution.*sampler_correction=token"):
        settings_of(*words)
    settings_of("engine=transformers", *words[1:])
    settings_of("engine=vllm", "algorithm.sampler_correction=none", setting)


def number_keys(node: DictConfig, prefix: str = "") -> Iterator[str]:
    """Every setting that is a number, by its full key."""
    for name, value in node.items():
        if isinstance(value, DictConfig):
            yield from number_keys(value, f"{prefix}{name}.")
        elif type(value) in (int, float):
            yield f"{prefix}{name}"


def built(config: DictConfig) -> None:
    """Build what is built of a configuration before a model is loaded."""
    check_command("train", config)
    settings = read_train_settings(config)
    build_exploration(config, settings)
    build_benchmarks(config.benchmark)
    instantiate(config.task.source)


@pytest.mark.parametrize("signal", ["g2rl", "kl_cov", "passk"])
def test_a_number_out_of_range_is_told_as_it_was_typed(signal: str) -> None:
    refused = set()
    for key in number_keys(composed(f"exploration={signal}")):
        for value in (-7, float("nan")):
            config = composed(f"exploration={signal}")
            OmegaConf.update(config, key, value)
            told = ""
            try:
                built(config)
            except (ValueError, InstantiationException) as error:
                told = str(error.__cause__ or error)
                refused.add((key, str(value)))
            assert not told or str(value) in told, f"{key}={value}"

    # what took -7 in silence once, and what named no value
    for key in ("benchmark.problems", "task.source.held_out", "verify.workers", "optimizer.eps"):
        assert (key, "-7") in refused
    for key in ("optimizer.lr", "algorithm.clip_low", "algorithm.clip_high"):
        assert {(key, "-7"), (key, "nan")} <= refused


def test_a_limit_keeps_something() -> None:
    for value in (0, -3):
        with pytest.raises(ValueError, match=rf"benchmark\.limit must be >= 1, got {value}"):
            build_benchmarks(composed(f"benchmark.limit={value}").benchmark)
