"""What `g2rl-train` does in its folder: begin or continue, train, export, plot, summarise."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from g2rl.analysis.figures.one_run import plot_run
from g2rl.cli.build.model import join_world
from g2rl.cli.build.trainer import TrainingJob, build_trainer
from g2rl.cli.folder import alone_in, prepare
from g2rl.policy.loading import LoadedModel
from g2rl.policy.policy import Policy
from g2rl.runs.checkpoints import export_model
from g2rl.runs.files import write_json
from g2rl.runs.identity import free_keys
from g2rl.runs.interrupt import StopRequest
from g2rl.runs.layout import OUTPUTS, RunFolder
from g2rl.runs.metric_names import final_score
from g2rl.runs.tracking import read_metrics
from g2rl.training.console import ConsoleReporter, SilentReporter, summary_rows
from g2rl.world import World

log = logging.getLogger(__name__)


def train(config: DictConfig, run_dir: Path) -> float:
    """Run or continue the training in `run_dir`; returns the final held-out pass@1 (mean over
    benchmarks).

    Raises:
        Interrupted: by a stop signal (g2rl.runs.interrupt), after a complete step that is saved.
    """
    plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    with alone_in(run_dir), StopRequest() as stop, joined(config) as world:
        if world.first:
            prepare(run_dir, plain, config.resume, free_keys("train", "resume"), OUTPUTS)
        world.barrier()
        reporter = ConsoleReporter(run_dir) if world.first else SilentReporter()
        job = build_trainer(config, run_dir, reporter, stop, world)
        try:
            state = job.checkpoints.load_newest(job.policy.model)
            describe(reporter, plain, job, world, state)
            job.tracker.start(None if state is None else int(state["step"]), plain)
            job.trainer.run(state)
            export(
                job.policy, job.loaded, RunFolder(run_dir).model, config.model.lora.export, world
            )
        finally:
            job.graders.close()
            job.tracker.finish()
            reporter.close()
            job.engine.close()  # last: vLLM takes torch's process groups down with it
        if not isinstance(reporter, ConsoleReporter):
            return math.nan
        return conclude(job, run_dir, reporter)


@contextmanager
def joined(config: DictConfig) -> Iterator[World]:
    """The processes of this run, for as long as it lasts; all but the first are quiet."""
    world = join_world(config)
    if not world.first:
        logging.getLogger().setLevel(logging.ERROR)
    try:
        yield world
    finally:
        world.close()


def export(
    policy: Policy, loaded: LoadedModel, target: Path, lora_export: str, world: World
) -> None:
    """Write the model in Hugging Face format; weights of a sharded one are gathered on the first
    rank."""
    model = loaded.model
    if policy.sharding is not None:
        model = None
        if world.first:
            model = policy.empty_copy("cpu")
            policy.copy_weights_to(model)
        else:
            policy.take_part_in_copy()
    if model is not None:
        export_model(model, loaded.tokenizer, loaded.stop_ids, target, lora_export)


def conclude(job: TrainingJob, run_dir: Path, reporter: ConsoleReporter) -> float:
    """Figures, summary.json (the last file of a run: it says that all others are there), the final
    table."""
    rows = read_metrics(RunFolder(run_dir).metrics)
    names = [benchmark.name for benchmark in job.benchmarks]
    plots = plot_run(run_dir, names)
    write_json(RunFolder(run_dir).summary, {"before": rows[0], "after": rows[-1]})
    reporter.summary(summary_rows(rows[0], rows[-1], names), plots)
    return final_score(rows[-1])


def describe(
    reporter: ConsoleReporter | SilentReporter,
    config: dict[str, Any],
    job: TrainingJob,
    world: World,
    state: Any,
) -> None:
    """Say what is about to run: model, data, signal, stop tokens, and where it continues."""
    parameters = sum(p.numel() for p in job.loaded.model.parameters())
    stops = [f"{job.loaded.tokenizer.convert_ids_to_tokens(i)}={i}" for i in job.loaded.stop_ids]
    settings = job.trainer.settings
    reporter.say(
        f"model {config['model']['name']}: {parameters / 1e6:.2f}M parameters on {job.policy.device}"
        f"{f' of {world.size} processes, sharded' if world.mesh else ''}, "
        f"stop tokens {', '.join(stops)}"
    )
    dropped = getattr(job.task, "dropped", 0)
    if dropped:
        reporter.say(f"task {job.task.name}: {dropped} rows without a gold answer dropped")
    reporter.say(
        f"exploration {job.signal.name} on task {job.task.name}: {settings.steps} steps of "
        f"{settings.prompts_per_step} prompts x {settings.group_size} responses, up to "
        f"{settings.sampling.max_tokens} tokens at temperature {settings.sampling.temperature}"
    )
    if state is not None:
        reporter.say(f"continuing after step {int(state['step'])}")
