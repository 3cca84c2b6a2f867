"""Build the model, the policy and the engine, and join the processes of a run."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from g2rl.cli.build.settings import ModelSettings, ParallelSettings, read_model_settings
from g2rl.cli.folder import read_config_file
from g2rl.engines.engine import Engine
from g2rl.policy.anatomy import longrope_switch, positions_of, text_config
from g2rl.policy.loading import (
    LoadedModel,
    load,
    pick_device,
    resolve_source,
    set_checkpointing,
)
from g2rl.policy.lora import add_lora, has_lora, load_adapter
from g2rl.policy.policy import Policy
from g2rl.policy.prompts import encode_prompt, set_system_prompt
from g2rl.policy.reference import AdaptersOff
from g2rl.runs.checkpoints import find_checkpoint, load_weights
from g2rl.runs.layout import RunFolder
from g2rl.tasks.benchmarks.benchmark import Benchmark
from g2rl.tasks.places import why_no
from g2rl.types import Tokenizer
from g2rl.world import World, environment_size


def load_model(
    settings: ModelSettings, model_config: Any = None, seed: int | None = None
) -> LoadedModel:
    """Load the model, merge `model.adapter` into it and add the adapters of `model.lora`.

    Args:
        settings: node `model`.
        model_config: the model's own configuration, where it has been read already.
        seed: fixes the weights of `model.random_init` and of new adapters, see `load`.
    """
    loaded = load(
        settings.source,
        dtype=settings.dtype,
        device=settings.device,
        gguf_file=settings.gguf_file,
        revision=settings.revision,
        attention=settings.attention,
        stop_tokens=settings.stop_tokens,
        gradient_checkpointing=settings.gradient_checkpointing,
        overrides=dict(settings.overrides),
        random_init=settings.random_init,
        config=model_config,
        seed=seed,
        date=settings.date,
    )

    set_system_prompt(loaded.tokenizer, settings.system_prompt)

    # an adapter that is merged into the weights, then new ones that train
    if settings.adapter is not None:
        load_adapter(loaded.model, settings.adapter)
    if settings.lora is not None:
        source = resolve_source(settings.source)
        add_lora(loaded.model, settings.lora, source, settings.revision)

    # what a run had learnt by then
    if settings.checkpoint is not None:
        load_weights(settings.checkpoint, loaded.model)
    return loaded


def build_policy(loaded: LoadedModel, settings: ModelSettings) -> Policy:
    """The policy around a loaded model.

    Raises:
        UnsupportedModelError: a few tokens show that its numbers would be wrong, see
            `Policy.check`.
    """
    policy = Policy(
        loaded.model,
        settings.tile_bytes,
        settings.compute_dtype,
        settings.training_noise,
        settings.prefix_sharing,
    )
    policy.check()
    return policy


def build_engine(node: DictConfig, policy: Policy, loaded: LoadedModel) -> Engine:
    """The engine of node `engine` over a policy."""
    return instantiate(node, policy=policy, tokenizer=loaded.tokenizer, stop_ids=loaded.stop_ids)


def build_sampler(
    config: DictConfig, benchmarks: Sequence[Benchmark]
) -> tuple[Engine, LoadedModel]:
    """The model of a command that only samples, and its engine; weights are not pushed yet.

    Raises:
        ValueError: a benchmark's prompts and responses do not fit the model.
    """
    settings = without_checkpointing(read_model_settings(config.model))
    loaded = load_model(settings)

    # before the engine, which may take long to start
    check_benchmark_prompts(benchmarks, loaded.tokenizer, settings.chat, loaded.model.config)
    policy = build_policy(loaded, settings)
    return build_engine(config.engine, policy, loaded), loaded


def without_checkpointing(settings: ModelSettings) -> ModelSettings:
    """The settings of a model that is not trained: activations need not be recomputed."""
    return dataclasses.replace(settings, gradient_checkpointing=False)


def check_context(
    model_config: Any,
    tokens: int,
    what: str = "task.max_prompt_tokens + task.max_response_tokens",
    remedy: str = "lower one of them",
) -> None:
    """Refuse prompts and responses that together exceed the positions the model was made for.

    Args:
        model_config: of the model.
        tokens: of the longest prompt and its response.
        what: what they add up from, in the words of settings.
        remedy: what to do.

    Raises:
        ValueError: naming the settings and the limit.
    """
    limit = positions_of(model_config)
    if limit is not None and tokens > limit:
        raise ValueError(f"{what} = {tokens}, over the model's {limit} positions; {remedy}")

    # positions that suffice, but not for numbers that are those of the text alone
    switch = longrope_switch(model_config)
    if switch is not None and tokens > switch:
        raise ValueError(
            f"{what} = {tokens}, over the {switch} tokens up to which a model with longrope "
            "(rope_parameters of its configuration) computes every text by itself: beyond, the "
            "longest text of a batch decides on the positions of all, so that log-probs would "
            f"depend on neighbours; {remedy}"
        )


def check_benchmark_prompts(
    benchmarks: Sequence[Benchmark], tokenizer: Tokenizer, chat: bool, model_config: Any
) -> None:
    """Encode every held-out prompt once, and refuse what does not fit the model.

    Raises:
        ValueError: the longest prompt of a benchmark with its response exceeds the positions of the
            model, or a token its embeddings.
        ModelError: a prompt that the tokenizer cannot encode.
    """
    for benchmark in benchmarks:
        longest = largest_id = 0
        for problem in benchmark.problems:
            prompt_ids = encode_prompt(tokenizer, problem.prompt, chat)
            longest = max(longest, len(prompt_ids))
            largest_id = max([largest_id, *prompt_ids])
        refuse_foreign_token(tokenizer, largest_id, model_config)

        # a longer text gets wrong numbers from some models, and an error from others
        limit = benchmark.params.max_tokens
        check_context(
            model_config,
            longest + limit,
            f"benchmark {benchmark.name}: the longest prompt ({longest} tokens) + max_tokens "
            f"({limit})",
            "lower benchmark.max_tokens",
        )


def refuse_foreign_token(tokenizer: Tokenizer, token_id: int, model_config: Any) -> None:
    """Refuse a tokenizer that writes a token for which the model has no embedding.

    Raises:
        ValueError: naming the token.
    """
    rows = getattr(text_config(model_config), "vocab_size", None)
    if rows is not None and token_id >= rows:
        token = tokenizer.convert_ids_to_tokens(token_id)
        raise ValueError(
            f"prompts hold the token {token!r} ({token_id}), and the model has embeddings of "
            f"{rows} tokens: the tokenizer is of another model, or tokens were added to it without "
            "resize_token_embeddings"
        )


def join_world(settings: ParallelSettings, device: str) -> World:
    """The processes of this run.

    Raises:
        ValueError: started by torchrun with parallel=single, where every process would train alone,
            or as a sweep, whose arms one process starts.
    """
    # under torchrun every process would start the whole sweep
    is_sweep = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    if environment_size() > 1 and is_sweep:
        raise ValueError(
            "--multirun under torchrun: start one run of several processes after the other"
        )

    # several processes, or the only one
    if settings.shard is not None:
        return World.join(pick_device(device), settings.timeout_minutes)
    if environment_size() > 1:
        raise ValueError(
            f"WORLD_SIZE={environment_size()} with parallel=single: choose parallel=fsdp for a run "
            "of several processes"
        )
    return World()


def shard_policies(
    settings: ParallelSettings,
    world: World,
    policy: Policy,
    reference: Policy | AdaptersOff | None,
) -> None:
    """Divide the weights of both policies among the ranks; does nothing for one process."""
    if world.mesh is None or settings.shard is None:
        return
    policy.shard(world.mesh, settings.shard, settings.shard.offload_optimizer)
    if isinstance(reference, Policy):  # adapters off: its weights are the policy's
        reference.shard(world.mesh, settings.shard, settings.shard.offload_reference)


def frozen_copy(policy: Policy) -> Policy | AdaptersOff:
    """The reference policy: a copy that never changes, or under LoRA the frozen base itself."""
    if has_lora(policy.model):
        return AdaptersOff(policy)

    # it is scored without gradients, so nothing is recomputed
    reference = copy.deepcopy(policy).requires_grad_(False).eval()
    set_checkpointing(reference.model, False)
    return reference


def model_of_subject(config: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The model node of a command that looks at a model: its own, or that of a run.

    Args:
        config: with `run`, `checkpoint` and `model`.
        overrides: what was typed; the settings of a run's model yield to them.

    Raises:
        ValueError: a checkpoint without a run, or what `model_of_run` refuses.
    """
    if config.run is not None:
        return model_of_run(Path(config.run).expanduser(), overrides, config.checkpoint)
    if config.checkpoint is not None:
        raise ValueError(f"checkpoint={config.checkpoint} needs the run that it is of: run=FOLDER")
    return config.model


