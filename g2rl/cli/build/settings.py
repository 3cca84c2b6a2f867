"""Typed settings at the door: a composed configuration is read once, before anything is loaded.

Every node of conf/ becomes a frozen record, which checks its values; an error names the full key
and the value. Nodes with a `_target_` (task, signal, encoder, engine, benchmark, tracking) become
objects in the builders beside this module. Below cli/build/ nobody sees a configuration.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from g2rl.cli.build.arguments import check_nodes, check_type
from g2rl.cli.config.own_code import own_folders
from g2rl.engines.engine import Engine, SamplerMemory
from g2rl.formulas.advantages import GroupAdvantage
from g2rl.formulas.losses import PolicyLoss
from g2rl.formulas.overlong import OverlongShaping
from g2rl.policy.chat import DATE
from g2rl.policy.lora import LoraSettings
from g2rl.policy.sharding import ShardSettings
from g2rl.training.alarms import HealthLimits
from g2rl.training.optimizer import OptimizerSettings
from g2rl.training.settings import TrainerSettings
from g2rl.types import SamplingParams

TASK_LINES = {
    "name": "NAME",
    "source": "{_target_: MODULE.CLASS}",
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "max_response_tokens": 120,
    "max_prompt_tokens": 64,
    "overlong": "error",
}
"""What every file of conf/task has, with values that may stand there."""
PLANS = ("check", "print", "off")
LEAST_MEMORY_MB = 256
"""What a grading worker needs to start, see `g2rl.tasks.grading.grader`."""
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
    system_prompt: str | None = None
    stop_tokens: tuple[str, ...] | None = None
    gradient_checkpointing: bool = False
    overrides: Mapping[str, Any] = field(default_factory=dict)
    random_init: bool = False
    adapter: Path | None = None
    checkpoint: Path | None = None
    lora: LoraSettings | None = None
    tile_mb: int = 64
    training_noise: bool = False
    prefix_sharing: str = "off"
    date: str = DATE

    def __post_init__(self) -> None:
        if self.tile_mb < 1:
            raise ValueError(f"model.tile_mb must be >= 1, got {self.tile_mb}")
        if self.system_prompt is not None and not self.chat:
            raise ValueError(
                "model.system_prompt needs a chat template: set model.chat=true, or put the words "
                "into task.source.instruction"
            )

        # an exported adapter names its base; these two change the base in memory only
        if self.lora is None or self.lora.export != "adapter":
            return
        if self.adapter is not None or self.random_init:
            raise ValueError(
                "model.lora.export=adapter needs a base that can be found again, without "
                "model.adapter and model.random_init; use model.lora.export=merged"
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

    def __post_init__(self) -> None:
        # a task whose verifier needs no workers would never find out
        if self.workers < 1:
            raise ValueError(f"verify.workers must be >= 1, got {self.workers}")
        if self.timeout_seconds <= 0:
            raise ValueError(f"verify.timeout_seconds must be > 0, got {self.timeout_seconds}")
        if self.memory_mb < LEAST_MEMORY_MB:
            raise ValueError(f"verify.memory_mb must be >= {LEAST_MEMORY_MB}, got {self.memory_mb}")


@dataclass(slots=True, frozen=True)
class CheckpointSettings:
    """Which checkpoints stay: the newest `keep`, and the best."""

    keep: int
    keep_best: bool

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise ValueError(f"trainer.keep_checkpoints must be >= 1, got {self.keep}")


@dataclass(slots=True, frozen=True)
class TrainSettings:
    """All settings of g2rl-train that are not the arguments of an object in conf/."""

    seed: int
    plan: str
    report: bool
    """Whether the run ends with report.html."""
    profiled_steps: int
    """Steps that are traced, 0 for a run without a profile."""
    model: ModelSettings
    parallel: ParallelSettings
    trainer: TrainerSettings
    checkpoints: CheckpointSettings
    optimizer: OptimizerSettings
    advantage: GroupAdvantage
    loss: PolicyLoss
    overlong_shaping: OverlongShaping
    """What the length of a response costs."""
    health: HealthLimits
    grading: GradingSettings
    sampler_memory: SamplerMemory
    overlong: str
    """What becomes of training prompts that are too long: error, or drop."""

    def __post_init__(self) -> None:
        if self.plan not in PLANS:
            raise ValueError(f"plan must be one of {PLANS}, got {self.plan!r}")
        if not isinstance(self.report, bool):
            raise ValueError(f"report must be true or false, got {self.report!r}")

        if self.profiled_steps < 0:
            raise ValueError(
                f"profile must be true, false or the number of steps to trace, got "
                f"{self.profiled_steps}"
            )

        # what no single node can know
        self._refuse_lag()
        mini_batches, prompts = self.optimizer.mini_batches, self.trainer.prompts_per_step
        if mini_batches > prompts:
            raise ValueError(
                f"optimizer.mini_batches={mini_batches} over trainer.prompts_per_step={prompts}: a "
                "mini-batch holds whole groups, so there cannot be more of them"
            )

    def _refuse_lag(self) -> None:
        """Refuse a policy lag whose run could not be continued, or whose weights would be wrong.

        Raises:
            ValueError: named by its settings.
        """
        lag, sampling = self.trainer.lag, self.trainer.sampling
        if lag and self.parallel.shard is not None:
            raise ValueError(
                f"trainer.lag={lag} with parallel=fsdp: past weights that are divided among "
                "processes are not kept; use parallel=single, or trainer.lag=0"
            )
        is_truncated = sampling.top_p < 1 or sampling.top_k > 0
        if lag and is_truncated and self.loss.sampler_correction != "none":
            raise ValueError(
                f"trainer.lag={lag} with task.top_p={sampling.top_p:g}, task.top_k="
                f"{sampling.top_k}: importance weights compare whole distributions, and the "
                "responses are drawn from a truncated one; sample untruncated, or set "
                "algorithm.sampler_correction=none"
            )

    @property
    def total_updates(self) -> int:
        """Optimizer updates of the whole run: the length of the learning-rate schedule."""
        return self.trainer.steps * self.optimizer.mini_batches * self.optimizer.epochs


NOT_OF_THE_SIGNAL = ("observe", "feature_temperature")
"""Keys of node `exploration` that are not arguments of the signal's constructor."""
OF_COMBINATIONS = ("parts", "settings")
"""Arguments of exploration=combined that `g2rl.cli.build.signals` reads."""

