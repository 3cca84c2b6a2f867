"""Put a training run together: problems, policy, learner, then the loop around them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from g2rl.cli.build.arguments import build
from g2rl.cli.build.benchmarks import build_benchmarks, build_graders
from g2rl.cli.build.memory import plan_memory
from g2rl.cli.build.model import (
    build_engine,
    build_policy,
    check_benchmark_prompts,
    check_context,
    frozen_copy,
    load_model,
    shard_policies,
)
from g2rl.cli.build.settings import TrainSettings
from g2rl.cli.build.signals import build_signals
from g2rl.engines.engine import Engine
from g2rl.exploration.encoders.encoder import Encoder
from g2rl.exploration.partitions import Partitioner
from g2rl.exploration.signal import Signal, all_needs
from g2rl.policy.loading import LoadedModel
from g2rl.policy.policy import Policy, Scorable
from g2rl.policy.prompts import encode_prompt
from g2rl.runs.checkpoints import Checkpoints
from g2rl.runs.layout import RunFolder
from g2rl.runs.tracking import SilentTracker, Tracker
from g2rl.tasks.benchmarks.benchmark import Benchmark
from g2rl.tasks.grading.grader import Graders
from g2rl.tasks.grading.verifier import key_of
from g2rl.tasks.task import Rehearsed, Task, check_task, fit_prompts, refuse_leaks
from g2rl.training.console import Reporter
from g2rl.training.host_memory import keep_freed_memory
from g2rl.training.optimizer import refuse_stuck_weights
from g2rl.training.policy_lag import LaggedSampler, PastWeights
from g2rl.training.profiling import RunProfiler
from g2rl.training.stages import Explorer, Sampler, Scorer
from g2rl.training.step import TrainingStep
from g2rl.training.trainer import Trainer
from g2rl.training.updater import Updater
from g2rl.training.validation import HeldOut, Validation
from g2rl.training.work import CountedEngine, ModelSize
from g2rl.types import Problem
from g2rl.world import World

log = logging.getLogger(__name__)
ALONE = World()


@dataclass(slots=True, frozen=True)
class Problems:
    """What is asked, and who judges it."""

    task: Task
    benchmarks: list[Benchmark]
    graders: Graders


@dataclass(slots=True, frozen=True)
class Exploration:
    """The signal, those that observe, and encoder and partitioner if one of them needs them."""

    signal: Signal
    observers: list[Signal]
    encoder: Encoder | None
    partitioner: Partitioner | None
    needs: frozenset[str]


@dataclass(slots=True, frozen=True)
class Models:
    """The policy, what it was loaded from, the reference and the engine."""

    loaded: LoadedModel
    policy: Policy
    reference: Scorable | None
    """Frozen copy of the initial policy; None when neither the KL term nor a signal needs it."""
    engine: Engine


@dataclass(slots=True, frozen=True)
class TrainingJob:
    """A run that is put together: the trainer, and what its command needs besides."""

    trainer: Trainer
    problems: Problems
    signal: Signal
    encoder: Encoder | None
    models: Models
    tracker: Tracker
    checkpoints: Checkpoints
    profiler: RunProfiler | None = None


def build_training(
    config: DictConfig,
    settings: TrainSettings,
    run_dir: Path,
    reporter: Reporter,
    asked_to_stop: Callable[[], int | None],
    world: World = ALONE,
) -> TrainingJob:
    """Check everything that needs no weights, then load the model and put the run together.

    Args:
        config: composed; nodes with a `_target_` are instantiated.
        settings: what `read_train_settings` makes of it.
        run_dir: the run's folder.
        reporter: tells the user.
        asked_to_stop: see `Trainer`.
        world: the processes of the run.
    """
    # everything that can be refused without weights
    exploration = build_exploration(config, settings)
    problems = build_problems(config, settings)
    needs = exploration.needs
    model_config = plan_memory(
        settings,
        problems.benchmarks,
        "features" in needs,
        "reference_hidden" in needs,
        exploration.encoder,
    )

    # weights; the seed gives a resumed run of model.random_init the same reference policy
    loaded = load_model(settings.model, model_config, settings.seed)
    check_lengths(settings, problems, loaded)
    models = build_models(config, settings, loaded, world, "reference_hidden" in needs)
    models, profiler = build_profiler(settings, models, run_dir, world)

    return assemble(
        settings,
        problems,
        exploration,
        models,
        tracker=build_tracker(config, run_dir, world),
        checkpoints=Checkpoints(
            RunFolder(run_dir).checkpoints,
            settings.checkpoints.keep,
            settings.checkpoints.keep_best,
            world,
        ),
        reporter=reporter,
        asked_to_stop=asked_to_stop,
        world=world,
        profiler=profiler,
    )


def build_exploration(config: DictConfig, settings: TrainSettings) -> Exploration:
    """The signal, its observers, and the encoder and partitioner that they need."""
    # what shapes the reward, and what only looks on
    group_size = settings.trainer.group_size
    signal, observers = build_signals(config.exploration, group_size, settings.advantage)

    # how responses are told apart, and all that has to be computed for it
    partitioner: Partitioner | None = None
    if config.get("partition") is not None:
        partitioner = build(config.partition, "partition")
    needs = all_needs(
        [signal, *observers],
        encoder=config.get("encoder") is not None,
        partition_needs=None if partitioner is None else partitioner.needs,
    )

    # an encoder is a model of its own, so it is loaded only where it is used
    encoder = build(config.encoder, "encoder") if "embeddings" in needs else None
    return Exploration(signal, observers, encoder, partitioner, needs)


def build_problems(config: DictConfig, settings: TrainSettings) -> Problems:
    """The training task, the held-out benchmarks and the graders.

    Raises:
        ValueError: a held-out problem is among those of the task, or the task's rehearsal fails.
    """
    task: Task = build(config.task.source, "task.source")
    check_task(task)

    # no held-out problem may be trained on
    benchmarks = build_benchmarks(config.benchmark)
    can_hold_out = "held_out" in config.task.source
    can_name_rows = "source" in config.benchmark
    for benchmark in benchmarks:
        refuse_leaks(task, benchmark.problems, benchmark.name, can_hold_out, can_name_rows)

    # data and functions of the user's own are tried before anything is loaded
    graders = build_graders(settings.grading)
    if isinstance(task, Rehearsed):
        grader = graders(task.verifier)
        try:
            task.rehearse(grader)
        except BaseException:
            graders.close()
            raise
        grader.metrics()  # what was tried counts in no evaluation
    return Problems(task, benchmarks, graders)


def build_models(
    config: DictConfig,
    settings: TrainSettings,
    loaded: LoadedModel,
    world: World,
    signal_needs_reference: bool = False,
) -> Models:
    """The policy, its frozen copy and the engine, divided among the ranks.

    The copy is there for the KL term and for signals that look at it.
    """
    # the policy, and a learning rate that can move its weights
    policy = build_policy(loaded, settings.model)
    refuse_stuck_weights(policy, settings.optimizer.lr)
    if policy.device.type == "cpu":
        keep_freed_memory()

    # a copy of the start, where something looks at it
    reference = None
    if settings.loss.kl_coef or signal_needs_reference:
        reference = frozen_copy(policy)

    # the engine comes last: it samples with the divided weights
    shard_policies(settings.parallel, world, policy, reference)
    return Models(loaded, policy, reference, build_engine(config.engine, policy, loaded))


def build_profiler(
    settings: TrainSettings, models: Models, run_dir: Path, world: World
) -> tuple[Models, RunProfiler | None]:
    """Watch policy, reference and engine where a profile is asked for, on the first rank.

    Returns:
        The models, with an engine that is counted, and the profiler; None without one.
    """
    if not settings.profiled_steps or not world.first:
        return models, None

    # one profiler for all stages
    policy = models.policy
    profiler = RunProfiler(settings.profiled_steps, RunFolder(run_dir).trace, policy.device)

    # a reference with its adapters off is the policy itself
    profiler.meter.watch_policy(policy)
    if isinstance(models.reference, Policy):
        profiler.meter.watch_policy(models.reference)

    # sampling counts its own operations
    engine = CountedEngine(models.engine, profiler.meter, ModelSize.of(policy.model))
    return replace(models, engine=engine), profiler


def build_tracker(config: DictConfig, run_dir: Path, world: World) -> Tracker:
    """What writes the run's files; only the first rank writes."""
    # the others keep silent, in the same places
    if world.first:
        return Tracker(run_dir, instantiate(config.tracking))
    return SilentTracker(run_dir)


