"""Fingerprints of what a command reads: the model, its adapter, an encoder, the problems.

They go into inputs.json, see `g2rl.runs.inputs`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from g2rl.cli.build.settings import ModelSettings, TrainSettings
from g2rl.cli.build.trainer import TrainingJob
from g2rl.policy.loading import LoadedModel, resolve_source
from g2rl.runs.inputs import (
    adapter_inputs,
    encoder_inputs,
    files_digest,
    grading_inputs,
    model_inputs,
    problems_digest,
)
from g2rl.runs.layout import CHECKPOINT_MANIFEST
from g2rl.tasks.benchmarks.benchmark import Benchmark
from g2rl.tasks.task import Finite, Task, drawn


def training_inputs(settings: TrainSettings, job: TrainingJob) -> dict[str, str]:
    """Fingerprints of all that a training run reads."""
    return {
        **files_of_model(settings.model),
        **revision_of(job.models.loaded),
        **encoder_inputs(job.encoder),
        "training problems": training_problems(
            job.problems.task, settings.seed, settings.trainer.prompts_per_step
        ),
        "held-out problems": held_out_problems(job.problems.benchmarks),
        **grading_inputs(
            [
                job.problems.task.verifier,
                *(benchmark.verifier for benchmark in job.problems.benchmarks),
            ]
        ),
    }


def files_of_model(settings: ModelSettings) -> dict[str, str]:
    """Fingerprints of the files of a model and of its adapter, as far as they lie on this disk."""
    folder = Path(resolve_source(settings.source)).expanduser()
    found = model_inputs(folder, settings.gguf_file)
    if settings.adapter is not None:
        found.update(adapter_inputs(settings.adapter))
    if settings.checkpoint is not None:
        # the manifest holds the checksums of all other files
        digest = files_digest(settings.checkpoint, (CHECKPOINT_MANIFEST,))
        if digest is not None:
            found["checkpoint"] = digest
    return found


def revision_of(loaded: LoadedModel) -> dict[str, str]:
    """The commit on the hub that a model was loaded from; {} for a folder on this disk."""
    commit = getattr(loaded.model.config, "_commit_hash", None)
    return {} if commit is None else {"revision of the model on the hub": str(commit)}


def training_problems(task: Task, seed: int, prompts_per_step: int) -> str:
    """The fingerprint of a task: of all its problems, or of the first batch of an endless one."""
    if isinstance(task, Finite):
        return problems_digest(task.problems)
    return problems_digest(drawn(task, seed, 0, prompts_per_step))


def held_out_inputs(benchmarks: Sequence[Benchmark]) -> dict[str, str]:
    """Fingerprints of all held-out problems, and of what grades them."""
    return {
        "held-out problems": held_out_problems(benchmarks),
        **grading_inputs(benchmark.verifier for benchmark in benchmarks),
    }


def held_out_problems(benchmarks: Sequence[Benchmark]) -> str:
    """The fingerprint of all held-out problems, in the order of the benchmarks."""
    return problems_digest(problem for benchmark in benchmarks for problem in benchmark.problems)
