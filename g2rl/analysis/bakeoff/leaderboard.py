"""The leaderboard of a bake-off in markdown, made from stored rows alone.

Nothing is bold that does not survive its family (Holm). Families are stated in the plan: all arms
against the baseline, on one metric of one task, and the claims about one arm.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd

from g2rl.analysis.bakeoff.rows import Row, Rows
from g2rl.analysis.bakeoff.study import (
    ACCURACY,
    DISTINCT,
    Study,
    at_equal_accuracy,
    long_frame,
)
from g2rl.analysis.comparison.contrasts import LEVEL, ArmContrast, contrasts, p_text
from g2rl.analysis.tables import (
    NOTHING,
    comparison_rows,
    interval_cell,
    is_share,
    markdown,
    page,
    seeds_cell,
)
from g2rl.formulas.contrasts import detectable_difference, holm, paired_contrast
from g2rl.runs.terminal import Part

BEGIN, END = "<!-- g2rl-bench: begin -->", "<!-- g2rl-bench: end -->"
"""Between these lines of a page the leaderboard stands; nothing else does."""


def with_leaderboard(page: str, leaderboard: str) -> str:
    """A page in which the leaderboard is replaced.

    Raises:
        ValueError: the page lacks one of the two markers, or they stand in the wrong order.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page must have a line {BEGIN} and below it a line {END}")
    return f"{before}{BEGIN}\n\n{leaderboard}\n\n{END}{after}"


def leaderboard(studies: Sequence[Study], rows: Rows, figures: Mapping[str, str]) -> str:
    """All tasks, one after the other, as markdown; see `leaderboard_parts`."""
    return page(leaderboard_parts(studies, rows, figures))


def leaderboard_parts(
    studies: Sequence[Study], rows: Rows, figures: Mapping[str, str]
) -> list[Part]:
    """Paragraphs and tables of all tasks, one after the other.

    Args:
        studies: one a task.
        rows: what is stored.
        figures: name of a task to the path of its figure, as the page links it.
    """
    # a task without a row has its sentence and no table
    parts: list[Part] = []
    for study in studies:
        parts.append(f"## {study.task}")
        if study.task in figures:
            parts.append(f"![what each arm keeps, and its {ACCURACY}]({figures[study.task]})")
        parts += task_parts(study, rows)
    return parts


def task_parts(study: Study, rows: Rows) -> list[Part]:
    """Paragraphs and tables of one task."""
    study.check_metrics(rows)
    reported = study.reported(rows)
    provisional = study.provisional(rows)
    parts: list[Part] = [progress(study, rows, reported)]
    if not provisional and not reported:
        return parts

    # what counts, if there is anything
    if study.baseline in reported:
        parts += [main_table(study, reported), families(study, reported)]
        if study.claims is not None and study.claims.arm in reported:
            parts += claims_table(study, reported)

    # and what it was chosen from
    if provisional:
        parts += [rates_words(study), rates_table(study, rows)]
    return parts


def rates_words(study: Study) -> str:
    """What the table of rates shows."""
    words = (
        f"**Seed {study.rates_seed}, which is not reported.** One run each, so no intervals: "
        f"{ACCURACY} / {study.primary} / {DISTINCT} after training."
    )
    if len(study.rates) > 1:
        words += f" The rate with the largest mean of {' and '.join(study.choose_by)} is chosen."
    return words


def progress(study: Study, rows: Rows, reported: Mapping[str, Sequence[Row]]) -> str:
    """How much of the plan is stored, in one sentence, and what it took."""
    # counted among what was planned
    runs = sum(len(of_arm) for of_arm in reported.values())
    seconds = [row["cpu_seconds"] for row in rows.of(study.task)]
    cost = ""
    if seconds:
        cost = f" A run took {min(seconds):.0f} to {max(seconds):.0f} CPU seconds."
    stored = f"{runs} of {len(study.arms) * len(study.seeds)} reported runs.{cost}"

    # one rate is not chosen, and every method is shown at it
    if len(study.rates) == 1:
        return (
            f"**One rate only, {study.rates[0]}, and {seeds_done(reported)} of {len(study.seeds)} "
            f"seeds**: methods are not at their best rates. Stored: {stored}"
            f"{before_words(study, reported)}"
        )

    # otherwise the runs that choose count as well
    chosen_arms = [arm for arm in study.arms if study.chosen(rows, arm) is not None]
    tried = sum(row is not None for arm in study.arms for row in study.rate_rows(rows, arm))
    return (
        f"Stored: {tried} of {len(study.arms) * len(study.rates)} runs that choose rates "
        f"({len(chosen_arms)} of {len(study.arms)} arms at all {len(study.rates)}), {stored}"
    )


def before_words(study: Study, reported: Mapping[str, Sequence[Row]]) -> str:
    """The means before training over the seeds of the baseline; nothing without its runs."""
    points = [row["curve"][0] for row in reported.get(study.baseline, ())]
    if not points:
        return ""

    words: list[str] = []
    for metric in dict.fromkeys((ACCURACY, study.primary, DISTINCT)):
        mean = sum(point[metric] for point in points) / len(points)
        words.append(f"{metric} {mean:.3f}")
    return f" Before training: {', '.join(words)}."


