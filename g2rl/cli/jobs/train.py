"""What `g2rl-train` does in its folder: begin or continue, train, export, plot, summarise."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from transformers import PreTrainedModel

from g2rl.analysis.figures.one_run import plot_run
from g2rl.cli.build.inputs import training_inputs
from g2rl.cli.build.memory import plan_disk
from g2rl.cli.build.model import join_world
from g2rl.cli.build.settings import TrainSettings, plain, read_train_settings
from g2rl.cli.build.trainer import Models, TrainingJob, build_training
from g2rl.cli.folder import prepare, refuse_shorter
from g2rl.cli.jobs.report import report_run
from g2rl.runs.checkpoints import export_model
from g2rl.runs.files import atomic_path, write_json
from g2rl.runs.identity import free_keys
from g2rl.runs.inputs import check_inputs
from g2rl.runs.interrupt import StopRequest
from g2rl.runs.layout import OUTPUTS, RunFolder
from g2rl.runs.lock import alone_in
from g2rl.runs.metric_names import final_score
from g2rl.runs.tracking import read_metrics
from g2rl.training.console import (
    ConsoleReporter,
    Reporter,
    SilentReporter,
    shorter,
    summary_rows,
)
from g2rl.training.disk import DiskPlan, announcement
from g2rl.training.profile_table import Machine, StageTable
from g2rl.training.work import PRODUCT_ROWS, ModelSize, product_rate
from g2rl.world import World

log = logging.getLogger(__name__)


def train(config: DictConfig, run_dir: Path) -> float:
    """Run or continue the training in `run_dir`.

    Returns:
        The final held-out pass@1, mean over benchmarks; NaN on every rank but the first.

    Raises:
        Interrupted: by a stop signal (`g2rl.runs.interrupt`), after a complete step that is saved.
    """
    plain_config = plain(config)
    settings = read_train_settings(config)
    with alone_in(run_dir), StopRequest() as stop, joined(settings) as world:
        # the folder, by the first rank for all
        continued = begin(run_dir, plain_config, config.resume, world)
        reporter = ConsoleReporter(run_dir) if world.first else SilentReporter()

        # the run; whatever happens, processes and files are closed
        job = build_training(config, settings, run_dir, reporter, stop, world)
        try:
            same_inputs(run_dir, settings, job, continued, world)
            state = job.checkpoints.load_newest(job.models.policy.model)
            if state is not None:
                lengthen(run_dir, settings, int(state["step"]), reporter, world)
            describe(reporter, settings, job, world, state)
            job.tracker.start(None if state is None else int(state["step"]), plain_config)
            job.trainer.run(state)
            write_profile(job, run_dir, reporter)
            export(job.models, settings, RunFolder(run_dir).model, world)
        finally:
            job.problems.graders.close()
            job.tracker.finish()
            job.trainer.profiler.close()
            reporter.close()
            job.models.engine.close()  # last: vLLM takes torch's process groups down with it

        if not isinstance(reporter, ConsoleReporter):
            return math.nan
        return conclude(job, run_dir, reporter, settings.report)


def begin(run_dir: Path, plain_config: dict[str, Any], resume: str, world: World) -> bool:
    """Prepare the folder, by the first rank for all; returns whether a run is continued.

    Ranks but the first return False.
    """
    continued = False
    if world.first:
        free = free_keys("train", "resume")
        refuse_shorter(run_dir, plain_config["trainer"]["steps"], resume)
        continued = prepare(run_dir, plain_config, resume, free, OUTPUTS)
    world.barrier()
    return continued


def same_inputs(
    run_dir: Path, settings: TrainSettings, job: TrainingJob, continued: bool, world: World
) -> None:
    """Refuse to continue with other weights, tokenizer or problems than the run began with.

    Raises:
        ValueError: on the first rank, naming what has changed.
    """
    if world.first:
        check_inputs(run_dir, training_inputs(settings, job), continued)
    world.barrier()


def lengthen(
    run_dir: Path, settings: TrainSettings, done: int, reporter: Reporter, world: World
) -> None:
    """Let a finished run go on to more steps than it had, and say what that does to its schedule.

    Args:
        run_dir: folder of the run.
        settings: of this command.
        done: steps that the newest checkpoint has completed.
        reporter: tells the user.
        world: the processes of the run.
    """
    steps, folder = settings.trainer.steps, RunFolder(run_dir)
    if done == steps or not folder.summary.exists():
        return

    # it has not finished any longer
    world.barrier()
    if world.first:
        folder.summary.unlink()

    # what the learning rate was at the old end, and is there now
    optimizer = settings.optimizer
    update = done * optimizer.mini_batches * optimizer.epochs
    text = "the learning rate stays as it is, so the run is the one that had this length at once"
    if optimizer.schedule != "constant":
        before = optimizer.learning_rate(update - 1, update)
        now = optimizer.learning_rate(update, settings.total_updates)
        text = (
            f"the {optimizer.schedule} schedule now ends at step {steps}, so the learning rate "
            f"goes from {before:.3g} at step {done} to {now:.3g}: not the run that had this length "
            "at once"
        )
    reporter.say(f"longer: {done} steps become {steps}; {text}")


def write_profile(job: TrainingJob, run_dir: Path, reporter: Reporter) -> None:
    """Write and print the stages of a run that was profiled, beside the rate of the machine."""
    profiler, policy = job.profiler, job.models.policy
    if profiler is None:
        return
    if profiler.steps_begun < 2:
        reporter.say("profile: no step came after the first, which warms up; nothing is written")
        return

    # the rate of the products that most of the time should go into
    size = ModelSize.of(policy.model)
    dtype = policy.compute_dtype or next(policy.parameters()).dtype
    outer, inner = size.largest
    machine = Machine(
        device=str(policy.device),
        dtype=str(dtype).removeprefix("torch."),
        product=(PRODUCT_ROWS, inner, outer),
        rate=product_rate(size, dtype, policy.device),
        memory=profiler.memory.kind,
    )

    # as numbers, and as what is printed
    folder, table = RunFolder(run_dir), StageTable.of(profiler, machine)
    write_json(folder.stage_numbers, table.numbers())
    with atomic_path(folder.stage_table) as partial:
        partial.write_text("\n".join(table.lines()) + "\n", encoding="utf-8")
    for line in table.lines():
        reporter.say(line)
    reporter.say(f"profile: {shorter(folder.profile)}  (trace: chrome://tracing or Perfetto)")


@contextmanager
def joined(settings: TrainSettings) -> Iterator[World]:
    """The processes of this run, until the run ends; all but the first log errors only."""
    world = join_world(settings.parallel, settings.model.device)
    if not world.first:
        logging.getLogger().setLevel(logging.ERROR)
    try:
        yield world
    finally:
        world.close()


def export(models: Models, settings: TrainSettings, target: Path, world: World) -> None:
    """Write the model in Hugging Face format; a sharded one is gathered on the first rank."""
    loaded, policy = models.loaded, models.policy

    # whole weights, on the rank that writes
    model = loaded.model
    if policy.sharding is not None:
        if not world.first:
            policy.take_part_in_copy()
            return
        model = policy.empty_copy("cpu")
        policy.copy_weights_to(model)
    elif not world.first:
        return

    lora_export = "merged" if settings.model.lora is None else settings.model.lora.export
    export_model(model, loaded.tokenizer, loaded.stop_ids, target, lora_export)


def conclude(
    job: TrainingJob, run_dir: Path, reporter: ConsoleReporter, with_report: bool
) -> float:
    """Draw the figures, write report.html and summary.json, and print the final table.

    summary.json is the last file of a run: where it is, all others are there.

    Returns:
        The final score.
    """
    # rows before the first step and after the last
    folder = RunFolder(run_dir)
    rows = read_metrics(folder.metrics)
    before, after = rows[0], rows[-1]
    benchmarks = [benchmark.name for benchmark in job.problems.benchmarks]

    # figures and report first, the summary last
    plots = plot_run(run_dir, benchmarks)
    report = try_report(run_dir) if with_report else None
    write_json(folder.summary, {"before": before, "after": after})
    reporter.summary(summary_rows(before, after, benchmarks), plots, report)
    score = final_score(after)
    return math.nan if score is None else score


def try_report(run_dir: Path) -> Path | None:
    """Write report.html and return its path; None if that fails, which no run may die of.

    The page is made of what is on disk already, so it can be written again at any time.
    """
    try:
        return report_run(run_dir, ended=True)
    except Exception as error:
        log.error(
            "report.html was not written (%s: %s); the run is complete without it, and "
            "g2rl-report %s writes it again",
            type(error).__name__,
            error,
            run_dir,
            exc_info=log.isEnabledFor(logging.DEBUG),
        )
        return None


def disk_plan(settings: TrainSettings, model: PreTrainedModel) -> DiskPlan:
    """What the checkpoints and the exported model of a loaded model take on the disk."""
    weights = list(model.parameters())
    trained = sum(weight.numel() for weight in weights if weight.requires_grad)
    total = sum(weight.numel() for weight in weights)
    return plan_disk(settings, total, trained, weights[0].element_size())


def describe(
    reporter: Reporter,
    settings: TrainSettings,
    job: TrainingJob,
    world: World,
    state: Mapping[str, Any] | None,
) -> None:
    """Say what is about to run: model, stop tokens, data, signal, and where it continues."""
    # the model
    loaded, policy = job.models.loaded, job.models.policy
    parameters = sum(parameter.numel() for parameter in loaded.model.parameters())
    stops = [f"{loaded.tokenizer.convert_ids_to_tokens(i)}={i}" for i in loaded.stop_ids]
    processes = f" of {world.size} processes, sharded" if world.mesh else ""
    reporter.say(
        f"model {settings.model.name}: {parameters / 1e6:.2f}M parameters on "
        f"{policy.device}{processes}, stop tokens {', '.join(stops)}"
    )
    disk = announcement(disk_plan(settings, loaded.model))
    if disk is not None:
        reporter.say(disk)

    # the task and the signal
    task, trainer = job.problems.task, settings.trainer
    dropped = getattr(task, "dropped", 0)
    if dropped:
        reporter.say(f"task {task.name}: {dropped} rows without a gold answer dropped")
    steps = "1 step" if trainer.steps == 1 else f"{trainer.steps} steps"
    reporter.say(
        f"exploration {job.signal.name} on task {task.name}: {steps} of "
        f"{trainer.prompts_per_step} prompts x {trainer.group_size} responses, up to "
        f"{trainer.sampling.max_tokens} tokens at temperature {trainer.sampling.temperature}"
    )
    if state is not None:
        reporter.say(f"continuing after step {int(state['step'])}")