_MEASURING = {
    "run": str | None,
    "checkpoint": str | int | None,
    "seed": int,
    "data_dir": str | None,
    "resume": str,
}
TOP_LEVEL: dict[str, dict[str, Any]] = {
    "train": {"seed": int, "data_dir": str | None, "resume": str, "profile": bool | int},
    "evaluate": {**_MEASURING, "samples": str | None, "part": int},
    "analyze_geometry": {
        **_MEASURING,
        "problems": int,
        "responses": int,
        "sampled_at": Sequence[float],
        "top_p": float,
        "top_k": int,
        "max_tokens": int,
        "embed": bool,
        "near_orthogonal": float,
        "score_tokens": int,
    },
    "analyze_fidelity": {
        **_MEASURING,
        "problems": int,
        "responses": int,
        "temperature": float,
        "feature_temperature": float | None,
        "top_p": float,
        "top_k": int,
        "max_tokens": int,
        "projection": int | None,
        "blocks": Sequence[str] | None,
        "embed": bool,
        "resamples": int,
    },
}
"""Types of the settings that stand in no node, by command."""


def check_command(command: str, config: DictConfig) -> None:
    """Check the types of the settings that every command has: top level, objects, model, grading.

    Args:
        command: a file of conf/ without its ending.
        config: composed, without Hydra's own node.

    Raises:
        ValueError: a setting of a wrong type, named by its key.
    """
    values = plain(config)
    for name, annotation in TOP_LEVEL[command].items():
        check_type(name, values[name], annotation)

    # nodes that become objects; a combination's arguments are made of others
    check_nodes(values, "", (*NOT_OF_THE_SIGNAL, *OF_COMBINATIONS))
    if command == "train":
        observe = values["exploration"]["observe"]
        check_type("exploration.observe", observe, Sequence[str])
    if command == "evaluate":
        _a_list(values["compare"], "compare")

    read_model_settings(config.model)
    read_grading_settings(config.verify)


