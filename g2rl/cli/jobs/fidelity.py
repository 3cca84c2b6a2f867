"""What `g2rl-analyze fidelity` does: sample groups, take true gradients, correlate, write."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from hydra.utils import instantiate
from omegaconf import DictConfig

from g2rl.analysis.captions import sampled_with_features
from g2rl.analysis.fidelity.measure import Measured, measure
from g2rl.analysis.fidelity.records import FidelitySummary
from g2rl.analysis.fidelity.report import markdown, parts
from g2rl.analysis.fidelity.summary import summarise
from g2rl.analysis.figures.fidelity import draw
from g2rl.analysis.groups import sample_groups
from g2rl.cli.build.benchmarks import build_graders
from g2rl.cli.build.settings import read_grading_settings
from g2rl.cli.jobs.subject import begin, open_subject
from g2rl.evaluation.console import EvalReporter
from g2rl.runs.files import atomic_path, write_json
from g2rl.runs.lock import one_process_in
from g2rl.runs.terminal import print_parts
from g2rl.tasks.benchmarks.benchmark import Benchmark
from g2rl.types import SamplingParams

OUTPUTS = (
    "pairs.parquet",
    "responses.parquet",
    "fidelity.json",
    "table.md",
    "fidelity.png",
    "inputs.json",
)


def fidelity(config: DictConfig, folder: Path, overrides: Sequence[str] = ()) -> float | None:
    """Measure how well cosines of the features predict cosines of the true gradients.

    Args:
        config: composed from conf/analyze_fidelity.yaml.
        folder: where the command writes.
        overrides: what was typed; the settings of a run's model yield to them.

    Returns:
        The pooled Spearman correlation of Phi.

    Raises:
        ValueError: several benchmarks at once, or settings that the parts refuse.
    """
    with one_process_in(folder, "g2rl-analyze fidelity"):
        return _fidelity(config, folder, overrides)


def _fidelity(config: DictConfig, folder: Path, overrides: Sequence[str]) -> float | None:
    # what can be refused before a model is loaded
    check(config)
    config, benchmark = begin("analyze_fidelity", config, folder, overrides, OUTPUTS)

    # measure
    encoder = instantiate(config.encoder) if config.embed else None
    reporter = EvalReporter()
    measured = _measure(config, benchmark, encoder, reporter)
    summary = summarise(
        measured, projection=config.projection, resamples=config.resamples, seed=config.seed
    )

    # write: tables, numbers, figure
    words = caption(config, benchmark.name, None if encoder is None else encoder.name, summary)
    for name in ("pairs", "responses"):
        write_parquet(getattr(measured, name), folder / f"{name}.parquet")
    write_json(
        folder / "fidelity.json",
        {"caption": words, "encoder": getattr(encoder, "name", None), **summary},
    )
    with atomic_path(folder / "table.md") as aside:
        aside.write_text(markdown(summary, words), encoding="utf-8")
    draw(measured.pairs, summary, words, folder / "fidelity.png")

    # show
    print_parts(reporter.console, parts(summary, words))
    reporter.say(f"written: {folder}")
    phi = next(row for row in summary["correlations"] if row["predictor"] == "phi")
    return phi["spearman"]["value"]


def check(config: DictConfig) -> None:
    """Settings that can be refused before a model is loaded.

    Raises:
        ValueError: naming the setting and what it has to be.
    """
    # counts
    for name, least in (("responses", 2), ("max_tokens", 1), ("resamples", 1)):
        if config[name] < least:
            raise ValueError(f"{name}={config[name]}: must be at least {least}")

    # temperatures
    for name in ("temperature", "feature_temperature"):
        if config[name] is not None and not config[name] > 0:
            raise ValueError(
                f"{name}={config[name]}: need a temperature > 0; greedy decoding has no "
                "distribution whose gradient could be taken"
            )

    # sketches of gradients
    if config.projection is not None and config.projection < 1:
        raise ValueError(f"projection must be null or >= 1, got {config.projection}")


def _measure(
    config: DictConfig, benchmark: Benchmark, encoder: Any, reporter: EvalReporter
) -> Measured:
    """Sample, grade and take gradients, with progress."""
    # sample and grade
    loaded, policy, engine = open_subject(config, benchmark)
    total = config.problems * config.responses
    graders = build_graders(read_grading_settings(config.verify))
    try:
        engine.push_weights()
        with reporter.phase("sampling", total) as advance:
            groups = sample_groups(
                benchmark,
                engine,
                graders(benchmark.verifier),
                loaded.tokenizer,
                problems=config.problems,
                responses=config.responses,
                params=SamplingParams(
                    config.temperature, config.top_p, config.top_k, config.max_tokens
                ),
                chat=config.model.chat,
                seed=config.seed,
                on_progress=advance,
            )
    finally:
        graders.close()
        engine.close()

    # gradients of every response
    blocks = None if config.blocks is None else list(config.blocks)
    with reporter.phase("true gradients", total) as advance:
        return measure(
            policy,
            groups,
            temperature=config.temperature,
            feature_temperature=config.feature_temperature,
            token_budget=config.model.micro_batch_tokens,
            encoder=encoder,
            blocks=blocks,
            projection=config.projection,
            seed=config.seed,
            on_progress=advance,
        )


def caption(
    config: DictConfig, benchmark: str, encoder: str | None, summary: FidelitySummary
) -> str:
    """How the numbers came about: model, problems, temperatures, truncation, exactness."""
    # what was measured
    policy = config.model.source
    if config.run is not None:
        policy = f"{config.model.name} after {config.run}"
    conditions = sampled_with_features(
        config.temperature, config.top_p, config.top_k, config.feature_temperature
    )

    # how exactly
    exactness = "exact gradients"
    error = summary["projection"]
    if error is not None:
        exactness = (
            f"gradients sketched to {error['cells']:,} cells a block, standard error of a cosine "
            f"at most {error['standard_error']:.4f}"
        )
    if config.blocks is not None:
        exactness += f" of {', '.join(config.blocks)} only"
    if encoder:
        exactness += f"; encoder {encoder}"
    return (
        f"{policy}, {benchmark}: {config.problems} problems x {config.responses} responses of up "
        f"to {config.max_tokens} tokens, {conditions}; {exactness}"
    )


def write_parquet(frame: pd.DataFrame, path: Path) -> None:
    """Write a table that appears whole or not at all."""
    with atomic_path(path) as aside:
        frame.to_parquet(aside, index=False)
