"""What `g2rl generate` does: load a run's policy, ask it, and print its responses."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from g2rl.cli.build.benchmarks import build_benchmarks, build_graders
from g2rl.cli.build.model import build_engine, build_policy, load_model, model_of_run
from g2rl.cli.build.settings import read_grading_settings, read_model_settings
from g2rl.cli.config.choices import config_dir
from g2rl.cli.config.own_code import make_importable, named_code
from g2rl.cli.folder import read_config_file
from g2rl.engines.engine import Engine
from g2rl.evaluation.evaluate import respond
from g2rl.evaluation.samples import shown
from g2rl.policy.loading import LoadedModel
from g2rl.policy.prompts import encode_prompt
from g2rl.runs.identity import as_of_today
from g2rl.runs.layout import RunFolder
from g2rl.tasks.benchmarks.benchmark import Benchmark
from g2rl.types import SamplingParams

ENGINE = {"_target_": "g2rl.engines.transformers.TransformersEngine", "drift_every": 0}
"""A few responses need no engine of their own, whatever the run sampled with."""
OWN_STREAM = 0x0A5C
"""Part of the keys of prompts of the user's own, which no problem has."""


@dataclass(slots=True, frozen=True)
class Question:
    """What a policy is asked, and how responses are drawn."""

    prompts: Sequence[str]
    """Of the user's own; nothing grades their responses."""
    problems: int
    """So many of the first held-out problems of the run."""
    samples: int
    """Responses to each."""
    temperature: float | None
    """None takes the benchmark's."""
    seed: int


@dataclass(slots=True, frozen=True)
class OwnCode:
    """Whether code may run that the run's configuration names and that is not g2rl's."""

    may_run: bool = False
    folders: Sequence[Path] = ()
    """Of --config-dir; nothing in them is looked at unless it may run."""


def generate(
    run: Path, checkpoint: str | None, question: Question, own_code: OwnCode = OwnCode()
) -> None:
    """Print the responses of a run's policy.

    Args:
        run: folder of the run.
        checkpoint: best, newest or a step; None takes the exported model, and of a run that has
            not ended the newest checkpoint.
        question: what is asked.
        own_code: what may run, and where it lies.

    Raises:
        ValueError: no run, no such checkpoint, or code that may not run.
    """
    # the policy
    if checkpoint is None and not RunFolder(run).model.is_dir():
        checkpoint = "newest"
    node = model_of_run(run.expanduser(), [], checkpoint)
    stored = OmegaConf.to_container(read_config_file(RunFolder(run).config))
    config: Any = OmegaConf.create(as_of_today(stored))

    # a suite is asked through its first member
    if not isinstance(config.get("benchmark"), DictConfig):
        raise ValueError(f"run={run}: its config.yaml has no settings of a benchmark")
    problems: Any = OmegaConf.to_container(config.benchmark, resolve=True)
    if not own_code.may_run:
        refuse_own_code(problems, run)
    else:
        make_importable(problems, [folder.resolve() for folder in own_code.folders])
    benchmark = build_benchmarks(OmegaConf.create(problems))[0]
    if question.temperature is not None:
        temperature = question.temperature
        benchmark.params = dataclasses.replace(benchmark.params, temperature=temperature)

    # weights, and an engine over them
    loaded = load_model(read_model_settings(node))
    policy = build_policy(loaded, read_model_settings(node))
    engine = build_engine(OmegaConf.create(ENGINE), policy, loaded)
    engine.push_weights()

    # what it answers
    console = Console(highlight=False)
    try:
        own_prompts(question, engine, loaded, node.chat, benchmark.params, console)
        held_out(question, benchmark, engine, loaded, config, console)
    finally:
        engine.close()


def refuse_own_code(node: Any, run: Path) -> None:
    """Refuse problems that are built or graded by anything but g2rl's own classes.

    The configuration in the folder of a run names code, and a folder from elsewhere may name any.

    Args:
        node: node `benchmark` of a stored configuration, resolved.
        run: folder of the run.

    Raises:
        ValueError: naming the code; the message says how to run it all the same.
    """
    # what g2rl's own benchmarks are built by
    known: set[str] = set()
    for file in sorted((config_dir() / "benchmark").rglob("*.yaml")):
        names = named_code(OmegaConf.to_container(OmegaConf.load(file)))
        known |= {name for _, name in names if name.startswith("g2rl.")}

    # reward functions and tasksets are code of the user's own, named by settings of g2rl's
    for _, name in named_code(node):
        if name not in known:
            raise ValueError(
                f"run={run}: its config.yaml has {name!r} build or grade the problems, which is "
                "not g2rl's own code: --own-code runs it, if you trust this folder"
            )


def own_prompts(
    question: Question,
    engine: Engine,
    loaded: LoadedModel,
    chat: bool,
    params: SamplingParams,
    console: Console,
) -> None:
    """Ask prompts of the user's own and print the responses, which nothing grades."""
    for number, prompt in enumerate(question.prompts):
        ids = encode_prompt(loaded.tokenizer, prompt, chat)
        key = (question.seed, OWN_STREAM, number)
        [completions] = engine.generate([ids], [key], question.samples, params)
        for completion in completions:
            console.print(shown(prompt, completion, None), markup=False)


def held_out(
    question: Question,
    benchmark: Benchmark,
    engine: Engine,
    loaded: LoadedModel,
    config: DictConfig,
    console: Console,
) -> None:
    """Ask the first held-out problems of the run and print responses with their verdicts."""
    count = min(question.problems, len(benchmark.problems))
    if count == 0:
        return

    # the random numbers are those of an evaluation with this seed
    graders = build_graders(read_grading_settings(config.verify))
    try:
        responses = respond(
            benchmark,
            range(count),
            engine,
            graders(benchmark.verifier),
            loaded.tokenizer,
            chat=config.model.chat,
            seed=question.seed,
            samples=question.samples,
        )
    finally:
        graders.close()

    # one block a response
    for place, completions in enumerate(responses.completions):
        problem = benchmark.problems[place]
        for completion, verdict in zip(completions, responses.verdicts[place], strict=True):
            console.print(shown(problem.prompt, completion, verdict), markup=False)
