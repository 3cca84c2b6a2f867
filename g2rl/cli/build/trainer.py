"""Turn a composed configuration into the parts of a run. Plain typed arguments from here on down."""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from g2rl.cli.build.memory import plan_memory
from g2rl.cli.config.launch import choices, config_dir
from g2rl.exploration.signal import Signal, all_needs
from g2rl.formulas.advantages import GroupAdvantage
from g2rl.formulas.losses import PolicyLoss
from g2rl.policy.loading import (
    LoadedModel,
    encode_prompt,
    load,
    pick_device,
    resolve_source,
    set_checkpointing,
)
from g2rl.policy.lora import LoraSettings, add_lora, has_lora, load_adapter
from g2rl.policy.policy import Policy
from g2rl.policy.reference import BaseOf
from g2rl.policy.sharding import ShardSettings
from g2rl.runs.checkpoints import Checkpoints
from g2rl.runs.tracking import SilentTracker, Tracker
from g2rl.tasks.benchmarks.benchmark import Benchmark
from g2rl.tasks.grading.grader import Grader
from g2rl.tasks.grading.verifier import Verifier
from g2rl.tasks.task import Task, fit_prompts, refuse_leaks
from g2rl.training.alarms import HealthLimits
from g2rl.training.optimizer import OptimizerSettings
from g2rl.training.parts import Parts, Reporter
from g2rl.training.settings import TrainerSettings
from g2rl.training.trainer import Trainer
from g2rl.training.updater import Updater
from g2rl.types import Problem, SamplingParams
from g2rl.world import World, environment_size

log = logging.getLogger(__name__)
ALONE = World()
SIGNAL_EXTRAS = ("observe", "feature_temperature")


def build_signal(node: DictConfig) -> Signal:
    """The training signal, without the keys of the node that are not the signal's own."""
    return instantiate({key: node[key] for key in node if key not in SIGNAL_EXTRAS})


def build_observers(names: list[str]) -> list[Signal]:
    """One signal per name, with the settings of its file in conf/exploration."""
    found = []
    for name in names:
        if name not in choices("exploration"):
            raise ValueError(f"exploration.observe: no signal {name!r}; choose from {choices('exploration')}")
        found.append(instantiate(OmegaConf.load(config_dir() / "exploration" / f"{name}.yaml")))
    return found


def build_signals(config: DictConfig, group_size: int) -> list[Signal]:
    """The training signal and the observers, in this order."""
    signals = [build_signal(config.exploration), *build_observers(list(config.exploration.observe))]
    check_groups(signals, group_size)
    return signals


def build_benchmarks(node: DictConfig) -> list[Benchmark]:
    """The one benchmark of a node, or those of a suite, whose settings that are not null hold for all."""
    if "_target_" in node:
        return [instantiate(node)]
    common = {str(key): value for key, value in node.items() if key != "suite" and value is not None}
    found: list[Benchmark] = []
    for name, member in node.suite.items():
        unknown = [key for key in common if key not in member]
        if unknown:
            raise ValueError(
                f"benchmark.{unknown[0]}: {name!s} has no such setting; it has {', '.join(member)}"
            )
        found.append(instantiate(member, **common))
    if not found:
        raise ValueError("benchmark.suite is empty: choose benchmarks, e.g. benchmark=math")
    if len({benchmark.name for benchmark in found}) < len(found):
        raise ValueError(f"two benchmarks of the suite share a name: {[b.name for b in found]}")
    return found


def build_algorithm(node: Mapping[str, Any]) -> tuple[GroupAdvantage, PolicyLoss]:
    """Advantage and loss from the flat algorithm settings."""
    advantage = GroupAdvantage(
        scale=node["advantage_scale"], eps=node["advantage_eps"],
        uniform_groups=node["uniform_groups"], floor=node["uniform_floor"],
    )  # fmt: skip
    names = [field.name for field in dataclasses.fields(PolicyLoss)]
    return advantage, PolicyLoss(**{name: node[name] for name in names})