def seeds_done(reported: Mapping[str, Sequence[Row]]) -> str:
    """``2 to 3``: how many reported seeds the arms have."""
    counts = sorted({len(of_arm) for of_arm in reported.values()}) or [0]
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def seeds_words(reported: Mapping[str, Sequence[Row]]) -> str:
    """``1 seed``, ``2 to 3 seeds``."""
    count = seeds_done(reported)
    return f"{count} seed" if count == "1" else f"{count} seeds"


# --- what is reported


def main_table(study: Study, reported: Mapping[str, Sequence[Row]]) -> list[list[str]]:
    """One row an arm: means over seeds, what it keeps or discovers, and what it costs."""
    # a metric that is both primary and pass@1 stands there once
    frame = long_frame(reported)
    columns = list(dict.fromkeys([ACCURACY, study.primary, DISTINCT]))
    found = {metric: family(study, frame, metric) for metric in columns}

    # of the hard subset the mean alone, which is not tested
    hard = f"hard/{study.coverage}"
    shown = list(dict.fromkeys([*columns, *({hard} & set(frame["metric"]))]))
    means = {cells[0]: cells[1:] for cells in comparison_rows(frame, shown)}

    headings = ["arm", "rate", *means["arm"]]
    headings += [f"{study.verb}: Δ {study.primary}", f"costs: Δ {ACCURACY}", f"Δ {DISTINCT}"]
    headings += [f"Δ {study.coverage} at equal {ACCURACY}", "CPU seconds"]
    lines = [headings]
    for arm, of_arm in reported.items():
        # the baseline has no difference to itself
        line = [arm, of_arm[0]["rate"], *means[arm]]
        for metric in (study.primary, ACCURACY, DISTINCT):
            line.append(difference_cell(found[metric].get(arm)))
        line.append(equal_cell(study, of_arm, reported[study.baseline], arm))
        seconds = sum(row["cpu_seconds"] for row in of_arm) / len(of_arm)
        lines.append([*line, f"{seconds:.0f}"])
    return lines


def family(study: Study, frame: pd.DataFrame, metric: str) -> dict[str, ArmContrast]:
    """Every arm minus the baseline on one metric, adjusted over all arms of the plan.

    Arms that have not been run are members too: which arms run first must not make their p values
    smaller.
    """
    found = {one.arm: one for one in contrasts(frame, [metric], study.baseline, [metric])}
    members = [arm for arm in study.arms if arm != study.baseline]
    p_values: list[float] = []
    for arm in members:
        result = found[arm].result if arm in found else None
        p_values.append(math.nan if result is None else result.p_value)

    # the same contrasts, as members of the family that was planned
    adjusted_of = dict(zip(members, holm(p_values), strict=True))
    planned: dict[str, ArmContrast] = {}
    for arm, one in found.items():
        detectable = math.nan
        if one.result is not None:
            level = LEVEL / len(members)
            detectable = detectable_difference(one.result.spread, one.result.seeds, level)
        planned[arm] = replace(
            one, family=len(members), adjusted=adjusted_of[arm], detectable=detectable
        )
    return planned


def difference_cell(one: ArmContrast | None) -> str:
    """``-0.020 [-0.033, -0.007], p .04 (0.03)``: the difference, its adjusted p and what could have
    been seen; bold if it survives."""
    if one is None or one.result is None:
        return NOTHING
    # one seed shows no spread, so there is nothing to test
    text = interval_cell(*one.result[:3], "+.3f")
    if math.isnan(one.adjusted):
        return text

    # runs that are the same tell nothing of how far runs differ
    if one.result.spread == 0 and one.result.difference == 0:
        return "0, the same in every seed"

    text += f", p {p_text(one.adjusted)} ({detectable_text(one.metric, one.detectable)})"
    return f"**{text}**" if one.stands_out else text


def detectable_text(metric: str, detectable: float) -> str:
    """A detectable difference as a cell: ``0.031``, or ``none`` where no true one is so large."""
    # one seed shows no spread, and no share differs by more than 1
    if math.isnan(detectable):
        return NOTHING
    return "none" if is_share(metric) and detectable > 1 else f"{detectable:.3f}"


def equal_cell(study: Study, of_arm: Sequence[Row], of_baseline: Sequence[Row], arm: str) -> str:
    """Difference of coverage to the baseline at equal pass@1, paired by seed; not tested."""
    if arm == study.baseline:
        return NOTHING

    # seeds that both have
    other_of_seed = {row["seed"]: row for row in of_baseline}
    differences: list[float] = []
    for row in of_arm:
        if row["seed"] in other_of_seed:
            other = other_of_seed[row["seed"]]
            differences.append(at_equal_accuracy(row, other, study.coverage))
    return seeds_cell(differences, len(differences), "+.3f")


