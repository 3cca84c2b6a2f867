"""The whole loop in one file: GRPO on Countdown with the built-in policy, with G2RL or without.

    python experiments/minimal_loop.py --signal g2rl       # or none; about a minute on two cores

This is the place to start reading, and the first example of the Python API. Every formula and every
engine is the library's own, as `g2rl-train` uses it; what this file leaves out are checkpoints,
tables, several processes, external encoders and settings. It draws the same random numbers as
`g2rl-train`, so both do the same up to rounding (tests/whole/test_minimal_loop.py). docs/tour.md
walks through the same stages in the library.

Axis suffixes: P prompts, G responses a prompt, N = P * G, T response tokens (g2rl/types.py).
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from g2rl.engines.rollouts import Rollouts, grouped
from g2rl.engines.transformers import TransformersEngine
from g2rl.evaluation.evaluate import EvalResult, evaluate
from g2rl.exploration import Signal
from g2rl.exploration.g2rl import GradientGuided
from g2rl.exploration.none import NoExploration
from g2rl.formulas.advantages import GroupAdvantage
from g2rl.formulas.losses import LossInputs, PolicyLoss
from g2rl.policy.batching import make_micro_batch, mini_batches, plan_micro_batches
from g2rl.policy.loading import load
from g2rl.policy.policy import Policy
from g2rl.policy.prompts import encode_prompt
from g2rl.policy.scoring import ScoreRequest, Scores, require_scored, score
from g2rl.tasks.benchmarks.countdown import countdown_benchmark
from g2rl.tasks.countdown import Countdown
from g2rl.tasks.grading.grader import Grader
from g2rl.types import GroupBatch, SamplingParams, Verdict

SIGNALS: dict[str, Callable[[], Signal]] = {"none": NoExploration, "g2rl": GradientGuided}
TEMPERATURE = 1.0
TOKEN_BUDGET = 16_384  # padded tokens of one micro-batch
SAMPLING_STREAM, MINI_BATCH_STREAM = 0x7A1B, 0x5417  # of random numbers, named as in the library


@dataclass(frozen=True)
class Settings:
    """What the command line can change; the defaults are those of `g2rl-train`, but for fewer
    steps."""

    signal: str = "g2rl"
    steps: int = 25
    prompts: int = 16
    group_size: int = 16
    mini_batches: int = 2
    learning_rate: float = 2e-4
    kl_coef: float = 0.001
    problems: int = 128
    """Held-out problems of the evaluation, each with `samples` responses."""
    samples: int = 8
    seed: int = 0


class Loop:
    """The policy, what it learns from and what it learns by; `train` runs the steps."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

        # problems, who judges them, and held-out problems that training never draws
        self.task = Countdown()
        self.benchmark = countdown_benchmark(settings.problems, samples=settings.samples, ks=[1])
        self.grader = Grader(self.task.verifier)

        # the policy, the frozen copy that the KL term keeps it near, and the engine that samples
        loaded = load("builtin:tiny")
        self.tokenizer = loaded.tokenizer
        self.policy = Policy(loaded.model)
        self.reference = copy.deepcopy(self.policy).requires_grad_(False)
        self.engine = TransformersEngine(self.policy, self.tokenizer, loaded.stop_ids)
        self.engine.push_weights()

        # from rewards to weights
        self.signal = SIGNALS[settings.signal]()
        self.advantage = GroupAdvantage()
        self.loss = PolicyLoss(kl_coef=settings.kl_coef)
        self.optimizer = torch.optim.AdamW(
            self.policy.parameters(), settings.learning_rate, betas=(0.9, 0.95), weight_decay=0.0
        )

    def train(self) -> list[dict[str, float]]:
        """Evaluate, train, evaluate again; returns the metrics of every step."""
        print(f"held-out pass@1 before: {with_interval(self.evaluate())}")
        history = []
        for step in range(1, self.settings.steps + 1):
            started = time.perf_counter()
            metrics = self.step(step)
            history.append(metrics)
            print(
                f"step {step:3d}   accuracy {metrics['accuracy']:.3f}   "
                f"length {metrics['length']:5.1f}   entropy {metrics['entropy']:.3f}   "
                f"loss {metrics['loss']:+.4f}   kl {metrics['kl']:.5f}   "
                f"{time.perf_counter() - started:.1f} s"
            )
        print(f"held-out pass@1 after:  {with_interval(self.evaluate())}")
        return history

    def evaluate(self) -> EvalResult:
        """Sample the held-out problems and grade the responses, by the verifier alone."""
        return evaluate(
            self.benchmark,
            self.engine,
            self.grader,
            self.tokenizer,
            chat=True,
            seed=self.settings.seed,
        )

    def step(self, step: int) -> dict[str, float]:
        """One training step, counted from 1."""
        # responses of the current policy, and whether they are right
        rollouts = self.sample(step)
        verdicts = self.grader.grade(rollouts.items)

        # log-probabilities and features under the weights that sampled
        needs_features = "features" in self.signal.needs
        request = ScoreRequest(TEMPERATURE, TOKEN_BUDGET, features=needs_features)
        behaviour = score(self.policy, rollouts.sequences, request)
        reference = score(
            self.reference, rollouts.sequences, ScoreRequest(TEMPERATURE, TOKEN_BUDGET)
        )

        # the signal shapes the rewards; the advantage compares them inside each group
        batch = group_batch(step, rollouts, verdicts, behaviour)
        shaped = self.signal(batch)
        advantages_PG, _ = self.advantage(shaped.rewards_PG, batch.rewards_PG)

        # the policy learns; the engine takes over its new weights
        metrics = self.update(step, rollouts, advantages_PG, behaviour, reference)
        self.engine.push_weights()
        metrics["accuracy"] = batch.correct_PG.float().mean().item()
        metrics["length"] = batch.lengths_PG.float().mean().item()
        metrics["entropy"] = behaviour.mean_entropy_N.mean().item()
        return metrics

    def sample(self, step: int) -> Rollouts:
        """P fresh problems and G responses to each; a function of (seed, step, weights)."""
        settings = self.settings
        count = settings.prompts
        problems = self.task.batch(settings.seed, (step - 1) * count, count)
        prompts = [encode_prompt(self.tokenizer, problem.prompt, chat=True) for problem in problems]
        keys = [(settings.seed, SAMPLING_STREAM, step, place) for place in range(count)]
        params = SamplingParams(temperature=TEMPERATURE, max_tokens=120)
        completions = self.engine.generate(prompts, keys, settings.group_size, params)
        return Rollouts(problems, prompts, completions)

    def update(
        self,
        step: int,
        rollouts: Rollouts,
        advantages_PG: Tensor,
        behaviour: Scores,
        reference: Scores,
    ) -> dict[str, float]:
        """One optimizer step for every mini-batch of whole groups; returns means over them."""
        sequences = rollouts.sequences
        key = (self.settings.seed, MINI_BATCH_STREAM, step, 0)
        rows_of_mini_batches = mini_batches(rollouts.group_N, self.settings.mini_batches, key)
        totals = {"loss": 0.0, "kl": 0.0, "clip_fraction": 0.0, "grad_norm": 0.0}

        self.policy.train()
        for rows in rows_of_mini_batches:
            # every token of the mini-batch weighs the same, whatever micro-batch it is in
            token_share = 1.0 / float(sequences.lengths_N[rows].sum())

            # the gradient of the mini-batch is the sum over its micro-batches
            self.optimizer.zero_grad()
            for micro_rows in plan_micro_batches(sequences, rows, TOKEN_BUDGET):
                micro_batch = make_micro_batch(sequences, micro_rows, self.policy.device)
                output = self.policy(micro_batch, TEMPERATURE)
                advantages_T = advantages_PG.flatten()[micro_rows].to(self.policy.device)
                advantages_T = advantages_T[micro_batch.segments_T]
                shares_T = torch.full_like(advantages_T, token_share)
                inputs = LossInputs(
                    logps_T=output.logps_T,
                    old_logps_T=self.tokens_of(behaviour, micro_rows),
                    ref_logps_T=self.tokens_of(reference, micro_rows),
                    entropy_T=output.entropy_T,
                    advantages_T=advantages_T,
                    weights_T=shares_T,
                    token_share_T=shares_T,
                    segments_T=micro_batch.segments_T,
                    rows=len(micro_rows),
                )
                loss, parts = self.loss(inputs)
                loss.backward()
                totals["loss"] += loss.item()
                totals["kl"] += parts["kl"].item()
                totals["clip_fraction"] += parts["clip_fraction"].item()

            # one step along it
            norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), 1.0)
            self.optimizer.step()
            totals["grad_norm"] += norm.item()
        return {name: value / len(rows_of_mini_batches) for name, value in totals.items()}

    def tokens_of(self, scores: Scores, rows: list[int]) -> Tensor:
        """Log-probabilities of the response tokens of some rows, one row after the other, (T,)."""
        logps = require_scored([scores.logps[n] for n in rows])
        return torch.cat(logps).to(self.policy.device)


