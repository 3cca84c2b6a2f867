"""What `g2rl-analyze` looks at: a model, its policy and an engine that samples from it."""

from __future__ import annotations

from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from g2rl.benchmarks.base import Benchmark
from g2rl.cli.assemble import check_context, load_model
from g2rl.engines.base import Engine
from g2rl.models import LoadedModel, encode_prompt
from g2rl.policy import Policy


def open_subject(config: DictConfig, benchmark: Benchmark) -> tuple[LoadedModel, Policy, Engine]:
    """Load the model and make sure that every prompt with its response fits; weights are not pushed yet."""
    node = OmegaConf.merge(config.model, {"gradient_checkpointing": False})
    loaded = load_model(node)  # type: ignore[arg-type]
    problems = benchmark.problems[: config.problems]
    prompts = [len(encode_prompt(loaded.tokenizer, p.prompt, config.model.chat)) for p in problems]
    refuse_long(loaded.model.config, max(prompts, default=0), config.max_tokens)
    policy = Policy(loaded.model, config.model.tile_mb << 20, config.model.compute_dtype)
    policy.check_head()
    engine = instantiate(config.engine, policy=policy, tokenizer=loaded.tokenizer, stop_ids=loaded.stop_ids)
    return loaded, policy, engine


def refuse_long(model_config: Any, prompt: int, response: int) -> None:
    """`check_context` in the words of this command."""
    try:
        check_context(model_config, prompt + response)
    except ValueError:
        limit = model_config.max_position_embeddings
        raise ValueError(
            f"max_tokens={response} behind the longest prompt ({prompt} tokens) is over the model's {limit} "
            f"positions: set max_tokens to at most {limit - prompt}"
        ) from None
