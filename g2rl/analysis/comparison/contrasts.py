"""Contrasts between arms with p values that are adjusted over a stated family.

A contrast is one arm's last value of one metric minus that of another arm, paired by seed. The
*family* is the set of contrasts that somebody looks at to find one that stands out: by default all
of a table. The more there are, the more easily one of them looks large by chance, so their p values
are adjusted together (Holm, see `g2rl.formulas.contrasts`). Contrasts outside the family keep their
own p value and are marked as unadjusted.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import pandas as pd

from g2rl.analysis.comparison.paired import paired_differences
from g2rl.analysis.tables import NOTHING, interval_cell
from g2rl.formulas.contrasts import (
    POWER,
    Contrast,
    detectable_difference,
    holm,
    paired_contrast,
)

LEVEL = 0.05
"""A contrast stands out if its adjusted p value is at most this."""


@dataclass(slots=True, frozen=True)
class ArmContrast:
    """One arm minus another one on one metric."""

    arm: str
    metric: str
    result: Contrast | None
    """None if the arms share no seed that reports the metric."""
    family: int
    """Members of the family that its p value is adjusted over; 0 outside the family."""
    adjusted: float
    """Adjusted p value, or the own one outside the family; NaN below two shared seeds."""
    detectable: float
    """The true difference that would have been found with probability `POWER`; NaN below two."""

    @property
    def stands_out(self) -> bool:
        """Whether it is a finding: a member of the family whose adjusted p value is small."""
        return self.family > 0 and self.adjusted <= LEVEL


def contrasts(
    frame: pd.DataFrame, metrics: Collection[str], against: str, family: Collection[str]
) -> list[ArmContrast]:
    """Every other arm minus `against` on every metric.

    Args:
        frame: long, of `g2rl.analysis.comparison.runs.collect`.
        metrics: that are looked at.
        against: label of the arm that is subtracted.
        family: those of the metrics whose contrasts, of all arms, are adjusted together.

    Raises:
        RunsError: there is no such arm.
        ValueError: the family names a metric that is not looked at.
    """
    strangers = sorted(set(family) - set(metrics))
    if strangers:
        raise ValueError(
            f"the family names {', '.join(strangers)}, which is no column of the table"
        )

    # the tests, metric by metric
    results: list[tuple[str, str, Contrast | None]] = []
    for metric in metrics:
        for arm, differences in paired_differences(frame, metric, against).items():
            result = paired_contrast(differences) if differences else None
            results.append((arm, metric, result))

    # p values of the family together
    members = [place for place, (_, metric, _) in enumerate(results) if metric in set(family)]
    p_values = [_p_value(results[place][2]) for place in members]
    adjusted_at = dict(zip(members, holm(p_values), strict=True))

    # each with what it could have found
    found: list[ArmContrast] = []
    for place, (arm, metric, result) in enumerate(results):
        size = len(members) if place in adjusted_at else 0
        adjusted = adjusted_at.get(place, _p_value(result))
        detectable = math.nan
        if result is not None:
            # what the smallest p value of the family must pass
            level = LEVEL / max(size, 1)
            detectable = detectable_difference(result.spread, result.seeds, level)
        found.append(ArmContrast(arm, metric, result, size, adjusted, detectable))
    return found


def _p_value(result: Contrast | None) -> float:
    """The own p value of a contrast; NaN if there is none."""
    return math.nan if result is None else result.p_value


def contrast_frame(found: list[ArmContrast], against: str) -> pd.DataFrame:
    """The contrasts as a table of numbers: contrasts.parquet."""
    # what could not be measured is NaN
    rows = []
    for one in found:
        result = one.result or Contrast(math.nan, math.nan, math.nan, math.nan, 0, math.nan)
        rows.append(
            {
                "arm": one.arm,
                "against": against,
                "metric": one.metric,
                "seeds": result.seeds,
                "difference": result.difference,
                "low": result.low,
                "high": result.high,
                "p": result.p_value,
                "p_adjusted": one.adjusted if one.family else math.nan,
                "family": one.family,
                "detectable": one.detectable,
            }
        )
    return pd.DataFrame(rows)


def contrast_rows(
    found: list[ArmContrast], headings: Mapping[str, str], against: str
) -> list[list[str]]:
    """Cells of a table, the headings first. Only what survives its family is in bold.

    Args:
        found: the contrasts.
        headings: of the metrics.
        against: the arm that is subtracted.
    """
    # p of each contrast alone beside the one that counts
    title = f"difference to {against}"
    rows = [["metric", "arm", "seeds", title, "p", "p adjusted", "detectable"]]
    for one in found:
        # arms that share no seed cannot be compared
        difference, p_value, seeds = NOTHING, NOTHING, "0"
        if one.result is not None:
            difference = interval_cell(*one.result[:3], "+.3f")
            p_value, seeds = p_text(one.result.p_value), str(one.result.seeds)

        # bold is for findings only
        adjusted = p_text(one.adjusted) if one.family else "unadjusted"
        if one.stands_out:
            difference, adjusted = f"**{difference}**", f"**{adjusted}**"
        detectable = NOTHING if math.isnan(one.detectable) else f"{one.detectable:.3f}"
        rows.append(
            [headings[one.metric], one.arm, seeds, difference, p_value, adjusted, detectable]
        )
    return rows


def p_text(p_value: float) -> str:
    """A p value with three digits after the point; smaller ones as ``<0.001``."""
    if math.isnan(p_value):
        return NOTHING
    return "<0.001" if p_value < 0.001 else f"{p_value:.3f}"


def explanation(found: list[ArmContrast], against: str) -> str:
    """What the table of contrasts says, in sentences: the family, its size, and what was found."""
    # all members of a family know its size
    size = max((one.family for one in found), default=0)
    standing_out = sum(one.stands_out for one in found)
    return (
        f"Contrasts to {against}, paired by seed: mean difference [95 % t-interval of it alone], "
        f"p of the paired t-test. The family has {size} members, over which p is adjusted by "
        f"Holm's method; {standing_out} of them stand out at {LEVEL:g} (in bold). `detectable` is "
        f"the true difference that would have been found with probability {POWER:g} at level "
        f"{LEVEL:g} / {max(size, 1)}, given the spread that was seen: a contrast that does not "
        "stand out says nothing about smaller ones."
    )
