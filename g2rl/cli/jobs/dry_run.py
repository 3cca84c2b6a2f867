"""What `g2rl-train --dry-run` does: check everything that needs no weights, and say the plan."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from g2rl.cli.build.memory import plan_disk, plan_memory
from g2rl.cli.build.settings import TrainSettings, read_train_settings
from g2rl.cli.build.trainer import Exploration, Problems, build_exploration, build_problems
from g2rl.policy.loading import pick_device, read_config
from g2rl.runs.checkpoints import Checkpoints
from g2rl.runs.layout import RunFolder
from g2rl.training.disk import DiskPlan, size_in_words
from g2rl.training.memory import FLOAT
from g2rl.training.memory_plan import shape_of

WRITES = (
    "config.yaml, metrics.jsonl, rollouts/, geometry/, probe/,",
    "checkpoints/, model/, two figures, summary.json",
)


def dry_run(config: DictConfig, folder: Path) -> None:
    """Print what a run would do; writes nothing.

    Args:
        config: composed, without Hydra's own node, and checked at the door.
        folder: where the run would write.

    Raises:
        ValueError: what the run itself would refuse before it loads weights.
    """
    settings = dataclasses.replace(read_train_settings(config), plan="print")
    exploration = build_exploration(config, settings)
    problems = build_problems(config, settings)
    problems.graders.close()

    # memory first, as the run itself would print it
    needs = exploration.needs
    plan_memory(
        settings,
        problems.benchmarks,
        "features" in needs,
        "reference_hidden" in needs,
        exploration.encoder,
    )
    print()
    for name, text in plan_rows(settings, exploration, problems, folder):
        print(f"{name:<12} {text}")
    print("\ndry run: nothing was written")


def plan_rows(
    settings: TrainSettings, exploration: Exploration, problems: Problems, folder: Path
) -> list[tuple[str, str]]:
    """A run in a few lines: where, with what, how much of it, and what it takes."""
    model, trainer, optimizer = settings.model, settings.trainer, settings.optimizer
    disk = disk_plan(settings)
    responses = trainer.steps * trainer.prompts_per_step * trainer.group_size
    updates = optimizer.mini_batches * optimizer.epochs
    return [
        ("folder", f"{folder}  ({state_of(folder, trainer.steps)})"),
        ("model", f"{model.name} ({model.source}) on {pick_device(model.device)}"),
        ("parameters", f"{disk.parameters / 1e6:.2f}M, {disk.trained / 1e6:.2f}M of them train"),
        ("signal", f"{exploration.signal.name} on task {problems.task.name}"),
        *problem_rows(settings, problems),
        (
            "rollouts",
            f"{trainer.steps} steps x {trainer.prompts_per_step} prompts x "
            f"{trainer.group_size} = {responses:,} responses",
        ),
        ("", f"of up to {trainer.sampling.max_tokens} tokens each"),
        (
            "updates",
            f"{settings.total_updates:,}, {updates} a step, learning rate {optimizer.lr:g}, "
            f"{optimizer.schedule}",
        ),
        *evaluation_rows(settings, problems),
        (
            "checkpoints",
            f"{size_in_words(disk.checkpoint)} each, every {trainer.checkpoint_every} steps, at "
            f"most {disk.kept} kept",
        ),
        *disk_rows(disk, folder),
        ("writes", WRITES[0]),
        ("", WRITES[1]),
    ]


def problem_rows(settings: TrainSettings, problems: Problems) -> list[tuple[str, str]]:
    """How many problems there are to train on, and how often each comes; no row if endless."""
    rows = getattr(problems.task, "problems", None)
    if rows is None:
        return []

    # few rows are seen again and again, which shows before anything is trained
    passes = settings.trainer.steps * settings.trainer.prompts_per_step / len(rows)
    often = f"each is drawn about {passes:.0f} times"
    if passes < 1.5:
        often = f"the run draws {min(passes, 1):.0%} of them"
    return [("problems", f"{len(rows):,} to train on; {often}")]


def evaluation_rows(settings: TrainSettings, problems: Problems) -> list[tuple[str, str]]:
    """One line a benchmark: when, and how many samples."""
    trainer = settings.trainer

    # the first and the last evaluation are not among those in between
    between = 0
    if trainer.eval_every:
        between = (trainer.steps - 1) // trainer.eval_every
    rows: list[tuple[str, str]] = []
    for benchmark in problems.benchmarks:
        fewer = min(trainer.eval_samples, benchmark.samples)
        size = len(benchmark.problems)
        rows.append(
            (
                "held out",
                f"{benchmark.name}: {size} x {benchmark.samples} before and after, "
                f"{size} x {fewer} in between ({between})",
            )
        )
    return rows


def disk_plan(settings: TrainSettings) -> DiskPlan:
    """What checkpoints and the exported model take, from the model's configuration alone."""
    model = settings.model
    model_config: Any = read_config(
        model.source, model.gguf_file, model.revision, dict(model.overrides)
    )
    shape = shape_of(model_config, model.lora)
    weight_bytes = FLOAT if model.dtype == "float32" else 2
    return plan_disk(settings, shape.parameters, shape.trained, weight_bytes)


def disk_rows(disk: DiskPlan, folder: Path) -> list[tuple[str, str]]:
    """What the run takes beside what is free, and whether that is enough."""
    # the nearest folder that is there already
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    needed = disk.checkpoints + disk.model
    enough = "" if needed < free else "; THIS IS NOT ENOUGH"
    return [
        ("disk", f"up to {size_in_words(disk.checkpoints)} of checkpoints"),
        ("", f"and {size_in_words(disk.model)} of model; {size_in_words(free)} are free{enough}"),
    ]


def state_of(folder: Path, steps: int) -> str:
    """What a folder holds already, in words."""
    # a run continues from its newest checkpoint
    saved = Checkpoints(RunFolder(folder).checkpoints).steps()
    if not saved:
        return "new"
    if RunFolder(folder).summary.exists() and saved[-1] >= steps:
        return "finished already"
    return f"continues after step {saved[-1]}"