def assemble(
    settings: TrainSettings,
    problems: Problems,
    exploration: Exploration,
    models: Models,
    *,
    tracker: Tracker,
    checkpoints: Checkpoints,
    reporter: Reporter,
    asked_to_stop: Callable[[], int | None],
    world: World,
    profiler: RunProfiler | None = None,
) -> TrainingJob:
    """Put the loop around what has been built."""
    # the stages of a step, which a profiler follows
    on_lap = None if profiler is None else profiler.lap
    step = assemble_step(settings, problems, exploration, models, tracker, reporter, world, on_lap)

    # evaluations before, during and after training
    held_out: list[HeldOut] = []
    for benchmark in problems.benchmarks:
        held_out.append(HeldOut(benchmark, problems.graders(benchmark.verifier)))
    validation = Validation(
        held_out,
        policy=models.policy,
        engine=models.engine,
        tokenizer=models.loaded.tokenizer,
        chat=settings.model.chat,
        tracker=tracker,
        reporter=reporter,
        settings=settings.trainer,
        world=world,
        on_lap=on_lap,
    )

    # and the run around both
    trainer = Trainer(
        step,
        validation,
        tracker=tracker,
        checkpoints=checkpoints,
        reporter=reporter,
        settings=settings.trainer,
        health=settings.health,
        profiler=profiler,
        asked_to_stop=asked_to_stop,
    )
    signal, encoder = exploration.signal, exploration.encoder
    return TrainingJob(trainer, problems, signal, encoder, models, tracker, checkpoints, profiler)