def model_of_run(
    run: Path, overrides: Sequence[str], checkpoint: str | int | None = None
) -> DictConfig:
    """The model node of a run with its exported model, or one of its checkpoints, as the source.

    What a run with LoRA has left is computed with in float32; of a checkpoint, as in training.

    Args:
        run: the run's folder.
        overrides: what was typed; `model.KEY=` settings among them win.
        checkpoint: best, newest, or the number of a step; None takes the exported model.

    Raises:
        ValueError: together with model=, or a folder that is no finished run.
        CheckpointError: there is no such checkpoint.
    """
    # the user's choice of a model would be overwritten
    typed_choices = [word for word in overrides if word.startswith("model=")]
    if typed_choices:
        raise ValueError(
            f"run={run} and {typed_choices[0]}: a run brings its own model; give one of the two"
        )

    # the settings that the run trained with, but for where the weights come from
    folder = RunFolder(run)
    absent = why_no("folder", run)
    if absent:
        raise ValueError(f"run={run}: {absent}; name that of a g2rl-train run")
    if not folder.config.is_file():
        raise ValueError(f"run={run}: no config.yaml there; name the folder of a g2rl-train run")
    config = read_config_file(folder.config)
    if not isinstance(config.get("model"), DictConfig):
        raise ValueError(
            f"run={run}: {folder.config} has no settings of a model; name the folder of a "
            "g2rl-train run"
        )
    node = config.model
    if checkpoint is None:
        left: dict[str, Any] = exported_model(run, node)
    else:
        left = {"checkpoint": str(find_checkpoint(folder.checkpoints, checkpoint))}
        refuse_lost_base(node, checkpoint)

    # settings that the user typed have the last word
    typed_settings = [word for word in overrides if word.startswith("model.")]
    typed = OmegaConf.from_dotlist(typed_settings).get("model", {})
    return OmegaConf.merge(node, left, typed)  # type: ignore[return-value]


