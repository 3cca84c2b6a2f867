"""Alarms: what in metrics.jsonl deserves a look, warned of once each.

Every alarm is a condition on the last training rows; docs/faults.md lists them. The rows are all
that an alarm looks at, so a run that continues from a checkpoint neither repeats nor forgets a
warning.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields

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
        drift: sampler_drift above this share of the tolerated difference between the
            log-probabilities that responses were drawn from and those of scoring; above 1 the run
            stops.
        sampler: sampler_mismatch above this mean KL between the engine that sampled and the
            trainer, nats.
        truncated: truncation above this share of responses cut at the token limit.
        timeouts: grader_failures above this share of verdicts that timed out or killed their
            worker.
        skipped: bad_numbers above this share of a step's optimizer updates skipped.
        empty: empty_responses above this share of responses without text.
        unsolved_steps: no_reward after this many steps in a row without one correct response.
    """

    window: int = 5
    entropy: float = 0.02
    uniform: float = 0.95
    ratio: float = 0.05
    drift: float = 0.5
    sampler: float = 0.02
    truncated: float = 0.5
    timeouts: float = 0.05
    skipped: float = 0.0
    empty: float = 0.5
    unsolved_steps: int = 10

    def __post_init__(self) -> None:
        # a window of no steps has no mean
        counts = ("window", "unsolved_steps")
        for field in fields(self):
            least = 1 if field.name in counts else 0
            value = getattr(self, field.name)
            if value < least:
                raise ValueError(f"health.{field.name} must be >= {least}, got {value}")


@dataclass(slots=True, frozen=True)
class MeanAlarm:
    """Holds while the mean of a metric over the last training steps is beyond a limit."""

    name: str
    metrics: tuple[str, ...]
    """The metrics whose sum is averaged."""
    limit: str
    """Field of `HealthLimits`."""
    message: str
    """What to say; {value} is the mean."""
    below: bool = False
    """Whether values below the limit are bad; otherwise values above it are."""
    only_last_step: bool = False
    """Whether the last step alone decides; otherwise the mean runs over `HealthLimits.window`
    steps."""
    unless: str = ""
    """A metric that rows have only where the values are meant to be bad; then nothing is said."""

    def __call__(self, rows: Sequence[Row], limits: HealthLimits) -> str | None:
        """The message if the alarm holds after the last of the rows, else None."""
        window = 1 if self.only_last_step else limits.window
        value = mean_of_last(rows, window, self.metrics)

        # too few rows yet, a metric that this run does not log, or what the run is meant to show
        if value is None or self.unless in rows[-1]:
            return None

        # the side of the limit on which values are bad
        limit = getattr(limits, self.limit)
        beyond = value < limit if self.below else value > limit
        return self.message.format(value=value) if beyond else None


MEAN_ALARMS = (
    MeanAlarm(
        "entropy_collapse",
        ("train/entropy",),
        "entropy",
        "mean token entropy is {value:.4f} nats: samples hardly differ; lower optimizer.lr, raise "
        "kl_coef",
        below=True,
    ),
    MeanAlarm(
        "no_contrast",
        ("advantage/uniform_correct", "advantage/uniform_wrong"),
        "uniform",
        "{value:.0%} of the groups are all right or all wrong and teach nothing: problems are too "
        "easy or too hard, groups too small (trainer.group_size), or golds such that the verifier "
        "cannot match them",
    ),
    MeanAlarm(
        "sampler_drift",
        ("sample/drift",),
        "drift",
        "the log-probs that responses were drawn from differ from those of scoring by {value:.0%} "
        "of what is tolerated",
        only_last_step=True,
    ),
    MeanAlarm(
        "sampler_mismatch",
        ("update/sampler_kl",),
        "sampler",
        "KL of the sampling engine to the trainer is {value:.4f} nats a token: another dtype, or "
        "old weights",
        unless="sample/lag",
    ),
    MeanAlarm(
        "truncation",
        ("train/truncated",),
        "truncated",
        "{value:.0%} of the responses reach the token limit; raise task.max_response_tokens",
    ),
    MeanAlarm(
        "grader_failures",
        ("verify/timeout", "verify/killed"),
        "timeouts",
        "{value:.0%} of the verdicts timed out or lost their worker and count as wrong; see "
        "verify.*",
    ),
    MeanAlarm(
        "bad_numbers",
        ("update/skipped",),
        "skipped",
        "{value:.0%} of the updates were skipped: a loss, gradient or feature was not finite",
        only_last_step=True,
    ),
    MeanAlarm(
        "empty_responses",
        ("train/empty",),
        "empty",
        "{value:.0%} of the responses hold no text",
    ),
)