def assemble_step(
    settings: TrainSettings,
    problems: Problems,
    exploration: Exploration,
    models: Models,
    tracker: Tracker,
    reporter: Reporter,
    world: World,
    on_lap: Callable[[str], None] | None = None,
) -> TrainingStep:
    """One training step out of its stages."""
    # the scorer needs to know which responses the updater scores itself
    updater = Updater(
        models.policy,
        settings.loss,
        settings.optimizer,
        temperature=settings.trainer.sampling.temperature,
        max_tokens=settings.trainer.sampling.max_tokens,
        seed=settings.seed,
        total_updates=settings.total_updates,
        world=world,
    )

    # the stages before the update
    explorer = Explorer(
        exploration.signal,
        exploration.observers,
        exploration.encoder,
        world,
        advantage=settings.advantage,
        partitioner=exploration.partitioner,
        answer_key=partial(key_of, problems.task.verifier),
    )
    sampler = build_sampler(settings, problems.task, models, reporter, world)
    scorer = Scorer(
        models.policy,
        models.reference,
        updater,
        explorer.needs,
        observer_needs=explorer.observer_needs,
        settings=settings.trainer,
        reporter=reporter,
        world=world,
    )

    # in the order of docs/tour.md
    return TrainingStep(
        sampler=sampler,
        grader=problems.graders(problems.task.verifier),
        scorer=scorer,
        explorer=explorer,
        advantage=settings.advantage,
        overlong=settings.overlong_shaping,
        updater=updater,
        engine=models.engine,
        tracker=tracker,
        settings=settings.trainer,
        world=world,
        on_lap=on_lap,
    )


def build_sampler(
    settings: TrainSettings, task: Task, models: Models, reporter: Reporter, world: World
) -> Sampler:
    """What draws the responses of a step, with the present weights or with past ones."""
    # stale responses come from weights that are kept aside
    sampler_class: Callable[..., Sampler] = Sampler
    if settings.trainer.lag:
        past = PastWeights(models.policy, models.engine, settings.trainer.lag)
        sampler_class = partial(LaggedSampler, past)
    return sampler_class(
        task,
        models.engine,
        models.loaded.tokenizer,
        chat=settings.model.chat,
        settings=settings.trainer,
        reporter=reporter,
        world=world,
    )


def check_lengths(settings: TrainSettings, problems: Problems, loaded: LoadedModel) -> None:
    """Refuse prompts and responses that do not fit the model, before the first rollout.

    Every prompt that the run can meet is encoded, as far as they can be listed.

    Raises:
        ValueError: the model has too few positions, or a training prompt is too long.
        ModelError: a prompt that the tokenizer cannot encode.
    """
    # positions for the longest prompt and response
    trainer = settings.trainer
    check_context(loaded.model.config, trainer.max_prompt_tokens + trainer.sampling.max_tokens)

    # held-out prompts are never dropped, so all must fit
    check_benchmark_prompts(
        problems.benchmarks, loaded.tokenizer, settings.model.chat, loaded.model.config
    )

    # the task drops or refuses what is too long, as task.overlong says
    def token_count(problem: Problem) -> int:
        return len(encode_prompt(loaded.tokenizer, problem.prompt, settings.model.chat))

    # what was left out is said, not hidden
    task = problems.task
    dropped = fit_prompts(task, token_count, trainer.max_prompt_tokens, settings.overlong)
    if dropped:
        limit = trainer.max_prompt_tokens
        log.warning("task %s: %d prompts over %d tokens left out", task.name, dropped, limit)
