"""From a composed configuration to the memory plan of the run; see `g2rl.training.memory_plan`."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from g2rl.policy.loading import pick_device, read_config
from g2rl.policy.lora import LoraSettings
from g2rl.tasks.benchmarks.benchmark import Benchmark
from g2rl.training.memory import FLOAT, Job
from g2rl.training.memory_plan import Plan, device_memory, shape_of
from g2rl.training.settings import TrainerSettings

log = logging.getLogger(__name__)
CHOICES = ("check", "print", "off")


def plan_memory(
    config: DictConfig,
    settings: TrainerSettings,
    lora: LoraSettings | None,
    benchmarks: Sequence[Benchmark],
    features: bool,
) -> Any:
    """Print and check the plan before any weight is loaded; returns the model's configuration.

    plan=check refuses what cannot fit and prints the plan on a GPU only; print prints it anywhere;
    off does nothing and returns None.

    Raises:
        PlanError: the run cannot fit; says which settings would help.
        ModelError: the model's configuration cannot be read.
    """
    if config.plan is False or config.plan == "off":  # YAML reads a bare off as false
        return None
    if config.plan not in CHOICES:
        raise ValueError(f"plan must be one of {CHOICES}, got {config.plan!r}")
    node = config.model
    found = read_config(
        node.source, node.gguf_file, node.revision, OmegaConf.to_container(node.overrides)
    )  # type: ignore[arg-type]
    try:
        shape = shape_of(found, lora)
    except ValueError as error:
        log.warning("%s", error)
        return found
    device = pick_device(node.device)
    memory = device_memory(device)
    if device.type == "cpu":  # the processes of one machine share it
        memory //= int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    plan = Plan(shape, job_of(config, settings, benchmarks, features, memory), memory)
    if int(os.environ.get("RANK", "0")) == 0:
        if config.plan == "print" or device.type == "cuda":
            print("\n".join(plan.lines()), flush=True)
        if warning := plan.warning():
            log.warning("%s", warning)
    plan.refuse()
    return found


def job_of(
    config: DictConfig,
    settings: TrainerSettings,
    benchmarks: Sequence[Benchmark],
    features: bool,
    memory: int,
) -> Job:
    """What the configuration asks of one device of `memory` bytes."""

    def option(key: str, otherwise: Any = None) -> Any:
        value = OmegaConf.select(config, key)
        return otherwise if value is None else value

    gpus = int(os.environ.get("WORLD_SIZE", "1"))
    own_engine = "gpu_memory_utilization" in config.engine
    fixed = option("engine.kv_cache_mb")
    engine_bytes = int(memory * config.engine.gpu_memory_utilization) if own_engine else None
    return Job(
        prompts=settings.prompts_per_step,
        group_size=settings.group_size,
        gpus=gpus,
        sharded=bool(option("parallel.shard", gpus > 1)),
        prompt_tokens=settings.max_prompt_tokens,
        response_tokens=settings.sampling.max_tokens,
        eval_rows=-(-max((len(b.problems) * b.samples for b in benchmarks), default=0) // gpus),
        eval_tokens=max((b.params.max_tokens for b in benchmarks), default=0),
        micro_batch_tokens=config.optimizer.micro_batch_tokens,
        score_tokens=settings.score_tokens,
        max_rows=config.engine.max_rows,
        tile_bytes=config.model.tile_mb << 20,
        weight_bytes=FLOAT if config.model.dtype == "float32" else 2,
        autocast=config.model.compute_dtype is not None,
        checkpointing=config.model.gradient_checkpointing,
        reference=config.algorithm.kl_coef != 0,
        features=features,
        offload_reference=bool(option("parallel.offload_reference", False)),
        offload_optimizer=bool(option("parallel.offload_optimizer", False)),
        vllm_bytes=fixed << 20 if own_engine and fixed is not None else engine_bytes,
        vllm_sleeps=option("engine.sleep", "auto") is not False,
    )
