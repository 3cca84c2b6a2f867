"""What `g2rl-eval` does: evaluate in a folder, grade a samples file again, or compare folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from pyarrow import parquet

from g2rl.cli.build.benchmarks import build_benchmarks, build_graders
from g2rl.cli.build.inputs import files_of_model, held_out_inputs, revision_of
from g2rl.cli.build.model import build_sampler, model_of_subject
from g2rl.cli.build.settings import plain, read_grading_settings, read_model_settings
from g2rl.cli.folder import prepare, read_config_file
from g2rl.evaluation.compare import COMPARISON, compare, problems_file
from g2rl.evaluation.console import EvalReporter
from g2rl.evaluation.files import write_rows
from g2rl.evaluation.folder import (
    Evaluation,
    pass_at_1_by_benchmark,
    regrade,
)
from g2rl.evaluation.tables import Findings, findings_metrics
from g2rl.runs.identity import differences, free_keys
from g2rl.runs.inputs import check_inputs
from g2rl.runs.layout import RunFolder
from g2rl.runs.lock import one_process_in
from g2rl.runs.tracking import Guarded, Mirror
from g2rl.tasks.benchmarks.benchmark import Benchmark
from g2rl.tasks.grading.grader import Graders
from g2rl.tasks.grading.verifier import Verifier

OUTPUTS = (
    "parts",
    "samples.parquet",
    "problems.parquet",
    "results.parquet",
    "groups.parquet",
    "inputs.json",
    "wandb",
    "tensorboard",
    "metrics.csv",
)


def evaluate(config: DictConfig, folder: Path, overrides: Sequence[str] = ()) -> float | None:
    """Do what the configuration asks for in a folder.

    Args:
        config: composed from conf/evaluate.yaml.
        folder: where the command writes.
        overrides: what was typed; the settings of a run's model yield to them.

    Returns:
        The mean pass@1 of the benchmarks; None of a comparison.

    Raises:
        ValueError: another process is at work in the folder, torchrun started this one, or what the
            parts refuse.
    """
    with one_process_in(folder, "g2rl-eval"):
        return _evaluate(config, folder, overrides)


def _evaluate(config: DictConfig, folder: Path, overrides: Sequence[str]) -> float | None:
    # a comparison needs neither a model nor graders
    reporter = EvalReporter()
    if config.compare:
        compare_folders(config.compare, folder, reporter)
        return None

    # grade again, or sample
    graders = build_graders(read_grading_settings(config.verify))
    try:
        if config.samples is not None:
            source = Path(config.samples).expanduser()
            findings = regrade(source, folder, graders, reporter, lambda: verifiers_of(config))
            reporter.findings(findings, f"{source}, graded again")
        else:
            findings = sample(config, folder, overrides, graders, reporter)
    finally:
        graders.close()
    reporter.say(f"written: {folder}")

    # one number for whoever sweeps evaluations
    scores = pass_at_1_by_benchmark(findings)
    return sum(scores.values()) / len(scores)


def verifiers_of(config: DictConfig) -> list[Verifier]:
    """The verifiers of the benchmarks that a configuration names."""
    return [benchmark.verifier for benchmark in build_benchmarks(config.benchmark)]


def sample(
    config: DictConfig,
    folder: Path,
    overrides: Sequence[str],
    graders: Graders,
    reporter: EvalReporter,
) -> Findings:
    """Evaluate the model of the configuration, or of its run, in `folder`."""
    # a run brings its own model
    config = config.copy()
    config.model = model_of_subject(config, overrides)
    subject = config.model.checkpoint or config.model.source
    benchmarks = build_benchmarks(config.benchmark)

    # the folder: new, or of the same settings and the same inputs
    settings = plain(config)
    continued = prepare(folder, settings, config.resume, free_keys("evaluate", "resume"), OUTPUTS)
    digests = files_of_model(read_model_settings(config.model))
    digests.update(held_out_inputs(benchmarks))
    check_inputs(folder, digests, continued)

    # what is still to be sampled
    evaluation = Evaluation(folder, benchmarks, config.part, config.seed)
    mirror = Guarded(instantiate(config.tracking))
    mirror.start(folder, settings, [])
    if evaluation.missing_parts():
        reporter.say(f"{subject} on {sizes_of(benchmarks)}")
        draw_missing_parts(config, evaluation, continued, graders, reporter)
    else:
        reporter.say("every sample is there already (resume=never samples again)")

    # tables, tracking, terminal
    findings = evaluation.finish(graders)
    tell(mirror, findings, evaluation.samples_file)
    reporter.findings(findings, subject)
    return findings


def draw_missing_parts(
    config: DictConfig,
    evaluation: Evaluation,
    continued: bool,
    graders: Graders,
    reporter: EvalReporter,
) -> None:
    """Load the model of an evaluation and sample and grade what its folder lacks."""
    engine, loaded = build_sampler(config, evaluation.benchmarks)
    try:
        # the weights that these samples go on with
        check_inputs(evaluation.folder, revision_of(loaded), continued)
        engine.push_weights()
        evaluation.sample(engine, loaded.tokenizer, graders, reporter, chat=config.model.chat)
    finally:
        engine.close()


def sizes_of(benchmarks: Sequence[Benchmark]) -> str:
    """What is to be sampled, e.g. ``math500 (500 x 4), aime24 (30 x 16): 2480 samples``."""
    count = 0
    sizes: list[str] = []
    for benchmark in benchmarks:
        count += len(benchmark.problems) * benchmark.samples
        sizes.append(f"{benchmark.name} ({len(benchmark.problems)} x {benchmark.samples})")
    return f"{', '.join(sizes)}: {count} samples"


def tell(mirror: Mirror, findings: Findings, samples: Path) -> None:
    """Tell the second place of `tracking=` the results and samples, as step 0 of a run."""
    mirror.table("rollouts", 0, parquet.read_table(samples).to_pydict())
    mirror.log(0, findings_metrics(findings))
    mirror.finish()


def compare_folders(node: ListConfig, folder: Path, reporter: EvalReporter) -> None:
    """Print and write the comparison; says which settings the evaluations do not share.

    Args:
        node: one folder an arm, or a list of folders for an arm of several runs.
        folder: where to write.
        reporter: tells the user.
    """
    arms: dict[str, list[Path]] = {}
    for entry in node:
        runs = [str(run) for run in entry] if isinstance(entry, ListConfig) else [str(entry)]
        arms[" + ".join(runs)] = [Path(run).expanduser() for run in runs]

    # say in which settings the evaluations differ
    rows = compare(arms)
    settings = [_settings(path) for paths in arms.values() for path in paths]
    for other in settings[1:]:
        for change in differences(settings[0], other):
            reporter.say(f"note: the evaluations differ in {change}")

    # show and write
    reporter.comparison(rows)
    write_rows(folder / "comparison.parquet", rows, COMPARISON.arrow())
    reporter.say(f"written: {folder / 'comparison.parquet'}")


def _settings(folder: Path) -> dict[str, Any]:
    """What of an evaluation's configuration must agree with another's for a fair comparison."""
    place = RunFolder(problems_file(folder).parent).config  # where `prepare` writes it
    if not place.is_file():
        return {}
    config: dict[str, Any] = OmegaConf.to_container(read_config_file(place))  # type: ignore[assignment]
    return {"benchmark": config["benchmark"], "seed": config["seed"]}