def read_train_settings(config: DictConfig) -> TrainSettings:
    """Read and check the configuration of g2rl-train.

    Raises:
        ValueError: a setting that cannot be, named by its key.
    """
    advantage, loss = read_algorithm(config.algorithm)
    check_task_node(config.task)

    # the engine and the loss are of different nodes, so neither can refuse the other
    engine_class: type[Engine] = get_class(config.engine._target_)
    loss.refuse_truncated(read_sampling(config.task), engine_class.reports_logps)
    return TrainSettings(
        seed=config.seed,
        plan="off" if config.plan is False else config.plan,  # YAML reads a bare off as false
        report=config.report,
        profiled_steps=int(config.profile),  # true traces one step
        model=read_model_settings(config.model),
        parallel=read_parallel_settings(config.parallel),
        trainer=read_trainer_settings(config),
        checkpoints=read_checkpoint_settings(config.trainer),
        optimizer=read_optimizer_settings(config.optimizer),
        advantage=advantage,
        loss=loss,
        overlong_shaping=read_overlong_shaping(config),
        health=_record(HealthLimits, config.health, "health"),
        grading=read_grading_settings(config.verify),
        sampler_memory=read_sampler_memory(config.engine),
        overlong=config.task.overlong,
    )


def read_model_settings(node: DictConfig) -> ModelSettings:
    """Node `model`. Its `lr` and `micro_batch_tokens` are defaults of node `optimizer`."""
    values = plain(node)

    # settings that become objects
    lora = values["lora"]
    values["lora"] = None
    if lora["r"] is not None:
        values["lora"] = _record(LoraSettings, lora, "model.lora")
    if values["stop_tokens"] is not None:
        values["stop_tokens"] = tuple(_a_list(values["stop_tokens"], "model.stop_tokens"))
    for name in ("adapter", "checkpoint"):
        if values.get(name) is not None:
            values[name] = Path(values[name]).expanduser()

    return _record(ModelSettings, _fields_among(ModelSettings, values), "model")


def read_parallel_settings(node: DictConfig) -> ParallelSettings:
    """Node `parallel`, which has no further settings in one process."""
    if not node.shard:
        return ParallelSettings()
    shard = _record(ShardSettings, _fields_among(ShardSettings, node), "parallel")
    return ParallelSettings(shard, node.timeout_minutes)


def read_grading_settings(node: DictConfig) -> GradingSettings:
    """Node `verify`."""
    return _record(GradingSettings, node, "verify")


def read_optimizer_settings(node: DictConfig) -> OptimizerSettings:
    """Node `optimizer`."""
    values = plain(node)
    values["betas"] = tuple(_a_list(values["betas"], "optimizer.betas"))
    if len(values["betas"]) != 2:
        raise ValueError(f"optimizer.betas must be two numbers, got {values['betas']}")
    return _record(OptimizerSettings, values, "optimizer")


def read_trainer_settings(config: DictConfig) -> TrainerSettings:
    """Node `trainer`, with what the loop needs of the nodes `task` and `exploration`."""
    values = _fields_among(TrainerSettings, config.trainer)

    # settings that the user finds in other nodes
    values["sampling"] = read_sampling(config.task)
    values["max_prompt_tokens"] = config.task.max_prompt_tokens
    values["feature_temperature"] = config.exploration.feature_temperature
    values["sampling_rounds"] = config.algorithm.sampling_rounds
    values["seed"] = config.seed
    full_keys = {
        "max_prompt_tokens": "task.max_prompt_tokens",
        "feature_temperature": "exploration.feature_temperature",
        "sampling_rounds": "algorithm.sampling_rounds",
        "seed": "seed",
    }
    return _record(TrainerSettings, values, "trainer", full_keys)


def read_checkpoint_settings(node: DictConfig) -> CheckpointSettings:
    """Those settings of node `trainer` that the loop does not need."""
    values = {"keep": node.keep_checkpoints, "keep_best": node.keep_best}
    return _record(CheckpointSettings, values, "trainer", {"keep": "trainer.keep_checkpoints"})


def check_task_node(node: DictConfig) -> None:
    """Refuse a task file of the user's own that leaves out a setting which every task has.

    Raises:
        ValueError: naming the file, and the lines to add; or fewer than no problems are held out.
    """
    # as a whole number, so that a negative one would not quietly hold out nothing
    held_out = OmegaConf.select(node, "source.held_out", throw_on_missing=False)
    if isinstance(held_out, int) and held_out < 0:
        raise ValueError(f"task.source.held_out must be >= 0, got {held_out}")

    lines = [f"{key}: {value}" for key, value in TASK_LINES.items() if key not in node]
    if not lines:
        return

    # the first folder wins, as in Hydra
    name, place = "", "the file of the task"
    if HydraConfig.initialized():
        name = str(HydraConfig.get().runtime.choices.get("task"))
    for folder in own_folders():
        path = folder / "task" / f"{name}.yaml"
        if path.is_file():
            place = str(path)
            break
    raise ValueError(
        f"{place} lacks settings that every task has; add the lines {', '.join(lines)} "
        "(docs/tasks.md shows a whole file)"
    )