def mean_of_last(rows: Sequence[Row], window: int, metrics: Sequence[str]) -> float | None:
    """Mean over the last `window` rows of the sum of some metrics.

    None if there are fewer rows, or if a row lacks one of the metrics.
    """
    last_rows = rows[-window:]
    if len(last_rows) < window:
        return None

    # a row without the metric makes the mean unknown, not smaller
    total = 0.0
    for row in last_rows:
        for name in metrics:
            if name not in row:
                return None
            total += row[name]
    return total / window


def score_mismatch(rows: Sequence[Row], limits: HealthLimits) -> str | None:
    """Scoring and update give the same weights different log-probabilities."""
    # rows of steps in which nothing was updated have none
    ratio = rows[-1].get("update/first_ratio")
    if ratio is None or abs(ratio - 1) <= limits.ratio:
        return None
    return (
        f"the first importance ratio of the step is {ratio:.4f}, not 1: scoring and update differ"
    )


def no_reward(rows: Sequence[Row], limits: HealthLimits) -> str | None:
    """No response has been correct for a while."""
    last_rows = rows[-limits.unsolved_steps :]

    # rows that say nothing of solved problems count as solved, and so raise no alarm
    solved = any(row.get("train/solved_any", 1.0) > 0 for row in last_rows)
    if len(last_rows) < limits.unsolved_steps or solved:
        return None
    steps = limits.unsolved_steps
    return f"no correct response in {steps} steps: the task is too hard, or no answer is read"


ALARMS: dict[str, Callable[[Sequence[Row], HealthLimits], str | None]] = {
    **{alarm.name: alarm for alarm in MEAN_ALARMS},
    "score_mismatch": score_mismatch,
    "no_reward": no_reward,
}


def alarms(rows: Sequence[Row], limits: HealthLimits) -> dict[str, str]:
    """Alarms that hold after the last of the training rows, with what to say."""
    messages: dict[str, str] = {}
    for name, alarm in ALARMS.items():
        message = alarm(rows, limits)
        if message is not None:
            messages[name] = message
    return messages


class Watch:
    """Warns of each alarm the first time it holds.

    Args:
        limits: beyond which alarms hold.
        rows: those already written; what held after any of them is not warned of again.
    """

    def __init__(self, limits: HealthLimits, rows: Iterable[Row] = ()) -> None:
        self.limits = limits
        self.rows: list[Row] = []
        self.raised: set[str] = set()
        for row in rows:
            self.new_alarms(row)

    def __call__(self, row: Row) -> dict[str, str]:
        """Take in the row of a step; warn of the alarms that are new, and return them."""
        new_alarms = self.new_alarms(row)
        for name, message in new_alarms.items():
            log.warning("health alarm %s at step %d: %s", name, int(row["step"]), message)
        return new_alarms

    def new_alarms(self, row: Row) -> dict[str, str]:
        """Take in the row of a step without a warning; return the alarms that are new."""
        if row["step"] < 1:  # the evaluation before training
            return {}

        # no alarm looks further back than this
        longest_window = max(self.limits.window, self.limits.unsolved_steps)
        self.rows = [*self.rows, row][-longest_window:]

        # each alarm is raised once in the life of a run
        new_alarms: dict[str, str] = {}
        for name, message in alarms(self.rows, self.limits).items():
            if name not in self.raised:
                new_alarms[name] = message
        self.raised |= set(new_alarms)
        return new_alarms