def families(study: Study, reported: Mapping[str, Sequence[Row]]) -> str:
    """What the main table's differences and p values are."""
    size, run = len(study.arms) - 1, len(reported) - 1
    return (
        f"Means over {seeds_words(reported)} [95 % t-interval over seeds]; Δ is the "
        f"arm minus {study.baseline}, paired by seed. Each of the three Δ columns is one family of "
        f"{size} contrasts, as planned, of which {run} have been run; p is adjusted over all of "
        f"them (Holm), and bold is what survives at {LEVEL:g}. "
        "In brackets after p: the true difference that would have been found with probability 0.8 "
        "(none: not even a difference of 1), so a contrast that is not bold says nothing about "
        f"smaller ones. The column at equal {ACCURACY} compares both runs of a seed where each "
        f"first reaches the highest {ACCURACY} that both reach (straight lines between "
        "evaluations); it is unadjusted and not tested."
    )


def claims_table(study: Study, reported: Mapping[str, Sequence[Row]]) -> list[Part]:
    """The claims about one arm, as one family."""
    assert study.claims is not None
    claims = study.claims

    # an arm that has not run is a member of the family all the same
    results = []
    for other in claims.against:
        for metric in claims.metrics:
            differences = paired(reported[claims.arm], reported.get(other, []), metric)
            result = paired_contrast(differences) if differences else None
            results.append((other, metric, result))

    # one family, missing members included
    p_values = [math.nan if result is None else result.p_value for _, _, result in results]
    lines = [["minus", "metric", "seeds", "difference", "p", "p adjusted", "detectable"]]
    shown: list[str] = []
    for (other, metric, result), adjusted in zip(results, holm(p_values), strict=True):
        if result is None:
            lines.append([other, metric, "0", *[NOTHING] * 4])
            continue
        text = interval_cell(*result[:3], "+.3f")
        if adjusted <= LEVEL:
            text = f"**{text}**"
            shown.append(f"{'more' if result.difference > 0 else 'less'} {metric} than {other}")
        detectable = detectable_difference(result.spread, result.seeds, LEVEL / len(results))
        cells = [
            text,
            p_text(result.p_value),
            p_text(adjusted),
            detectable_text(metric, detectable),
        ]
        lines.append([other, metric, str(result.seeds), *cells])
    return [
        f"**Claims about `{claims.arm}`**, stated beforehand: it minus each of these, paired by "
        f"seed; one family of {len(results)} contrasts (Holm). Detectable: the true difference "
        "that would have been found with probability 0.8 (none: not even a difference of 1).",
        lines,
        f"Shown at {LEVEL:g} over the family: {'; '.join(shown) or 'nothing'}. Of the other "
        f"{len(results) - len(shown)} contrasts no difference has been shown, in either direction.",
    ]


def paired(rows: Sequence[Row], others: Sequence[Row], metric: str) -> list[float]:
    """Differences after training of the seeds that both arms have."""
    other_of_seed = {row["seed"]: row for row in others}
    differences: list[float] = []
    for row in rows:
        if row["seed"] in other_of_seed:
            other = other_of_seed[row["seed"]]
            differences.append(row["curve"][-1][metric] - other["curve"][-1][metric])
    return differences


# --- what the rates were chosen from


def rates_table(study: Study, rows: Rows) -> list[list[str]]:
    """One row an arm, one column a rate, and the chosen one where there is a choice."""
    has_choice = len(study.rates) > 1
    lines = [["arm", *(f"rate {rate}" for rate in study.rates), *["chosen"][: int(has_choice)]]]

    # the base policy first, for comparison
    base = first_point(study, rows)
    if base is not None:
        cells = ["*before training*", *[point_cell(study, base)] * len(study.rates), NOTHING]
        lines.append(cells[: len(lines[0])])

    for arm in study.arms:
        # without a choice to make, an arm need not have been tried on this seed
        tried = study.rate_rows(rows, arm)
        if not has_choice and tried == [None]:
            continue

        cells = [arm]
        for row in tried:
            cells.append(NOTHING if row is None else point_cell(study, row["curve"][-1]))
        cells.append(study.chosen(rows, arm) or NOTHING)
        lines.append(cells[: len(lines[0])])
    return lines


def first_point(study: Study, rows: Rows) -> Mapping[str, float] | None:
    """The evaluation before training, on the seed that chooses rates."""
    # any arm has it: they share the evaluation
    for row in rows.of(study.task):
        if row["seed"] == study.rates_seed and row["protocol"] == study.protocol:
            point: Mapping[str, float] = row["curve"][0]
            return point
    return None


def point_cell(study: Study, point: Mapping[str, float]) -> str:
    """``0.742 / 0.851 / 1.15``."""
    return f"{point[ACCURACY]:.3f} / {point[study.primary]:.3f} / {point[DISTINCT]:.2f}"


def commands_table(studies: Sequence[Study]) -> str:
    """What each arm is, and how its rows are made again."""
    lines = [["arm", "what is typed after `g2rl-train`", "its rows again"]]
    for arm, words in studies[0].arms.items():
        typed = " ".join(words)
        lines.append([arm, f"`{typed}`", f"`g2rl-bench run --again --arms {arm}`"])
    return markdown(lines)