def read_sampling(node: DictConfig) -> SamplingParams:
    """Node `task`: how training responses are drawn."""
    values = {
        "temperature": node.temperature,
        "top_p": node.top_p,
        "top_k": node.top_k,
        "max_tokens": node.max_response_tokens,
    }
    full_keys = {name: f"task.{name}" for name in values}
    full_keys["max_tokens"] = "task.max_response_tokens"
    return _record(SamplingParams, values, "task", full_keys)


def read_algorithm(node: Mapping[str, Any]) -> tuple[GroupAdvantage, PolicyLoss]:
    """Node `algorithm`: one flat list of settings for advantage and loss."""
    values = {
        "scale": node["advantage_scale"],
        "eps": node["advantage_eps"],
        "uniform_groups": node["uniform_groups"],
        "floor": node["uniform_floor"],
    }
    full_keys = {
        "scale": "algorithm.advantage_scale",
        "eps": "algorithm.advantage_eps",
        "floor": "algorithm.uniform_floor",
    }
    advantage = _record(GroupAdvantage, values, "algorithm", full_keys)
    loss = _record(PolicyLoss, _fields_among(PolicyLoss, node), "algorithm")
    return advantage, loss


def read_overlong_shaping(config: DictConfig) -> OverlongShaping:
    """The settings of node `algorithm` about long responses, with the limit of node `task`."""
    values = {
        "buffer": config.algorithm.overlong_buffer,
        "penalty": config.algorithm.overlong_penalty,
        "max_tokens": config.task.max_response_tokens,
    }
    full_keys = {
        "buffer": "algorithm.overlong_buffer",
        "penalty": "algorithm.overlong_penalty",
        "max_tokens": "task.max_response_tokens",
    }
    return _record(OverlongShaping, values, "algorithm", full_keys)


def read_sampler_memory(node: DictConfig) -> SamplerMemory:
    """Node `engine`: what its engine class says of the memory of sampling."""
    engine_class: type[Engine] = get_class(node._target_)
    return engine_class.sampler_memory(plain(node))


# --- from the values of a node to a record


def plain(node: DictConfig) -> dict[str, Any]:
    """A configuration as plain dictionaries and lists, with every ${...} resolved."""
    return OmegaConf.to_container(node, resolve=True)  # type: ignore[return-value]


def _record(
    kind: type[Record],
    values: Mapping[str, Any],
    node: str,
    full_keys: Mapping[str, str] | None = None,
) -> Record:
    """Make a record of a node's values once their types are checked.

    Args:
        kind: the dataclass to make.
        values: by the name of the field.
        node: where the settings stand, for error messages: ``trainer``.
        full_keys: keys of those fields that stand elsewhere, or under another name.

    Raises:
        ValueError: a value without a field, of a wrong type, or refused by the record.
    """
    # every value has a field of its type
    full_keys = full_keys or {}
    types_of_fields = get_type_hints(kind)
    for name, value in values.items():
        key = full_keys.get(name, f"{node}.{name}")
        if name not in types_of_fields:
            fields = ", ".join(types_of_fields)
            raise ValueError(f"{key}: there is no such setting; {node} has {fields}")
        check_type(key, value, types_of_fields[name])

    # the record checks what else must hold
    try:
        return kind(**values)
    except ValueError as error:
        # a record that serves other commands too names its field, not the key
        field_name, _, problem = str(error).partition(" ")
        if field_name not in full_keys:
            raise
        raise ValueError(f"{full_keys[field_name]} {problem}") from None


def _fields_among(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a node's values that are fields of a dataclass; others are read elsewhere."""
    names = [one.name for one in dataclasses.fields(kind)]
    return {name: values[name] for name in names if name in values}


def _a_list(value: Any, key: str) -> Sequence[Any]:
    """A setting that must be a list: a single word would be taken for a list of its letters."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ValueError(f"{key} must be a list, typed as {key}=[A,B], got {value!r}")
    return value