def build_settings(config: DictConfig) -> TrainerSettings:
    """Loop settings, checked."""
    task, trainer = config.task, config.trainer
    own = {f.name for f in dataclasses.fields(TrainerSettings)} & set(trainer)
    return TrainerSettings(
        sampling=SamplingParams(task.temperature, task.top_p, task.top_k, task.max_response_tokens),
        max_prompt_tokens=task.max_prompt_tokens,
        feature_temperature=config.exploration.feature_temperature,
        seed=config.seed,
        **{name: trainer[name] for name in own},
    )


def lora_settings(node: DictConfig) -> LoraSettings | None:
    """The settings of `model.lora`; None without a rank."""
    return None if node.lora.r is None else LoraSettings(**node.lora)


def load_model(node: DictConfig, known: Any = None) -> LoadedModel:
    """The model with what `model.adapter` merges into it and the adapters that `model.lora` adds.

    `known` is its configuration, where that has been read already.
    """
    lora = lora_settings(node)
    if lora is not None and lora.export == "adapter" and (node.adapter is not None or node.random_init):
        raise ValueError(
            "model.lora.export=adapter needs a base that can be found again, without model.adapter and "
            "model.random_init; use model.lora.export=merged"
        )
    loaded = load(
        node.source, dtype=node.dtype, device=node.device, gguf_file=node.gguf_file, revision=node.revision,
        attention=node.attention, stop_tokens=None if node.stop_tokens is None else list(node.stop_tokens),
        gradient_checkpointing=node.gradient_checkpointing,
        overrides=OmegaConf.to_container(node.overrides),  # type: ignore[arg-type]
        random_init=node.random_init, config=known,
    )  # fmt: skip
    if node.adapter is not None:
        load_adapter(loaded.model, Path(node.adapter).expanduser())
    if lora is not None:
        add_lora(loaded.model, lora, resolve_source(node.source), node.revision)
    return loaded


class Graders:
    """One pool of workers for each kind of verifier in use."""

    def __init__(self, node: DictConfig) -> None:
        self.options = {
            "workers": node.workers,
            "timeout_seconds": node.timeout_seconds,
            "memory_mb": node.memory_mb,
        }
        self.made: dict[type, Grader] = {}

    def __call__(self, verifier: Verifier) -> Grader:
        if type(verifier) not in self.made:
            self.made[type(verifier)] = Grader(verifier, **self.options)
        return self.made[type(verifier)]

    def close(self) -> None:
        for grader in self.made.values():
            grader.close()


def build_trainer(
    config: DictConfig, run_dir: Path, reporter: Reporter, stop: Callable[[], int | None],
    world: World = ALONE,
) -> tuple[Trainer, LoadedModel, Graders]:  # fmt: skip
    """Check everything that needs no weights first, then load the model and assemble the trainer."""
    settings = build_settings(config)
    advantage, loss = build_algorithm(config.algorithm)
    optimizer = OptimizerSettings(**{**config.optimizer, "betas": tuple(config.optimizer.betas)})
    signal, *observers = build_signals(config, settings.group_size)
    needs = all_needs([signal, *observers], encoder=config.get("encoder") is not None)
    health = HealthLimits(**config.health)
    check_mini_batches(optimizer.mini_batches, settings.prompts_per_step)
    task: Task = instantiate(config.task.source)
    benchmarks = build_benchmarks(config.benchmark)
    for benchmark in benchmarks:
        refuse_leaks(task, benchmark.problems, benchmark.name)
    graders = Graders(config.verify)
    encoder = instantiate(config.encoder) if "embeddings" in needs else None
    torch.manual_seed(config.seed)  # random_init must give a resumed run the same reference policy
    known = plan_memory(config, settings, lora_settings(config.model), benchmarks, "features" in needs)
    loaded = load_model(config.model, known)
    check_context(loaded.model.config, settings.max_prompt_tokens + settings.sampling.max_tokens)
    check_prompts(config, settings, task, benchmarks, loaded.tokenizer)
    policy = Policy(loaded.model, config.model.tile_mb << 20, config.model.compute_dtype)
    policy.check_head()
    reference = frozen_copy(policy) if loss.kl_coef else None
    shard_policies(config.parallel, world, policy, reference)
    updater = Updater(
        policy, loss, optimizer, temperature=settings.sampling.temperature,
        max_tokens=settings.sampling.max_tokens, seed=config.seed,
        total_updates=settings.steps * optimizer.mini_batches * optimizer.epochs, world=world,
    )  # fmt: skip
    engine = instantiate(config.engine, policy=policy, tokenizer=loaded.tokenizer, stop_ids=loaded.stop_ids)
    parts = Parts(
        policy=policy, reference=reference, tokenizer=loaded.tokenizer, chat=config.model.chat,
        engine=engine, task=task, grader=graders(task.verifier), signal=signal, observers=observers,
        encoder=encoder, advantage=advantage, updater=updater,
        benchmarks=[(benchmark, graders(benchmark.verifier)) for benchmark in benchmarks],
        tracker=Tracker(run_dir, instantiate(config.tracking)) if world.first else SilentTracker(run_dir),
        checkpoints=Checkpoints(
            run_dir / "checkpoints", config.trainer.keep_checkpoints, config.trainer.keep_best, world
        ),
        reporter=reporter, health=health, world=world, stop=stop,
    )  # fmt: skip
    return Trainer(parts, settings), loaded, graders


