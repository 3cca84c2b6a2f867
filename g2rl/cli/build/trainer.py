"""Turn a composed configuration into the parts of a run. Plain typed arguments from here on
down."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from g2rl.cli.build.benchmarks import build_benchmarks
from g2rl.cli.build.memory import plan_memory
from g2rl.cli.build.model import (
    check_context,
    frozen_copy,
    load_model,
    lora_settings,
    shard_policies,
)
from g2rl.cli.config.choices import choices, config_dir
from g2rl.engines.engine import Engine
from g2rl.exploration.signal import Signal, all_needs
from g2rl.formulas.advantages import GroupAdvantage
from g2rl.formulas.losses import PolicyLoss
from g2rl.policy.loading import LoadedModel
from g2rl.policy.policy import Policy
from g2rl.policy.prompts import encode_prompt
from g2rl.runs.checkpoints import Checkpoints
from g2rl.runs.tracking import SilentTracker, Tracker
from g2rl.tasks.benchmarks.benchmark import Benchmark
from g2rl.tasks.grading.grader import Graders
from g2rl.tasks.task import Task, fit_prompts, refuse_leaks
from g2rl.training.alarms import HealthLimits
from g2rl.training.console import Reporter
from g2rl.training.optimizer import OptimizerSettings
from g2rl.training.settings import TrainerSettings
from g2rl.training.stages import Explorer, Sampler, Scorer
from g2rl.training.step import TrainingStep
from g2rl.training.trainer import Trainer
from g2rl.training.updater import Updater
from g2rl.training.validation import HeldOut, Validation
from g2rl.types import Problem, SamplingParams, Tokenizer
from g2rl.world import World

log = logging.getLogger(__name__)
ALONE = World()
SIGNAL_EXTRAS = ("observe", "feature_temperature")


@dataclass(slots=True, frozen=True)
class TrainingJob:
    """A run that is put together, and what its command needs besides the trainer."""

    trainer: Trainer
    policy: Policy
    loaded: LoadedModel
    engine: Engine
    task: Task
    signal: Signal
    benchmarks: list[Benchmark]
    graders: Graders
    tracker: Tracker
    checkpoints: Checkpoints


def build_signal(node: DictConfig) -> Signal:
    """The training signal, without the keys of the node that are not the signal's own."""
    return instantiate({key: node[key] for key in node if key not in SIGNAL_EXTRAS})


def build_observers(names: list[str]) -> list[Signal]:
    """One signal per name, with the settings of its file in conf/exploration."""
    found = []
    for name in names:
        if name not in choices("exploration"):
            raise ValueError(
                f"exploration.observe: no signal {name!r}; choose from {choices('exploration')}"
            )
        found.append(instantiate(OmegaConf.load(config_dir() / "exploration" / f"{name}.yaml")))
    return found


def build_signals(config: DictConfig, group_size: int) -> list[Signal]:
    """The training signal and the observers, in this order."""
    signals = [build_signal(config.exploration), *build_observers(list(config.exploration.observe))]
    check_groups(signals, group_size)
    return signals


def build_algorithm(node: Mapping[str, Any]) -> tuple[GroupAdvantage, PolicyLoss]:
    """Advantage and loss from the flat algorithm settings."""
    advantage = GroupAdvantage(
        scale=node["advantage_scale"],
        eps=node["advantage_eps"],
        uniform_groups=node["uniform_groups"],
        floor=node["uniform_floor"],
    )
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


def build_trainer(
    config: DictConfig,
    run_dir: Path,
    reporter: Reporter,
    stop: Callable[[], int | None],
    world: World = ALONE,
) -> TrainingJob:
    """Check everything that needs no weights first, then load the model and assemble the
    trainer."""
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
    graders = Graders(**config.verify)
    encoder = instantiate(config.encoder) if "embeddings" in needs else None
    torch.manual_seed(config.seed)  # random_init must give a resumed run the same reference policy
    known = plan_memory(
        config, settings, lora_settings(config.model), benchmarks, "features" in needs
    )
    loaded = load_model(config.model, known)
    check_context(loaded.model.config, settings.max_prompt_tokens + settings.sampling.max_tokens)
    check_prompts(config, settings, task, benchmarks, loaded.tokenizer)
    policy = Policy(loaded.model, config.model.tile_mb << 20, config.model.compute_dtype)
    policy.check_head()
    reference = frozen_copy(policy) if loss.kl_coef else None
    shard_policies(config.parallel, world, policy, reference)
    updater = Updater(
        policy,
        loss,
        optimizer,
        temperature=settings.sampling.temperature,
        max_tokens=settings.sampling.max_tokens,
        seed=config.seed,
        total_updates=settings.steps * optimizer.mini_batches * optimizer.epochs,
        world=world,
    )
    engine = instantiate(
        config.engine, policy=policy, tokenizer=loaded.tokenizer, stop_ids=loaded.stop_ids
    )
    tracker = SilentTracker(run_dir)
    if world.first:
        tracker = Tracker(run_dir, instantiate(config.tracking))
    checkpoints = Checkpoints(
        run_dir / "checkpoints", config.trainer.keep_checkpoints, config.trainer.keep_best, world
    )
    explorer = Explorer(signal, observers, encoder, world)
    step = TrainingStep(
        sampler=Sampler(
            task,
            engine,
            loaded.tokenizer,
            chat=config.model.chat,
            settings=settings,
            reporter=reporter,
            world=world,
        ),
        grader=graders(task.verifier),
        scorer=Scorer(
            policy,
            reference,
            updater,
            explorer.needs,
            settings=settings,
            reporter=reporter,
            world=world,
        ),
        explorer=explorer,
        advantage=advantage,
        updater=updater,
        engine=engine,
        tracker=tracker,
        settings=settings,
        world=world,
    )
    validation = Validation(
        [HeldOut(benchmark, graders(benchmark.verifier)) for benchmark in benchmarks],
        policy=policy,
        engine=engine,
        tokenizer=loaded.tokenizer,
        chat=config.model.chat,
        tracker=tracker,
        reporter=reporter,
        settings=settings,
        world=world,
    )
    trainer = Trainer(
        step,
        validation,
        tracker=tracker,
        checkpoints=checkpoints,
        reporter=reporter,
        settings=settings,
        health=health,
        asked_to_stop=stop,
    )
    return TrainingJob(
        trainer=trainer,
        policy=policy,
        loaded=loaded,
        engine=engine,
        task=task,
        signal=signal,
        benchmarks=benchmarks,
        graders=graders,
        tracker=tracker,
        checkpoints=checkpoints,
    )


def check_prompts(
    config: DictConfig,
    settings: TrainerSettings,
    task: Task,
    benchmarks: list[Benchmark],
    tokenizer: Tokenizer,
) -> None:
    """Encode every prompt that the run can meet, as far as they can be listed, before the first
    rollout."""
    chat = config.model.chat
    for benchmark in benchmarks:
        for problem in benchmark.problems:
            encode_prompt(tokenizer, problem.prompt, chat)

    def length(problem: Problem) -> int:
        return len(encode_prompt(tokenizer, problem.prompt, chat))

    dropped = fit_prompts(task, length, settings.max_prompt_tokens, config.task.overlong)
    if dropped:
        log.warning(
            "task %s: %d prompts over %d tokens left out",
            task.name,
            dropped,
            settings.max_prompt_tokens,
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
