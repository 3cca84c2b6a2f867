"""What `g2rl-analyze` looks at: a model, its policy and an engine that samples from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from g2rl.cli.build.benchmarks import build_benchmarks
from g2rl.cli.build.inputs import files_of_model, held_out_inputs
from g2rl.cli.build.model import (
    build_engine,
    build_policy,
    check_context,
    load_model,
    model_of_subject,
    without_checkpointing,
)
from g2rl.cli.build.settings import plain, read_model_settings
from g2rl.cli.folder import prepare
from g2rl.engines.engine import Engine
from g2rl.policy.anatomy import positions_of
from g2rl.policy.loading import LoadedModel
from g2rl.policy.policy import Policy
from g2rl.policy.prompts import encode_prompt
from g2rl.runs.identity import free_keys
from g2rl.runs.inputs import check_inputs
from g2rl.tasks.benchmarks.benchmark import Benchmark


def begin(
    command: str,
    config: DictConfig,
    folder: Path,
    overrides: Sequence[str],
    outputs: Sequence[str],
) -> tuple[DictConfig, Benchmark]:
    """Take over a run's model, choose the benchmark and prepare the folder, all without a model.

    Args:
        command: analyze_geometry or analyze_fidelity.
        config: composed.
        folder: where the command writes.
        overrides: what was typed; the settings of a run's model yield to them.
        outputs: files that the command makes, see `prepare`.

    Raises:
        ValueError: several benchmarks at once, or what the parts refuse.
    """
    # a run brings its own model
    config = config.copy()
    config.model = model_of_subject(config, overrides)

    # one benchmark at a time
    benchmarks = build_benchmarks(config.benchmark)
    if len(benchmarks) != 1:
        names = ", ".join(benchmark.name for benchmark in benchmarks)
        raise ValueError(f"benchmark has {len(benchmarks)} members ({names}): choose one")

    # the folder: new, or of the same settings and the same inputs
    free = free_keys(command, "resume")
    continued = prepare(folder, plain(config), config.resume, free, outputs)
    digests = files_of_model(read_model_settings(config.model))
    digests.update(held_out_inputs(benchmarks))
    check_inputs(folder, digests, continued)
    return config, benchmarks[0]


def open_subject(config: DictConfig, benchmark: Benchmark) -> tuple[LoadedModel, Policy, Engine]:
    """Load the model and make its policy and engine; weights are not pushed yet.

    Raises:
        ValueError: a prompt with its response does not fit the model.
    """
    settings = without_checkpointing(read_model_settings(config.model))
    loaded = load_model(settings)
    problems = benchmark.problems[: config.problems]

    # every prompt with its response must fit
    longest = 0
    for problem in problems:
        prompt = encode_prompt(loaded.tokenizer, problem.prompt, settings.chat)
        longest = max(longest, len(prompt))
    refuse_long(loaded.model.config, longest, config.max_tokens)

    policy = build_policy(loaded, settings)
    return loaded, policy, build_engine(config.engine, policy, loaded)


def refuse_long(model_config: Any, prompt: int, response: int) -> None:
    """`check_context` in the words of this command."""
    try:
        check_context(model_config, prompt + response)
    except ValueError:
        limit = positions_of(model_config) or 0
        raise ValueError(
            f"max_tokens={response} behind the longest prompt ({prompt} tokens) is over the "
            f"model's {limit} positions: set max_tokens to at most {limit - prompt}"
        ) from None
