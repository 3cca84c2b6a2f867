"""What `g2rl-analyze geometry` does: sample groups, score them, count pairs, write and draw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from g2rl.analysis.figures.geometry import draw_geometry, draw_grid
from g2rl.analysis.geometry.measure import Geometry, add_set, classes_of
from g2rl.analysis.geometry.records import GeometrySettings
from g2rl.analysis.geometry.report import cell_parts, markdown, summary
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
    "groups.parquet",
    "responses.parquet",
    "geometry.json",
    "table.md",
    "geometry.png",
    "grid.png",
    "inputs.json",
)
CUT_OFF = 0.5
"""Share of responses at the token limit above which the reader is warned."""


def geometry(config: DictConfig, folder: Path, overrides: Sequence[str] = ()) -> float:
    """Measure the cosines of gradient features between responses to one problem.

    Args:
        config: composed from conf/analyze_geometry.yaml.
        folder: where the command writes.
        overrides: what was typed; the settings of a run's model yield to them.

    Returns:
        The mean cosine at the first temperatures.

    Raises:
        ValueError: settings that say nothing of a distribution of pairs, or that the parts refuse.
    """
    with one_process_in(folder, "g2rl-analyze geometry"):
        return _geometry(config, folder, overrides)


def _geometry(config: DictConfig, folder: Path, overrides: Sequence[str]) -> float:
    # what can be refused before a model is loaded
    check(config)
    config, benchmark = begin("analyze_geometry", config, folder, overrides, OUTPUTS)
    encoder = None
    if config.embed and config.get("encoder") is not None:
        encoder = instantiate(config.encoder)

    # measure
    reporter = EvalReporter()
    tables = measure(config, benchmark, encoder, reporter).tables()
    model = config.model.source
    if config.run is not None:
        model = f"{config.model.name} after {config.run}"
    about: GeometrySettings = {
        "model": model,
        "benchmark": benchmark.name,
        "problems": config.problems,
        "responses": config.responses,
        "max_tokens": config.max_tokens,
        "top_p": config.top_p,
        "top_k": config.top_k,
        "seed": config.seed,
        "near_orthogonal": config.near_orthogonal,
        "encoder": getattr(encoder, "name", None),
    }

    # write and show
    write(tables, about, folder)
    tell(tables, about, folder, reporter)
    return float(tables["numbers"].query("metric == 'mean_cosine'")["value"].iloc[0])


def check(config: DictConfig) -> None:
    """Settings that can be refused before a model is loaded.

    Raises:
        ValueError: naming the setting and why it gives no distribution of pairs.
    """
    # numbers
    if config.responses < 2:
        raise ValueError(
            f"responses={config.responses}: one response to a problem makes no pair; ask for at "
            "least 2"
        )
    if config.max_tokens < 1:
        raise ValueError(
            f"max_tokens={config.max_tokens}: there is no budget for a response; set "
            "max_tokens >= 1"
        )

    # temperatures
    for name in ("sampled_at", "scored_at"):
        values = config[name]
        if not OmegaConf.is_list(values) or not values:
            raise ValueError(
                f"{name}={values}: write a list of temperatures, e.g. '{name}=[0.6,1.0]'"
            )
        for value in values:
            if value is None or (math.isfinite(value) and value > 0):
                continue
            reason = ""
            if 0 in values:
                reason = " (greedy samples are all the same, there is no distribution of pairs)"
            raise ValueError(f"{name}={list(values)}: a temperature must be > 0{reason}")
    if None in config.sampled_at:
        raise ValueError(
            "sampled_at holds null: name the sampling temperatures (null is for scored_at)"
        )

    # threshold
    if not 0 < config.near_orthogonal <= 1:
        raise ValueError(f"near_orthogonal must lie in (0, 1], got {config.near_orthogonal}")


def measure(
    config: DictConfig, benchmark: Benchmark, encoder: Any, reporter: EvalReporter
) -> Geometry:
    """Sample each set once, and score it at every scoring temperature."""
    loaded, policy, engine = open_subject(config, benchmark)
    graders = build_graders(read_grading_settings(config.verify))
    geometry_of_sets = Geometry()
    try:
        engine.push_weights()  # once: no weight changes in an analysis
        grader = graders(benchmark.verifier)

        # each sampling temperature once, however often it is scored
        for sampled_at in dict.fromkeys(config.sampled_at):
            with reporter.phase(
                f"sampling at {sampled_at:g}", config.problems * config.responses
            ) as advance:
                groups = sample_groups(
                    benchmark,
                    engine,
                    grader,
                    loaded.tokenizer,
                    problems=config.problems,
                    responses=config.responses,
                    chat=config.model.chat,
                    seed=config.seed,
                    params=SamplingParams(
                        sampled_at, config.top_p, config.top_k, config.max_tokens
                    ),
                    on_progress=advance,
                )

            # the same responses at every temperature of the features
            add_set(
                geometry_of_sets,
                policy,
                groups,
                classes_of(groups, grader),
                sampled_at=sampled_at,
                scored_at=list(config.scored_at),
                threshold=config.near_orthogonal,
                token_budget=config.score_tokens,
                encoder=encoder,
                phase=reporter.phase,
            )
    finally:
        engine.close()
        graders.close()
    return geometry_of_sets


def write(tables: dict[str, pd.DataFrame], about: GeometrySettings, folder: Path) -> None:
    """Write tables, numbers and figures."""
    # tables
    for name in ("pairs", "groups", "responses"):
        with atomic_path(folder / f"{name}.parquet") as aside:
            tables[name].to_parquet(aside, index=False)

    # numbers
    write_json(folder / "geometry.json", summary(tables, about))
    with atomic_path(folder / "table.md") as aside:
        aside.write_text(markdown(tables, about), encoding="utf-8")

    # figures
    draw_geometry(tables, about, folder / "geometry.png")
    if len(tables["responses"][["sampled_at", "scored_at"]].drop_duplicates()) > 1:
        draw_grid(tables, about, folder / "grid.png")


def tell(
    tables: dict[str, pd.DataFrame], about: GeometrySettings, folder: Path, reporter: EvalReporter
) -> None:
    """Print the table, warn where many responses were cut off, and say where the files are."""
    print_parts(reporter.console, cell_parts(tables, about))

    # verdicts and features of responses that were cut short say little
    for sampled_at, responses in tables["responses"].groupby("sampled_at", sort=False):
        cut = (responses["finish"] == "length").mean()
        if cut > CUT_OFF:
            reporter.say(
                f"warning: {cut:.0%} of the responses sampled at {sampled_at:g} were cut at "
                f"max_tokens={about['max_tokens']}; their verdicts and features are of stumps"
            )

    # where the files are
    reporter.say(
        f"written: {folder} (pairs.parquet, groups.parquet, responses.parquet, geometry.json)"
    )
    reporter.say(f"table: {folder / 'table.md'}   figure: {folder / 'geometry.png'}")
    if (folder / "grid.png").exists():
        reporter.say(f"grid: {folder / 'grid.png'}")
