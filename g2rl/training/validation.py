"""What a run measures between training steps: held-out accuracy, and the geometry probe."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from g2rl.engines.rollouts import grouped
from g2rl.evaluation.evaluate import EvalResult, evaluate
from g2rl.formulas.pairs import probe_table
from g2rl.formulas.tensors import cosine_matrix
from g2rl.policy.batching import Sequences
from g2rl.policy.scoring import score
from g2rl.training.parts import Parts
from g2rl.training.settings import TrainerSettings
from g2rl.training.step_metrics import verdict_shares

if TYPE_CHECKING:  # figures need this module, and not the model library behind that one
    from g2rl.evaluation.evaluate import EvalResult


def examine(parts: Parts, settings: TrainerSettings, step: int) -> dict[str, float]:
    """Held-out accuracy; at the first and last step with all samples and the geometry probe."""
    final = step in (0, settings.steps)
    started = time.perf_counter()
    metrics: dict[str, float] = {}
    for place, (benchmark, grader) in enumerate(parts.benchmarks):
        validation = min(settings.eval_samples, benchmark.samples)
        count = benchmark.samples if final else validation
        own = len(parts.world.deal(benchmark.problems))
        with parts.reporter.phase(benchmark.name, own * count) as advance:
            result = evaluate(
                benchmark,
                parts.engine,
                grader,
                parts.tokenizer,
                chat=parts.chat,
                seed=settings.seed,
                samples=count,
                on_progress=advance,
                world=parts.world,
            )
        parts.reporter.evaluated(step, result)
        # the grader's are taken here, so that the next step's verify/ metrics are of that step alone
        found = result.metrics | verdict_shares(parts.world, grader.metrics())
        found[f"mean@{validation}"] = found["pass@1"]  # whatever n: every sample is used
        metrics |= {f"eval/{result.name}/{name}": value for name, value in found.items()}
        if final and place == 0 and settings.probe_problems and benchmark.params.temperature:
            metrics |= probe(parts, settings, step, result)
    return {**metrics, "time/evaluate": time.perf_counter() - started}


def probe(
    parts: Parts, settings: TrainerSettings, step: int, result: EvalResult
) -> dict[str, float]:
    """Gradient geometry of the policy on held-out problems, whatever the signal (Figure 3's protocol).

    Not for greedy samples: they have no distribution whose gradient directions could differ.
    """
    sequences, correct_PG = probe_sequences(result, settings.probe_problems, settings.probe_samples)
    params = parts.benchmarks[0][0].params
    scores = score(
        parts.policy,
        sequences,
        temperature=params.temperature,
        token_budget=settings.score_tokens,
        features=True,
        feature_temperature=settings.feature_temperature,
        world=parts.world,
    )
    assert scores.features_ND is not None
    cosine_PGG, _ = cosine_matrix(grouped(scores.features_ND, tuple(correct_PG.shape)))  # type: ignore[arg-type]
    columns, metrics = probe_table(cosine_PGG, correct_PG)
    # these decide the mean cosine (docs/method.md) and belong into the caption of every figure of it
    metrics |= {
        "sampled_at": params.temperature,
        "top_p": params.top_p,
        "top_k": float(params.top_k),
    }
    metrics["scored_at"] = settings.feature_temperature or params.temperature
    parts.tracker.table("probe", step, columns)
    return {f"probe/{name}": value for name, value in metrics.items()}


def probe_sequences(result: EvalResult, problems: int, samples: int) -> tuple[Sequences, Tensor]:
    """The first `samples` responses to the first `problems` problems, and their verdicts (P, G)."""
    prompts: list[list[int]] = []
    responses: list[list[int]] = []
    correct: list[list[bool]] = []
    for prompt, completions, verdicts in list(
        zip(result.prompts, result.completions, result.verdicts, strict=True)
    )[:problems]:
        prompts.extend([prompt] * len(completions[:samples]))
        responses.extend(completion.token_ids for completion in completions[:samples])
        correct.append([verdict.correct for verdict in verdicts[:samples]])
    return Sequences(prompts, responses), torch.tensor(correct)
