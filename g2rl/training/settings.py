"""Settings of the training loop, checked before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from g2rl.types import SamplingParams

MUST_BE_POSITIVE = (
    "max_prompt_tokens",
    "score_tokens",
    "steps",
    "prompts_per_step",
    "group_size",
    "eval_samples",
    "checkpoint_every",
    "probe_samples",
)
MUST_NOT_BE_NEGATIVE = (
    "eval_every",
    "tables_every",
    "probe_problems",
    "shown_samples",
    "seed",
    "lag",
)


@dataclass(slots=True, frozen=True)
class TrainerSettings:
    """What the loop does: node `trainer` of conf/train.yaml, with the four settings noted below.

    Args:
        sampling: how training responses are drawn; node `task`.
        max_prompt_tokens: longer prompts are refused; node `task`.
        score_tokens: padded tokens of one scoring micro-batch.
        feature_temperature: temperature of p_t in the gradient features; None is the sampling
            temperature. Node `exploration`.
        steps: rollout batches to train on.
        prompts_per_step, group_size: P and G.
        sampling_rounds: the most rounds in which uniform groups are replaced; 1 replaces none.
            Node `algorithm`.
        seed: decides everything random; top level.
        lag: responses are drawn by the weights of so many steps ago; 0: by the present ones.
        eval_every: steps between evaluations in between; 0 evaluates before and after only.
        eval_samples: samples a problem for those; the first and the last use the benchmark's own n.
        checkpoint_every: steps between checkpoints.
        tables_every: steps between rollouts/geometry files; 0 writes none.
        probe_problems, probe_samples: held-out problems and responses of the geometry probe; 0
            skips it.
        shown_samples: responses of each evaluation that are printed; 0 prints none.
    """

    sampling: SamplingParams
    max_prompt_tokens: int = 1024
    score_tokens: int = 16_384
    feature_temperature: float | None = None
    steps: int = 50
    prompts_per_step: int = 16
    group_size: int = 16
    sampling_rounds: int = 1
    seed: int = 0
    lag: int = 0
    eval_every: int = 10
    eval_samples: int = 8
    checkpoint_every: int = 10
    tables_every: int = 1
    probe_problems: int = 30
    probe_samples: int = 8
    shown_samples: int = 0

    def __post_init__(self) -> None:
        # sampling
        if self.sampling.temperature == 0:
            raise ValueError(
                "task.temperature must be > 0 in training: greedy samples of a group are all the "
                f"same, got {self.sampling.temperature}"
            )

        # counts
        for name in MUST_BE_POSITIVE:
            if getattr(self, name) < 1:
                raise ValueError(f"trainer.{name} must be >= 1, got {getattr(self, name)}")
        if self.sampling_rounds < 1:
            raise ValueError(
                f"algorithm.sampling_rounds must be >= 1 (1 replaces no group), "
                f"got {self.sampling_rounds}"
            )
        for name in MUST_NOT_BE_NEGATIVE:
            if getattr(self, name) < 0:
                raise ValueError(f"trainer.{name} must be >= 0, got {getattr(self, name)}")
        if self.feature_temperature is not None and self.feature_temperature <= 0:
            raise ValueError(f"feature_temperature must be > 0, got {self.feature_temperature}")
