"""One run of a bake-off: `g2rl-train` without figures, its held-out numbers as one row.

The run is the one that its command makes, to the bit. What is left out costs more than it says
here: majority votes and bootstrap intervals of every evaluation, the tables, the exported model and
the figures. The evaluation before training is the same for all arms of a seed, so it is made once
and kept beside the runs.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from g2rl.analysis.bakeoff.rows import Row
from g2rl.cli.bakeoff.plan import PlannedRun
from g2rl.cli.build.settings import plain, read_train_settings
from g2rl.cli.build.trainer import TrainingJob, build_training
from g2rl.cli.config.launch import register_resolvers
from g2rl.cli.config.mistakes import Shelf
from g2rl.cli.config.own_code import make_importable
from g2rl.cli.jobs.train import begin, same_inputs
from g2rl.evaluation.evaluate import Responses, respond
from g2rl.formulas.estimators import pass_at_k
from g2rl.runs.files import write_json
from g2rl.runs.identity import free_keys, is_under
from g2rl.runs.interrupt import StopRequest
from g2rl.runs.layout import RunFolder
from g2rl.runs.lock import alone_in
from g2rl.runs.tracking import read_metrics
from g2rl.tasks.grading.verifier import key_of
from g2rl.training.console import SilentReporter
from g2rl.training.settings import TrainerSettings
from g2rl.training.validation import HeldOut, Validation
from g2rl.world import World

HARD = "hard"
"""The group of problems that is also measured alone."""
TRAIN_METRICS = ("train/accuracy", "train/entropy")
"""What a row keeps of training itself, at every evaluation."""
DIGITS = 6
"""Of the numbers in a row; a share of 256 problems x 64 samples needs five."""


def composed(words: Sequence[str], config_dirs: Sequence[Path] = ()) -> DictConfig:
    """The configuration of `g2rl-train` with these words.

    Args:
        words: overrides, as typed.
        config_dirs: folders with choices of the user's own.
    """
    register_resolvers()
    config = Shelf("train", tuple(config_dirs)).compose(words)
    make_importable(config, [folder.resolve() for folder in config_dirs])
    return config


def run_once(
    run: PlannedRun,
    work: Path,
    config_dirs: Sequence[Path] = (),
) -> Row:
    """Train one arm, or go on where it was stopped; returns its row and removes its folder.

    Args:
        run: what to train.
        work: folder below which the bake-off works.
        config_dirs: see `composed`.

    Raises:
        Interrupted: by a stop signal, after a complete step that is saved.
    """
    # the run, perhaps from where it was stopped
    started = time.process_time()
    config = composed(run.words, config_dirs)
    run_dir = work / run.folder
    spent = run_dir / "cpu_seconds.json"
    try:
        steps = train(config, run_dir, work / "before")
    finally:
        # an interrupted run counts what it has used so far
        seconds = time.process_time() - started
        if spent.exists():
            seconds += json.loads(spent.read_text(encoding="utf-8"))
        if run_dir.is_dir():
            write_json(spent, seconds)

    # what is kept of it is a few kB
    row = row_of(run, plain(config), steps, seconds)
    shutil.rmtree(run_dir)
    return row


def train(config: DictConfig, run_dir: Path, kept: Path) -> list[dict[str, Any]]:
    """Run or continue the training in `run_dir`; returns its rows of metrics.jsonl.

    Args:
        config: of the run.
        run_dir: its folder.
        kept: folder of the evaluations before training, which arms share.
    """
    settings, world = read_train_settings(config), World()
    with alone_in(run_dir, "--work FOLDER"), StopRequest() as stop:
        # as g2rl-train does it, with another validation
        continued = begin(run_dir, plain(config), config.resume, world)
        job = build_training(config, settings, run_dir, SilentReporter(), stop, world)
        job.trainer.validation = Measured(job, settings.trainer, before_training(config, kept))
        try:
            # a run that goes on must have the weights and problems that it began with
            same_inputs(run_dir, settings, job, continued, world)
            state = job.checkpoints.load_newest(job.models.policy.model)
            job.tracker.start(None if state is None else int(state["step"]), plain(config))
            job.trainer.run(state)
        finally:
            job.problems.graders.close()
            job.tracker.finish()
            job.models.engine.close()
    return read_metrics(RunFolder(run_dir).metrics)


def before_training(config: DictConfig, kept: Path) -> Path:
    """The file of the evaluation before training: a function of policy, problems and seed alone."""
    # arms differ in exploration, algorithm and optimizer, which no sample before training sees
    settings = plain(config)
    decisive = [settings[node] for node in ("model", "benchmark", "engine", "seed")]
    text = json.dumps(decisive, sort_keys=True)
    return kept / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"


class Measured(Validation):
    """Held-out pass@k and distinct right answers, of all problems and of the hard ones.

    Args:
        job: the run.
        settings: the loop's settings.
        kept: file of the evaluation before training.
    """

    def __init__(self, job: TrainingJob, settings: TrainerSettings, kept: Path) -> None:
        # the parts of the validation that it stands in for
        before = job.trainer.validation
        super().__init__(
            before.held_out,
            policy=before.policy,
            engine=before.engine,
            tokenizer=before.tokenizer,
            chat=before.chat,
            tracker=before.tracker,
            reporter=before.reporter,
            settings=settings,
            world=before.world,
        )
        self.kept = kept

    def __call__(self, step: int) -> dict[str, float]:
        """Metrics of the policy after a step, named as `g2rl-train` names them, and
        eval/BENCHMARK/hard/QUANTITY."""
        # another arm of this seed has made the first evaluation
        if step == 0 and self.kept.is_file():
            metrics: dict[str, float] = json.loads(self.kept.read_text(encoding="utf-8"))
            return metrics

        # as many samples as g2rl-train would draw
        metrics = {}
        for held_out in self.held_out:
            samples = held_out.benchmark.samples
            if step not in (0, self.settings.steps):
                samples = min(self.settings.eval_samples, samples)
            metrics |= self._measure(held_out, samples)
        if step == 0:
            write_json(self.kept, metrics)
        return metrics

    def _measure(self, held_out: HeldOut, samples: int) -> dict[str, float]:
        """Sample and grade one problem set."""
        # the samples that g2rl-train would draw, number by number
        benchmark, grader = held_out.benchmark, held_out.grader
        responses = respond(
            benchmark,
            range(len(benchmark.problems)),
            self.engine,
            grader,
            self.tokenizer,
            chat=self.chat,
            seed=self.settings.seed,
            samples=samples,
        )
        grader.metrics()  # its counts belong to this evaluation

        # all problems, and the hard ones alone
        groups = [problem.meta.get("group") for problem in benchmark.problems]
        is_hard_B = np.array([group == HARD for group in groups])
        ks = [k for k in benchmark.ks if k <= samples]
        metrics = {f"eval/{benchmark.name}/samples": float(samples)}
        key = partial(key_of, grader.verifier)
        for name, values_B in per_problem(responses, ks, key).items():
            metrics[f"eval/{benchmark.name}/{name}"] = float(values_B.mean())
            if is_hard_B.any():
                hard_mean = float(values_B[is_hard_B].mean())
                metrics[f"eval/{benchmark.name}/{HARD}/{name}"] = hard_mean
        return metrics


def per_problem(
    responses: Responses, ks: Sequence[int], key: Callable[[str], str]
) -> dict[str, np.ndarray]:
    """pass@k, the number of distinct right answers and the length on each problem, (B,).

    Args:
        responses: graded.
        ks: the k of pass@k.
        key: normal form of an answer; answers are the same if theirs are, which is exact where the
            answer is the strategy.
    """
    # right samples, and different answers among them
    right_counts: list[int] = []
    distinct: list[float] = []
    for verdicts in responses.verdicts:
        answers = [verdict.answer for verdict in verdicts if verdict.correct]
        right_counts.append(len(answers))
        distinct.append(float(len({key(answer) for answer in answers if answer is not None})))

    # every problem has the same number of samples
    counts = [len(verdicts) for verdicts in responses.verdicts]
    values = {f"pass@{k}": pass_at_k(counts, right_counts, k) for k in ks}
    values["distinct"] = np.array(distinct)
    lengths: list[float] = []
    for completions in responses.completions:
        lengths.append(float(np.mean([len(one.token_ids) for one in completions])))
    values["length"] = np.array(lengths)
    return values


def row_of(
    run: PlannedRun, config: Mapping[str, Any], steps: Sequence[Mapping[str, Any]], seconds: float
) -> Row:
    """What is stored of a run.

    Args:
        run: what was trained.
        config: resolved.
        steps: rows of its metrics.jsonl.
        seconds: of CPU time that it took.
    """
    # evaluations of the only benchmark, without its name
    curve: list[dict[str, float]] = []
    prefix = f"eval/{run.task}/"
    for step in steps:
        point: dict[str, float] = {"step": step["step"]}
        for name, value in step.items():
            if name.startswith(prefix):
                point[name.removeprefix(prefix)] = round(value, DIGITS)
        if len(point) > 1:
            for name in TRAIN_METRICS:
                if name in step:
                    point[name] = round(step[name], DIGITS)
            curve.append(point)

    # the identity comes first: by it the row is found again
    return {
        **run.identity,
        "command": run.command,
        "config_sha256": config_hash(config),
        "cpu_seconds": round(seconds, 1),
        "machine": f"{platform.machine()}, torch {torch.__version__.partition('+')[0]}, "
        f"{torch.get_num_threads()} thread(s)",
        "curve": curve,
    }


def config_hash(config: Mapping[str, Any]) -> str:
    """Fingerprint of the settings that decide a run's result."""
    # what may change when a run is continued decides nothing, except how far it goes
    free = [key for key in free_keys("train", "resume") if key != "trainer.steps"]
    decisive: dict[str, Any] = {}
    for node, value in config.items():
        if is_under(node, free):
            continue
        if isinstance(value, Mapping):
            settings = value.items()
            value = {name: item for name, item in settings if not is_under(f"{node}.{name}", free)}
        decisive[node] = value
    text = json.dumps(decisive, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
