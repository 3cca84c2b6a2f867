"""TODO docstring."""

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

from g2rl.policy.loading import (
    LoadedModel,
    load,
    pick_device,
    resolve_source,
    set_checkpointing,
)
from g2rl.policy.lora import LoraSettings, add_lora, has_lora, load_adapter
from g2rl.policy.policy import Policy
from g2rl.policy.reference import AdaptersOff
from g2rl.policy.sharding import ShardSettings
from g2rl.world import World, environment_size


def lora_settings(node: DictConfig) -> LoraSettings | None:
    """The settings of `model.lora`; None without a rank."""
    return None if node.lora.r is None else LoraSettings(**node.lora)


def load_model(node: DictConfig, known: Any = None) -> LoadedModel:
    """The model with what `model.adapter` merges into it and the adapters that `model.lora` adds.

    `known` is its configuration, where that has been read already.
    """
    lora = lora_settings(node)
    if (
        lora is not None
        and lora.export == "adapter"
        and (node.adapter is not None or node.random_init)
    ):
        raise ValueError(
            "model.lora.export=adapter needs a base that can be found again, without model.adapter and "
            "model.random_init; use model.lora.export=merged"
        )
    loaded = load(
        node.source,
        dtype=node.dtype,
        device=node.device,
        gguf_file=node.gguf_file,
        revision=node.revision,
        attention=node.attention,
        stop_tokens=None if node.stop_tokens is None else list(node.stop_tokens),
        gradient_checkpointing=node.gradient_checkpointing,
        overrides=OmegaConf.to_container(node.overrides),  # type: ignore[arg-type]
        random_init=node.random_init,
        config=known,
    )
    if node.adapter is not None:
        load_adapter(loaded.model, Path(node.adapter).expanduser())
    if lora is not None:
        add_lora(loaded.model, lora, resolve_source(node.source), node.revision)
    return loaded


def check_context(model_config: Any, tokens: int) -> None:
    """Prompt and response together fit into the positions the model was made for."""
    limit = getattr(model_config, "max_position_embeddings", None)
    if limit is not None and tokens > limit:
        raise ValueError(
            f"task.max_prompt_tokens + task.max_response_tokens = {tokens}, over the model's {limit} "
            "positions; lower one of them"
        )


def join_world(config: DictConfig) -> World:
    """The processes of this run.

    Raises:
        ValueError: started by torchrun with parallel=single, where every process would train alone,
            or as a sweep, whose arms one process starts.
    """
    if (
        environment_size() > 1
        and HydraConfig.initialized()
        and HydraConfig.get().mode == RunMode.MULTIRUN
    ):
        raise ValueError(
            "--multirun under torchrun: start one run of several processes after the other"
        )
    if config.parallel.shard:
        return World.join(pick_device(config.model.device), config.parallel.timeout_minutes)
    if environment_size() > 1:
        raise ValueError(
            f"WORLD_SIZE={environment_size()} with parallel=single: choose parallel=fsdp for a run of "
            "several processes"
        )
    return World()


def shard_policies(
    node: DictConfig, world: World, policy: Policy, reference: Policy | None
) -> None:
    """Divide the weights of both among the ranks; nothing without parallel.shard."""
    if world.mesh is None:
        return
    names = {field.name for field in dataclasses.fields(ShardSettings)}
    settings = ShardSettings(**{name: node[name] for name in names})
    policy.shard(world.mesh, settings, settings.offload_optimizer)
    if reference is not None and not isinstance(reference, AdaptersOff):
        reference.shard(world.mesh, settings, settings.offload_reference)


def frozen_copy(policy: Policy) -> Policy:
    """The reference policy: a copy that never changes, or under LoRA the frozen base itself."""
    if has_lora(policy.model):
        return AdaptersOff(policy)
    reference = copy.deepcopy(policy).requires_grad_(False).eval()
    set_checkpointing(reference.model, False)
    return reference


def build_engine(config: DictConfig) -> tuple[Any, Any]:
    """The engine over the loaded model, and the tokenizer."""
    loaded = load_model(OmegaConf.merge(config.model, {"gradient_checkpointing": False}))  # type: ignore[arg-type]
    policy = Policy(loaded.model, config.model.tile_mb << 20, config.model.compute_dtype)
    engine = instantiate(
        config.engine, policy=policy, tokenizer=loaded.tokenizer, stop_ids=loaded.stop_ids
    )
    return engine, loaded.tokenizer


def model_of_run(run: Path, overrides: Sequence[str]) -> DictConfig:
    """The model settings of a run with its exported model as the source; typed `model.KEY=`
    settings win.

    Raises:
        ValueError: together with model=, or a folder that is no finished run.
    """
    chosen = [word for word in overrides if word.startswith("model=")]
    if chosen:
        raise ValueError(
            f"run={run} and {chosen[0]}: a run brings its own model; give one of the two"
        )
    if not (run / "config.yaml").is_file():
        raise ValueError(f"run={run}: no config.yaml there; name the folder of a g2rl-train run")
    if not (run / "model").is_dir():
        raise ValueError(f"run={run}: the run has not ended, it has no exported model yet")
    node = OmegaConf.load(run / "config.yaml").model
    exported: dict[str, Any] = {"lora": {"r": None}, "adapter": None}
    if (
        run / "model" / "adapter_config.json"
    ).is_file():  # model.lora.export=adapter: on the run's own base
        exported["adapter"] = str(run / "model")
    else:
        exported |= {
            "source": str(run / "model"),
            "gguf_file": None,
            "revision": None,
            "random_init": False,
        }
        node.overrides = {}
    typed = OmegaConf.from_dotlist([w for w in overrides if w.startswith("model.")]).get(
        "model", {}
    )
    return OmegaConf.merge(node, exported, typed)  # type: ignore[return-value]
