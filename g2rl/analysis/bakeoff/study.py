"""What a bake-off compares on one task, and its stored rows as the long table of comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from g2rl.analysis.bakeoff.rows import Row, Rows, best_rate, identity_of
from g2rl.analysis.comparison.runs import COLUMNS

ACCURACY = "pass@1"
"""What exploration must not cost."""
DISTINCT = "distinct"
"""Number of distinct right answers among the samples of a problem."""


@dataclass(slots=True, frozen=True)
class Claims:
    """A family of contrasts of one arm, stated beforehand: it minus each of some others."""

    arm: str
    against: tuple[str, ...]
    metrics: tuple[str, ...]


@dataclass(slots=True, frozen=True)
class Study:
    """One task of a bake-off, as it was planned.

    Args:
        task: its name.
        protocol: fingerprint that rows must have.
        arms: name to the overrides that are typed after g2rl-train, in the order of the plan.
        baseline: the arm that others are compared with.
        rates: learning rates as they are written in rows.
        rates_seed: the seed on which rates are chosen; it is not reported.
        seeds: that are reported.
        primary: metric that the task is for.
        verb: what an arm does that is better on it: "keeps", "discovers".
        choose_by: metrics whose mean chooses the rate.
        coverage: the pass@k of the figure and of the comparison at equal pass@1; it is measured at
            every evaluation.
        claims: of this task, if it has any.
    """

    task: str
    protocol: str
    arms: Mapping[str, tuple[str, ...]]
    baseline: str
    rates: tuple[str, ...]
    rates_seed: int
    seeds: tuple[int, ...]
    primary: str
    verb: str
    choose_by: tuple[str, ...]
    coverage: str = "pass@32"
    claims: Claims | None = None

    def rate_rows(self, rows: Rows, arm: str) -> list[Row | None]:
        """The row of an arm at each rate, on the seed that chooses; None where it is missing."""
        found: list[Row | None] = []
        for rate in self.rates:
            found.append(self._find(rows, arm, rate, self.rates_seed))
        return found

    def chosen(self, rows: Rows, arm: str) -> str | None:
        """The best rate of an arm; None until it was tried at every rate.

        A task at one rate has nothing to choose, and so needs no run on the seed that chooses.
        """
        if len(self.rates) == 1:
            return self.rates[0]
        return best_rate(self.rate_rows(rows, arm), self.choose_by)

    def reported(self, rows: Rows) -> dict[str, list[Row]]:
        """The rows that count: of each arm those of the reported seeds at its best rate."""
        # runs at another rate are left alone
        counted: dict[str, list[Row]] = {}
        for arm in self.arms:
            rate = self.chosen(rows, arm)
            if rate is None:
                continue
            of_arm = [self._find(rows, arm, rate, seed) for seed in self.seeds]
            present = [row for row in of_arm if row is not None]
            if present:
                counted[arm] = present
        return counted

    def provisional(self, rows: Rows) -> dict[str, list[Row]]:
        """The row of each arm at the best rate that was tried so far, on the seed that chooses."""
        # what is missing may still turn out better
        best: dict[str, list[Row]] = {}
        for arm in self.arms:
            tried = [row for row in self.rate_rows(rows, arm) if row is not None]
            rate = best_rate(tried, self.choose_by)
            if rate is not None:
                best[arm] = [row for row in tried if row["rate"] == rate]
        return best

    def check_metrics(self, rows: Rows) -> None:
        """Refuse rows of this task that lack what is compared.

        Raises:
            ValueError: an evaluation lacks a metric; those before the last need coverage alone.
        """
        for row in rows.of(self.task):
            if row["protocol"] != self.protocol:
                continue
            for point in row["curve"]:
                needed = [self.coverage]
                if point is row["curve"][0] or point is row["curve"][-1]:
                    needed += [self.primary, *self.choose_by]
                if self.claims is not None and point is row["curve"][-1]:
                    needed += self.claims.metrics
                for name in needed:
                    if name not in point:
                        there = ", ".join(sorted(key for key in point if "pass@" in key))
                        raise ValueError(
                            f"{row['command']} has no {name} at step {point['step']}, only "
                            f"{there}: name what is measured as coverage, primary and choose_by "
                            f"of tasks.{self.task}, and as metrics of claims, in the plan"
                        )

    def _find(self, rows: Rows, arm: str, rate: str, seed: int) -> Row | None:
        """The row of a run; one that was made with other overrides or another protocol is none."""
        return rows.find(identity_of(self.task, arm, rate, seed, self.arms[arm], self.protocol))


def long_frame(rows_of_arms: Mapping[str, Sequence[Row]]) -> pd.DataFrame:
    """Rows of a bake-off as the long table of `g2rl.analysis.comparison.runs`."""
    # every number of every evaluation
    lines: list[tuple[object, ...]] = []
    for arm, rows in rows_of_arms.items():
        for row in rows:
            place = (arm, row["seed"], row["command"])
            for point in row["curve"]:
                for name, value in point.items():
                    if name != "step":
                        lines.append((*place, point["step"], name, float(value)))
    return pd.DataFrame(lines, columns=list(COLUMNS))


def coverage_at(row: Row, level: float, coverage: str) -> float:
    """Coverage when pass@1 first reaches a level, on straight lines between evaluations.

    Args:
        row: of a run whose pass@1 reaches the level.
        level: of pass@1.
        coverage: a metric of every evaluation, such as "pass@32".

    Raises:
        ValueError: its pass@1 stays below the level.
    """
    # from one evaluation to the next
    before = row["curve"][0]
    for point in row["curve"]:
        if point[ACCURACY] >= level:
            # the share of the way from the evaluation before, whose pass@1 is below the level
            gained = point[ACCURACY] - before[ACCURACY]
            share = 1.0 if point is before else (level - before[ACCURACY]) / gained
            return float(before[coverage] + share * (point[coverage] - before[coverage]))
        before = point
    raise ValueError(f"pass@1 of {row['command']} never reaches {level:.3f}")


def at_equal_accuracy(row: Row, other: Row, coverage: str) -> float:
    """Coverage of one run minus that of another at the highest pass@1 that both reach."""
    # a run whose pass@1 falls again is judged where it was highest
    level = min(max(point[ACCURACY] for point in run["curve"]) for run in (row, other))
    return coverage_at(row, level, coverage) - coverage_at(other, level, coverage)
