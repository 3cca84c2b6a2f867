"""Alarms: what in metrics.jsonl deserves a look, warned of once each.

Every alarm is a condition on the last training rows; docs/faults.md lists them. It needs nothing but the
rows, so a run that continues from a checkpoint neither repeats nor forgets a warning.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

log = logging.getLogger(__name__)
Row = Mapping[str, float]


@dataclass(slots=True, frozen=True)
class HealthLimits:
    """conf/train.yaml, node `health`; means are over the last `window` training steps.

    Args:
        window: steps that a mean runs over; no alarm before so many are there.
        entropy: entropy_collapse below this mean token entropy, in nats.
        uniform: no_contrast above this share of groups whose base rewards are all equal.
        ratio: score_mismatch when a step's first importance ratio is further than this from 1.
        sampler: sampler_mismatch above this mean KL between the engine that sampled and the trainer, nats.
        truncated: truncation above this share of responses cut at the token limit.
        timeouts: grader_failures above this share of verdicts that timed out or killed their worker.
        skipped: bad_numbers above this share of a step's optimizer updates skipped.
        empty: empty_responses above this share of responses without text.
        unsolved_steps: no_reward after this many steps in a row without one correct response.
    """

    window: int = 5
    entropy: float = 0.02
    uniform: float = 0.95
    ratio: float = 0.05
    sampler: float = 0.02
    truncated: float = 0.5
    timeouts: float = 0.05
    skipped: float = 0.0
    empty: float = 0.5
    unsolved_steps: int = 10

    def __post_init__(self) -> None:
        for name in ("window", "unsolved_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"health.{name} must be >= 1, got {getattr(self, name)}")
        for name in (
            "entropy",
            "uniform",
            "ratio",
            "sampler",
            "truncated",
            "timeouts",
            "skipped",
            "empty",
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"health.{name} must be >= 0, got {getattr(self, name)}")


def mean(rows: list[Row], window: int, *names: str) -> float | None:
    """Mean over the last `window` rows of the sum of some metrics; None without so many rows or a metric."""
    last = rows[-window:]
    if len(last) < window or any(name not in row for row in last for name in names):
        return None
    return sum(row[name] for row in last for name in names) / window


def entropy_collapse(rows: list[Row], limits: HealthLimits) -> str | None:
    value = mean(rows, limits.window, "train/entropy")
    if value is None or value >= limits.entropy:
        return None
    return f"mean token entropy is {value:.4f} nats: samples hardly differ; lower optimizer.lr, raise kl_coef"


def no_contrast(rows: list[Row], limits: HealthLimits) -> str | None:
    value = mean(rows, limits.window, "advantage/uniform_correct", "advantage/uniform_wrong")
    if value is None or value <= limits.uniform:
        return None
    return f"{value:.0%} of the groups are all right or all wrong: the verifier teaches (almost) nothing"


def score_mismatch(rows: list[Row], limits: HealthLimits) -> str | None:
    value = rows[-1].get("update/first_ratio")
    if value is None or abs(value - 1) <= limits.ratio:
        return None
    return (
        f"the first importance ratio of the step is {value:.4f}, not 1: scoring and update differ"
    )


def sampler_mismatch(rows: list[Row], limits: HealthLimits) -> str | None:
    value = mean(rows, limits.window, "update/sampler_kl")
    if value is None or value <= limits.sampler:
        return None
    return f"KL of the sampling engine to the trainer is {value:.4f} nats a token: another dtype, or old weights"


def truncation(rows: list[Row], limits: HealthLimits) -> str | None:
    value = mean(rows, limits.window, "train/truncated")
    if value is None or value <= limits.truncated:
        return None
    return f"{value:.0%} of the responses reach the token limit; raise task.max_response_tokens"


def grader_failures(rows: list[Row], limits: HealthLimits) -> str | None:
    value = mean(rows, limits.window, "verify/timeout", "verify/killed")
    if value is None or value <= limits.timeouts:
        return None
    return f"{value:.0%} of the verdicts timed out or lost their worker and count as wrong; see verify.*"


def bad_numbers(rows: list[Row], limits: HealthLimits) -> str | None:
    value = mean(rows, 1, "update/skipped")
    if value is None or value <= limits.skipped:
        return None
    return f"{value:.0%} of the updates were skipped: a loss, gradient or feature was not finite"


def empty_responses(rows: list[Row], limits: HealthLimits) -> str | None:
    value = mean(rows, limits.window, "train/empty")
    if value is None or value <= limits.empty:
        return None
    return f"{value:.0%} of the responses hold no text"


def no_reward(rows: list[Row], limits: HealthLimits) -> str | None:
    last = rows[-limits.unsolved_steps :]
    if len(last) < limits.unsolved_steps or any(
        row.get("train/solved_any", 1.0) > 0 for row in last
    ):
        return None
    return f"no correct response in {limits.unsolved_steps} steps: the task is too hard, or no answer is read"


Check = Callable[[list[Row], HealthLimits], str | None]
ALARMS: dict[str, Check] = {
    check.__name__: check
    for check in (
        entropy_collapse,
        no_contrast,
        score_mismatch,
        sampler_mismatch,
        truncation,
        grader_failures,
        bad_numbers,
        empty_responses,
        no_reward,
    )
}


def alarms(rows: list[Row], limits: HealthLimits) -> dict[str, str]:
    """Alarms that hold after the last of the training rows, with what to say."""
    found = {name: check(rows, limits) for name, check in ALARMS.items()}
    return {name: message for name, message in found.items() if message is not None}


class Watch:
    """Warns of each alarm the first time it holds.

    Args:
        rows: those already written; what held after any of them is not warned of again.
    """

    def __init__(self, limits: HealthLimits, rows: Iterable[Row] = ()) -> None:
        self.limits = limits
        self.rows: list[Row] = []
        self.raised: set[str] = set()
        for row in rows:
            self._new(row)

    def __call__(self, row: Row) -> dict[str, str]:
        """Take the row of a step; warns of, and returns, the alarms that are new."""
        new = self._new(row)
        for name, message in new.items():
            log.warning("health alarm %s at step %d: %s", name, int(row["step"]), message)
        return new

    def _new(self, row: Row) -> dict[str, str]:
        if row["step"] < 1:  # the evaluation before training
            return {}
        self.rows = [*self.rows, row][-max(self.limits.window, self.limits.unsolved_steps) :]
        new = {
            n: text for n, text in alarms(self.rows, self.limits).items() if n not in self.raised
        }
        self.raised |= set(new)
        return new
