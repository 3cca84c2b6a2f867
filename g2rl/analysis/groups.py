"""Draw whole groups of responses from a policy and grade them: the start of every analysis of one.

The random numbers of a response are a function of (seed, problem, sample), the same as in an
evaluation, so that two checkpoints are compared on common random numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from g2rl.engines.engine import Engine
from g2rl.engines.rollouts import Rollouts
from g2rl.evaluation.evaluate import respond
from g2rl.tasks.benchmarks.benchmark import Benchmark
from g2rl.tasks.grading.grader import Grader
from g2rl.types import SamplingParams, Tokenizer, Verdict


@dataclass(slots=True)
class GradedGroups:
    """P groups of G responses, and the verifier's verdict on each response."""

    rollouts: Rollouts
    verdicts: list[list[Verdict]]
    """P lists of G."""

    @property
    def correct_PG(self) -> Tensor:
        """Whether each response is right, boolean."""
        return torch.tensor([[verdict.correct for verdict in group] for group in self.verdicts])


def sample_groups(
    benchmark: Benchmark,
    engine: Engine,
    grader: Grader,
    tokenizer: Tokenizer,
    *,
    problems: int,
    responses: int,
    params: SamplingParams,
    chat: bool,
    seed: int,
    on_progress: Callable[[int], None] | None = None,
) -> GradedGroups:
    """`responses` responses to each of the first `problems` problems of a benchmark, graded.

    Args:
        benchmark: gives the problems and their verifier; its own sampling settings are not used.
        grader: of the benchmark's verifier.
        params: how responses are drawn.
        chat: render prompts through the chat template.
        on_progress: called with the number of newly finished responses.

    Raises:
        ValueError: fewer than two responses (there would be no pair), or more problems than the
            benchmark has.
    """
    # before anything is sampled
    if responses < 2:
        raise ValueError(
            f"responses={responses}: pairs of responses are compared, so at least 2 are needed"
        )
    if not 1 <= problems <= len(benchmark.problems):
        raise ValueError(
            f"problems={problems}: {benchmark.name} has {len(benchmark.problems)}; "
            "ask for 1 to that many"
        )

    # the same benchmark, shorter and with the sampling asked for
    first_problems = Benchmark(
        benchmark.name,
        benchmark.problems[:problems],
        benchmark.verifier,
        samples=responses,
        ks=[1],
        params=params,
    )
    prompts, completions, verdicts = respond(
        first_problems,
        range(problems),
        engine,
        grader,
        tokenizer,
        chat=chat,
        seed=seed,
        samples=responses,
        on_progress=on_progress,
    )
    return GradedGroups(Rollouts(first_problems.problems, prompts, completions), verdicts)