def check_prompts(
    config: DictConfig, settings: TrainerSettings, task: Task, benchmarks: list[Benchmark], tokenizer: Any
) -> None:
    """Encode every prompt that the run can meet, as far as they can be listed, before the first rollout."""
    chat = config.model.chat
    for benchmark in benchmarks:
        for problem in benchmark.problems:
            encode_prompt(tokenizer, problem.prompt, chat)

    def length(problem: Problem) -> int:
        return len(encode_prompt(tokenizer, problem.prompt, chat))

    dropped = fit_prompts(task, length, settings.max_prompt_tokens, config.task.overlong)
    if dropped:
        log.warning(
            "task %s: %d prompts over %d tokens left out", task.name, dropped, settings.max_prompt_tokens
        )


def check_mini_batches(mini_batches: int, prompts: int) -> None:
    """A mini-batch holds whole groups."""
    if mini_batches > prompts:
        raise ValueError(
            f"optimizer.mini_batches={mini_batches} over trainer.prompts_per_step={prompts}: a mini-batch "
            "holds whole groups, so there cannot be more of them"
        )


def check_groups(signals: list[Signal], group_size: int) -> None:
    """Signals that compare responses get at least two of them."""
    for signal in signals:
        if group_size == 1 and signal.needs:
            raise ValueError(
                f"trainer.group_size=1 with signal {signal.name}: it compares responses of a group; "
                "use a group size of at least 2"
            )


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
        ValueError: started by torchrun with parallel=single, where every process would train alone, or as
            a sweep, whose arms one process starts.
    """
    if environment_size() > 1 and HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        raise ValueError("--multirun under torchrun: start one run of several processes after the other")
    if config.parallel.shard:
        return World.join(pick_device(config.model.device), config.parallel.timeout_minutes)
    if environment_size() > 1:
        raise ValueError(
            f"WORLD_SIZE={environment_size()} with parallel=single: choose parallel=fsdp for a run of "
            "several processes"
        )
    return World()


def shard_policies(node: DictConfig, world: World, policy: Policy, reference: Policy | None) -> None:
    """Divide the weights of both among the ranks; nothing without parallel.shard."""
    if world.mesh is None:
        return
    names = {field.name for field in dataclasses.fields(ShardSettings)}
    settings = ShardSettings(**{name: node[name] for name in names})
    policy.shard(world.mesh, settings, settings.offload_optimizer)
    if reference is not None and not isinstance(reference, BaseOf):
        reference.shard(world.mesh, settings, settings.offload_reference)


def frozen_copy(policy: Policy) -> Policy:
    """The reference policy: a copy that never changes, or under LoRA the frozen base itself."""
    if has_lora(policy.model):
        return BaseOf(policy)
    reference = copy.deepcopy(policy).requires_grad_(False).eval()
    set_checkpointing(reference.model, False)
    return reference
