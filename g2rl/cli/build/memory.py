"""From the settings of a run to its plans of memory and disk; see `g2rl.training.memory_plan`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from g2rl.cli.build.settings import TrainSettings
from g2rl.policy.loading import pick_device, read_config
from g2rl.tasks.benchmarks.benchmark import Benchmark
from g2rl.training.disk import DiskPlan, kept_checkpoints
from g2rl.training.memory import FLOAT, Job
from g2rl.training.memory_plan import Plan, device_memory, shape_of
from g2rl.world import environment_rank, environment_size, processes_on_this_machine

log = logging.getLogger(__name__)


def plan_memory(
    settings: TrainSettings,
    benchmarks: Sequence[Benchmark],
    features: bool,
    reference: bool = False,
    encoder: object | None = None,
) -> Any:
    """Print and check the memory plan before any weight is loaded.

    With plan=check a run that cannot fit is refused, and the plan is printed on a GPU only.
    plan=print prints it on a CPU too; plan=off does nothing.

    Args:
        settings: of the run.
        benchmarks: the held-out problem sets, whose evaluation needs memory too.
        features: whether gradient features are computed.
        reference: whether a signal looks at the reference policy, which is then held also without a
            KL term.
        encoder: of the signals, if they have one; it counts where it computes on the policy's
            device and has weights.

    Returns:
        The model's configuration, so that it need not be read again; None with plan=off.

    Raises:
        PlanError: the run cannot fit; it says which settings would help.
        ModelError: the model's configuration cannot be read.
    """
    if settings.plan == "off":
        return None

    # the shape of the model, from its configuration alone
    model = settings.model
    model_config = read_config(model.source, model.gguf_file, model.revision, dict(model.overrides))
    try:
        shape = shape_of(model_config, model.lora)
    except ValueError as error:
        log.warning("%s", error)
        return model_config

    # the device's memory, which the processes of one machine share if it is the machine's own
    device = pick_device(model.device)
    memory = device_memory(device)
    if device.type == "cpu":
        memory //= processes_on_this_machine()

    # the first rank says what the plan is, and every rank refuses what cannot fit
    job = job_of(settings, benchmarks, features, memory, reference)
    taken = getattr(encoder, "memory", None)  # hashed n-grams take nothing worth counting
    if taken is not None and taken.device.type == device.type:
        job = replace(
            job,
            encoder_bytes=taken.weights,
            encoder_forward=taken.forward,
            offload_encoder=taken.is_offloaded,
        )
    plan = Plan(shape, job, memory)
    if environment_rank() == 0:
        if settings.plan == "print" or device.type == "cuda":
            print("\n".join(plan.lines()), flush=True)
        warning = plan.warning()
        if warning is not None:
            log.warning("%s", warning)
    plan.refuse()
    return model_config


def plan_disk(
    settings: TrainSettings, parameters: int, trained: int, weight_bytes: int
) -> DiskPlan:
    """What the checkpoints and the exported model of a run take on the disk.

    Args:
        settings: of the run.
        parameters, trained, weight_bytes: see `DiskPlan`.
    """
    trainer, checkpoints = settings.trainer, settings.checkpoints
    kept = kept_checkpoints(
        trainer.steps, trainer.checkpoint_every, checkpoints.keep, checkpoints.keep_best
    )
    return DiskPlan(parameters, trained, weight_bytes, kept, trainer.lag)


def job_of(
    settings: TrainSettings,
    benchmarks: Sequence[Benchmark],
    features: bool,
    memory: int,
    reference: bool = False,
) -> Job:
    """What the settings ask of one device of `memory` bytes."""
    gpus = environment_size()
    model, trainer, shard = settings.model, settings.trainer, settings.parallel.shard

    # the largest evaluation, divided among the GPUs
    eval_rows = 0
    eval_tokens = 0
    for benchmark in benchmarks:
        eval_rows = max(eval_rows, len(benchmark.problems) * benchmark.samples)
        eval_tokens = max(eval_tokens, benchmark.params.max_tokens)

    # an engine with weights of its own
    sampler = settings.sampler_memory
    engine_bytes = None
    if sampler.device_share is not None:
        engine_bytes = int(memory * sampler.device_share)
        if sampler.kv_cache_mb is not None:
            engine_bytes = sampler.kv_cache_mb << 20

    # weights of past steps stay in host memory, which is the device's own only on a CPU
    past_weights = 0
    if trainer.lag and pick_device(model.device).type == "cpu":
        past_weights = trainer.lag + 1

    return Job(
        prompts=trainer.prompts_per_step,
        group_size=trainer.group_size,
        gpus=gpus,
        sharded=shard is not None,
        prompt_tokens=trainer.max_prompt_tokens,
        response_tokens=trainer.sampling.max_tokens,
        eval_rows=-(-eval_rows // gpus),
        eval_tokens=eval_tokens,
        micro_batch_tokens=settings.optimizer.micro_batch_tokens,
        score_tokens=trainer.score_tokens,
        max_rows=sampler.max_rows,
        tile_bytes=model.tile_bytes,
        weight_bytes=FLOAT if model.dtype == "float32" else 2,
        autocast=model.compute_dtype is not None,
        checkpointing=model.gradient_checkpointing,
        reference=settings.loss.kl_coef != 0 or reference,
        features=features,
        offload_reference=shard is not None and shard.offload_reference,
        offload_optimizer=shard is not None and shard.offload_optimizer,
        vllm_bytes=engine_bytes,
        vllm_sleeps=sampler.sleeps,
        past_weights=past_weights,
    )
