"""Typed settings at the door: a composed configuration is read once, before anything is loaded.

Below this module no configuration object is passed on. What a node of conf/ holds is checked by the record
that it becomes, and an error names the key. Nodes with a `_target_` (task, signal, encoder, engine,
benchmark, tracking) are instantiated by the builders beside this module.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from g2rl.engines.engine import Engine, SamplerMemory
from g2rl.formulas.advantages import GroupAdvantage
from g2rl.formulas.losses import PolicyLoss
from g2rl.policy.lora import LoraSettings
from g2rl.policy.sharding import ShardSettings
from g2rl.training.alarms import HealthLimits
from g2rl.training.optimizer import OptimizerSettings
from g2rl.training.settings import TrainerSettings
from g2rl.types import SamplingParams

PLANS = ("check", "print", "off")
Record = TypeVar("Record")


@dataclass(slots=True, frozen=True)
class ModelSettings:
    """Node `model`; see conf/model/base/hf.yaml."""

    name: str
    source: str
    gguf_file: str | None = None
    revision: str | None = None
    dtype: str = "float32"
    compute_dtype: str | None = None
    device: str = "auto"
    attention: str = "sdpa"
    chat: bool = True
    stop_tokens: tuple[str, ...] | None = None
    gradient_checkpointing: bool = False
    overrides: Mapping[str, Any] = field(default_factory=dict)
    random_init: bool = False
    adapter: Path | None = None
    lora: LoraSettings | None = None
    tile_mb: int = 64

    def __post_init__(self) -> None:
        if self.tile_mb < 1:
            raise ValueError(f"model.tile_mb must be >= 1, got {self.tile_mb}")
        if self.lora is None or self.lora.export != "adapter":
            return
        if self.adapter is not None or self.random_init:
            raise ValueError(
                "model.lora.export=adapter needs a base that can be found again, without model.adapter "
                "and model.random_init; use model.lora.export=merged"
            )

    @property
    def tile_bytes(self) -> int:
        """Memory of one tile of logits."""
        return self.tile_mb << 20


@dataclass(slots=True, frozen=True)
class ParallelSettings:
    """Node `parallel`: how the weights are divided, or None for one process."""

    shard: ShardSettings | None = None
    timeout_minutes: float = 60.0


@dataclass(slots=True, frozen=True)
class GradingSettings:
    """Node `verify`: the processes that grade, and their limits."""

    workers: int
    timeout_seconds: float
    memory_mb: int


@dataclass(slots=True, frozen=True)
class CheckpointSettings:
    """Which checkpoints stay: the newest `keep`, and the best."""

    keep: int
    keep_best: bool


@dataclass(slots=True, frozen=True)
class TrainSettings:
    """All settings of g2rl-train that are not the arguments of an object in conf/."""

    seed: int
    plan: str
    model: ModelSettings
    parallel: ParallelSettings
    trainer: TrainerSettings
    checkpoints: CheckpointSettings
    optimizer: OptimizerSettings
    advantage: GroupAdvantage
    loss: PolicyLoss
    health: HealthLimits
    grading: GradingSettings
    sampler_memory: SamplerMemory
    overlong: str
    """What becomes of training prompts that are too long: error, or drop."""

    def __post_init__(self) -> None:
        if self.plan not in PLANS:
            raise ValueError(f"plan must be one of {PLANS}, got {self.plan!r}")
        mini_batches, prompts = self.optimizer.mini_batches, self.trainer.prompts_per_step
        if mini_batches > prompts:
            raise ValueError(
                f"optimizer.mini_batches={mini_batches} over trainer.prompts_per_step={prompts}: a "
                "mini-batch holds whole groups, so there cannot be more of them"
            )

    @property
    def total_updates(self) -> int:
        """Optimizer updates of the whole run: the length of the learning-rate schedule."""
        return self.trainer.steps * self.optimizer.mini_batches * self.optimizer.epochs


def read_train_settings(config: DictConfig) -> TrainSettings:
    """Read and check the configuration of g2rl-train.

    Raises:
        ValueError: a setting that cannot be, named by its key.
    """
    # records of several nodes
    advantage, loss = read_algorithm(config.algorithm)
    optimizer = {**config.optimizer, "betas": tuple(config.optimizer.betas)}
    return TrainSettings(
        seed=config.seed,
        plan="off" if config.plan is False else config.plan,  # YAML reads a bare off as false
        model=read_model_settings(config.model),
        parallel=read_parallel_settings(config.parallel),
        trainer=read_trainer_settings(config),
        checkpoints=CheckpointSettings(config.trainer.keep_checkpoints, config.trainer.keep_best),
        optimizer=OptimizerSettings(**optimizer),
        advantage=advantage,
        loss=loss,
        health=HealthLimits(**config.health),
        grading=read_grading_settings(config.verify),
        sampler_memory=read_sampler_memory(config.engine),
        overlong=config.task.overlong,
    )


def read_model_settings(node: DictConfig) -> ModelSettings:
    """Node `model`."""
    # values that become objects
    plain: dict[str, Any] = OmegaConf.to_container(node, resolve=True)  # type: ignore[assignment]
    lora = plain["lora"]
    plain["lora"] = None if lora["r"] is None else LoraSettings(**lora)
    if plain["stop_tokens"] is not None:
        plain["stop_tokens"] = tuple(plain["stop_tokens"])
    if plain["adapter"] is not None:
        plain["adapter"] = Path(plain["adapter"]).expanduser()
    return _record(ModelSettings, plain)


def read_parallel_settings(node: DictConfig) -> ParallelSettings:
    """Node `parallel`."""
    if not node.shard:
        return ParallelSettings()
    return ParallelSettings(_record(ShardSettings, node), node.timeout_minutes)


def read_grading_settings(node: DictConfig) -> GradingSettings:
    """Node `verify`."""
    return GradingSettings(node.workers, node.timeout_seconds, node.memory_mb)


def read_trainer_settings(config: DictConfig) -> TrainerSettings:
    """Node `trainer`, with what the loop needs of the nodes `task` and `exploration`."""
    task = config.task
    return _record(
        TrainerSettings,
        {
            **config.trainer,
            "sampling": SamplingParams(
                task.temperature, task.top_p, task.top_k, task.max_response_tokens
            ),
            "max_prompt_tokens": task.max_prompt_tokens,
            "feature_temperature": config.exploration.feature_temperature,
            "seed": config.seed,
        },
    )


def read_algorithm(node: Mapping[str, Any]) -> tuple[GroupAdvantage, PolicyLoss]:
    """Node `algorithm`: one flat list of settings for advantage and loss."""
    advantage = GroupAdvantage(
        scale=node["advantage_scale"],
        eps=node["advantage_eps"],
        uniform_groups=node["uniform_groups"],
        floor=node["uniform_floor"],
    )
    return advantage, _record(PolicyLoss, node)


def read_sampler_memory(node: DictConfig) -> SamplerMemory:
    """Node `engine`: what its engine class says of the memory of sampling."""
    engine_class: type[Engine] = get_class(node._target_)
    plain: dict[str, Any] = OmegaConf.to_container(node, resolve=True)  # type: ignore[assignment]
    return engine_class.sampler_memory(plain)


def _record(kind: type[Record], values: Mapping[str, Any]) -> Record:
    """A dataclass from those of the values that are its fields."""
    names = [one.name for one in dataclasses.fields(kind)]  # type: ignore[arg-type]
    return kind(**{name: values[name] for name in names if name in values})