def group_batch(
    step: int, rollouts: Rollouts, verdicts: list[Verdict], behaviour: Scores
) -> GroupBatch:
    """What a signal looks at: rewards, verdicts, lengths, entropies and features by group."""
    shape = rollouts.shape
    features_PGD = None
    if behaviour.features_ND is not None:
        features_PGD = grouped(behaviour.features_ND, shape)
    return GroupBatch(
        rewards_PG=grouped(torch.tensor([verdict.reward for verdict in verdicts]), shape),
        correct_PG=grouped(torch.tensor([verdict.correct for verdict in verdicts]), shape),
        lengths_PG=grouped(rollouts.sequences.lengths_N, shape),
        entropy_PG=grouped(behaviour.mean_entropy_N, shape),
        features_PGD=features_PGD,
        step=step,
    )


def with_interval(result: EvalResult) -> str:
    """Held-out pass@1 with its 95 % bootstrap interval over problems."""
    interval = result.intervals["pass@1"]
    return f"{result.metrics['pass@1']:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def main() -> None:
    """Read the settings from the command line and train."""
    parser = argparse.ArgumentParser(description="The whole loop of g2rl in one file.")
    defaults = Settings()
    parser.add_argument("--signal", choices=sorted(SIGNALS), default=defaults.signal)
    for name in ("steps", "prompts", "group_size", "mini_batches", "problems", "samples", "seed"):
        parser.add_argument(f"--{name}", type=int, default=getattr(defaults, name))
    for name in ("learning_rate", "kl_coef"):
        parser.add_argument(f"--{name}", type=float, default=getattr(defaults, name))
    Loop(Settings(**vars(parser.parse_args()))).train()


if __name__ == "__main__":
    main()