def exported_model(run: Path, node: DictConfig) -> dict[str, Any]:
    """Changes to a run's model node that make its exported model the source.

    Raises:
        ValueError: the run has not ended.
    """
    folder = RunFolder(run)
    if not folder.model.is_dir():
        raise ValueError(
            f"run={run}: the run has not ended, it has no exported model yet; checkpoint=newest "
            "takes what it has"
        )
    exported: dict[str, Any] = {"lora": {"r": None}, "adapter": None, "checkpoint": None}
    if (folder.model / "adapter_config.json").is_file():
        # model.lora.export=adapter: an adapter on the run's own base
        exported["adapter"] = str(folder.model)
    else:
        exported["source"] = str(folder.model)
        exported["gguf_file"] = exported["revision"] = None
        exported["random_init"] = False
        node.overrides = {}

    # what adapters have learnt is a small part of merged weights: bfloat16 rounds most of it away
    if OmegaConf.select(node, "lora.r") is not None:
        exported["dtype"] = "float32"
        exported["compute_dtype"] = None
    return exported


def refuse_lost_base(node: DictConfig, checkpoint: str | int) -> None:
    """Refuse a checkpoint of adapters on a random base, which no checkpoint holds.

    Raises:
        ValueError: the run trained adapters on model.random_init.
    """
    if node.random_init and OmegaConf.select(node, "lora.r") is not None:
        raise ValueError(
            f"checkpoint={checkpoint} holds adapters alone, and their base had random weights "
            "(model.random_init): finish the run and take its exported model, without checkpoint="
        )
