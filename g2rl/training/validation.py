"""What a run measures between training steps: held-out accuracy, and the geometry probe."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from g2rl.engines.engine import Engine
from g2rl.engines.rollouts import grouped, in_groups
from g2rl.evaluation.evaluate import EvalResult, evaluate
from g2rl.evaluation.samples import shown
from g2rl.formulas.feature_sums import first_alike, identical_pairs, identity_metrics
from g2rl.formulas.pairs import cosine_metrics, pair_table, pair_values
from g2rl.formulas.tensors import cosine_matrix
from g2rl.policy.batching import Sequences
from g2rl.policy.policy import Policy
from g2rl.policy.scoring import ScoreRequest, score
from g2rl.runs.tracking import Tracker
from g2rl.tasks.benchmarks.benchmark import Benchmark
from g2rl.tasks.grading.grader import Grader
from g2rl.training.bad_numbers import bad_rows
from g2rl.training.console import Reporter
from g2rl.training.settings import TrainerSettings
from g2rl.training.step_metrics import Clock, verdict_shares
from g2rl.types import Tokenizer
from g2rl.world import World

log = logging.getLogger(__name__)


@dataclass(slots=True, frozen=True)
class HeldOut:
    """A held-out problem set and the grader that judges its answers."""

    benchmark: Benchmark
    grader: Grader


class Validation:
    """Evaluates the policy on held-out problems; call it with the number of the step.

    Before the first and after the last step all samples of a benchmark are drawn and the geometry
    is probed on the first benchmark. In between, `settings.eval_samples` samples a problem are
    drawn.

    Args:
        held_out: the problem sets.
        policy: is probed.
        engine: draws the responses.
        tokenizer: of the policy.
        chat: prompts go through the tokenizer's chat template.
        tracker: writes the probe's table.
        reporter: is told what is going on.
        settings: the loop's settings.
        world: the ranks that divide the problems.
        on_lap: is told when an evaluation ends; see `Clock`.
    """

    def __init__(
        self,
        held_out: Sequence[HeldOut],
        *,
        policy: Policy,
        engine: Engine,
        tokenizer: Tokenizer,
        chat: bool,
        tracker: Tracker,
        reporter: Reporter,
        settings: TrainerSettings,
        world: World,
        on_lap: Callable[[str], None] | None = None,
    ) -> None:
        self.on_lap = on_lap
        self.held_out = list(held_out)
        self.policy, self.engine = policy, engine
        self.tokenizer, self.chat = tokenizer, chat
        self.tracker, self.reporter = tracker, reporter
        self.settings, self.world = settings, world

    def __call__(self, step: int) -> dict[str, float]:
        """Metrics of the policy after a step, named eval/BENCHMARK/QUANTITY and probe/QUANTITY."""
        clock = Clock(self.on_lap)
        is_first_or_last = step in (0, self.settings.steps)

        # the probe is taken on the first benchmark alone, before and after training
        metrics: dict[str, float] = {}
        for place, held_out in enumerate(self.held_out):
            result, benchmark_metrics = self._evaluate(step, held_out, all_samples=is_first_or_last)
            metrics |= benchmark_metrics
            if is_first_or_last and place == 0 and self._can_probe(held_out.benchmark):
                metrics |= self._probe(step, held_out.benchmark, result)
        clock.lap("evaluate")
        return metrics | clock.laps

    def _evaluate(
        self, step: int, held_out: HeldOut, all_samples: bool
    ) -> tuple[EvalResult, dict[str, float]]:
        """Sample and grade one problem set."""
        # how many responses to each problem
        benchmark, grader = held_out.benchmark, held_out.grader
        fewer_samples = min(self.settings.eval_samples, benchmark.samples)
        samples = benchmark.samples if all_samples else fewer_samples

        # the ranks divide the problems, and progress is that of this rank
        own_problem_count = len(self.world.deal(benchmark.problems))
        with self.reporter.phase(benchmark.name, own_problem_count * samples) as advance:
            result = evaluate(
                benchmark,
                self.engine,
                grader,
                self.tokenizer,
                chat=self.chat,
                seed=self.settings.seed,
                samples=samples,
                on_progress=advance,
                world=self.world,
            )
        self.reporter.evaluated(step, result)
        self.reporter.samples(shown_samples(benchmark, result, self.settings.shown_samples))

        # the grader's counts are taken here, so that the next step's verify/ metrics are of that
        # step alone
        metrics = result.metrics | verdict_shares(self.world, grader.metrics())

        # one name that holds at every evaluation: pass@1 uses all samples, however many were drawn
        metrics[f"mean@{fewer_samples}"] = metrics["pass@1"]
        return result, {f"eval/{result.name}/{name}": value for name, value in metrics.items()}

    def _can_probe(self, benchmark: Benchmark) -> bool:
        """Greedy samples are not probed: they have no distribution whose gradient directions could
        differ."""
        return self.settings.probe_problems > 0 and benchmark.params.temperature > 0

    def _probe(self, step: int, benchmark: Benchmark, result: EvalResult) -> dict[str, float]:
        """Gradient geometry of the policy on held-out problems, whatever the training signal.

        This is the protocol of Figure 3 of arXiv 2512.15687. The pairs go into the table `probe`.
        """
        # a few responses to a few problems
        sequences, correct_PG = probe_sequences(
            result, self.settings.probe_problems, self.settings.probe_samples
        )
        params = benchmark.params
        request = ScoreRequest(
            temperature=params.temperature,
            token_budget=self.settings.score_tokens,
            features=True,
            feature_temperature=self.settings.feature_temperature,
        )
        scores = score(self.policy, sequences, request, self.world)
        assert scores.features_ND is not None

        # no training depends on what is only measured, so a failure costs these metrics alone
        prompt_count, sample_count = correct_PG.shape
        features_PGD = grouped(scores.features_ND, (prompt_count, sample_count))
        bad_problems = bad_rows(features_PGD)
        if bad_problems:
            return self._failed_probe(step, f"features are not finite in problems {bad_problems}")

        # cosines inside each problem
        cosine_PGG, _ = cosine_matrix(features_PGD)
        columns = pair_table(cosine_PGG, correct_PG)
        metrics = cosine_metrics(cosine_PGG, correct_PG)

        # what the zero-mean identity is about, and which pairs are of one response twice
        first_PG = first_alike(in_groups(sequences.responses, sample_count))
        lengths_PG = grouped(sequences.lengths_N, (prompt_count, sample_count))
        metrics |= identity_metrics(features_PGD, lengths_PG, cosine_PGG, first_PG)
        columns["identical"] = pair_values(identical_pairs(first_PG)).flatten().tolist()

        # these decide the mean cosine (docs/method.md) and belong into the caption of every figure
        # of it
        metrics |= {
            "sampled_at": params.temperature,
            "top_p": params.top_p,
            "top_k": float(params.top_k),
            "scored_at": self.settings.feature_temperature or params.temperature,
        }
        overflown = [name for name, value in metrics.items() if not math.isfinite(value)]
        if overflown:
            return self._failed_probe(step, f"not finite: {', '.join(overflown)}")
        self.tracker.table("probe", step, columns)
        return {f"probe/{name}": value for name, value in metrics.items()}

    def _failed_probe(self, step: int, reason: str) -> dict[str, float]:
        """What a probe logs that could not measure."""
        if self.world.first:
            log.warning("step %d: the probe measured nothing: %s", step, reason)
        return {"probe/failed": 1.0}


def shown_samples(benchmark: Benchmark, result: EvalResult, count: int) -> list[str]:
    """The first response to each of the first `count` problems, as text for a terminal."""
    texts: list[str] = []
    for place in range(min(count, len(benchmark.problems))):
        prompt = benchmark.problems[place].prompt
        completion, verdict = result.completions[place][0], result.verdicts[place][0]
        texts.append(shown(prompt, completion, verdict))
    return texts


def probe_sequences(
    result: EvalResult, problem_count: int, sample_count: int
) -> tuple[Sequences, Tensor]:
    """The first samples of the first problems of an evaluation.

    Args:
        result: the evaluation.
        problem_count: problems to take, P at most.
        sample_count: responses of each to take, G at most.

    Returns:
        P * G prompt-response pairs, prompt-major, and their verdicts (P, G).
    """
    prompts: list[list[int]] = []
    responses: list[list[int]] = []
    correct: list[list[bool]] = []
    problems = zip(result.prompts, result.completions, result.verdicts, strict=True)

    # prompt-major
    for prompt, completions, verdicts in list(problems)[:problem_count]:
        for completion in completions[:sample_count]:
            prompts.append(prompt)
            responses.append(completion.token_ids)
        correct.append([verdict.correct for verdict in verdicts[:sample_count]])
    return Sequences(prompts, responses), torch.tensor(correct)
