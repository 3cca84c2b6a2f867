"""The leaderboard from rows made up for it: which rows count, differences, families and markers."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from g2rl.analysis.bakeoff.leaderboard import (
    BEGIN,
    END,
    commands_table,
    difference_cell,
    family,
    leaderboard,
    with_leaderboard,
)
from g2rl.analysis.bakeoff.rows import Row, Rows
from g2rl.analysis.bakeoff.study import Claims, Study, at_equal_accuracy, coverage_at, long_frame
from g2rl.analysis.figures.bakeoff import draw_bakeoff, kept_metric, mean_path, message
from g2rl.formulas.contrasts import detectable_difference

STUDY = Study(
    task="detour",
    protocol="p",
    arms={
        "grpo": ("exploration=none",),
        "good": ("exploration=maxrl",),
        "poor": ("exploration=g2rl",),
    },
    baseline="grpo",
    rates=("5e-4", "1e-3"),
    rates_seed=100,
    seeds=(0, 1, 2),
    primary="pass@32",
    verb="keeps",
    choose_by=("pass@1", "pass@32"),
    claims=Claims("good", ("grpo", "poor", "absent"), ("pass@32",)),
)
BASE = {"pass@1": 0.3, "pass@32": 0.99, "distinct": 2.8}


def made(arm: str, rate: str, seed: int, *points: tuple[float, float, float]) -> Row:
    """A row whose curve goes from the base policy through (pass@1, pass@32, distinct)."""
    curve = [{"step": 0, "samples": 64, **BASE}]
    for step, point in enumerate(points, start=1):
        curve.append({"step": step, "samples": 64, **dict(zip(BASE, point, strict=True))})
    return {
        "task": "detour",
        "arm": arm,
        "rate": rate,
        "seed": seed,
        "overrides": list(STUDY.arms[arm]),
        "protocol": "p",
        "cpu_seconds": 30.0 + seed,
        "command": f"g2rl-train {arm} {rate} {seed}",
        "curve": curve,
    }


ENDS = {
    "grpo": [(0.80, 0.85, 1.1), (0.81, 0.86, 1.2), (0.79, 0.84, 1.0)],
    "good": [(0.80, 0.951, 2.4), (0.82, 0.960, 2.5), (0.78, 0.939, 2.3)],
    "poor": [(0.50, 0.60, 0.8), (0.62, 0.50, 0.7), (0.40, 0.90, 0.9)],
}


def all_rows() -> Rows:
    rows: list[Row] = []
    for arm, ends in ENDS.items():
        # the second rate is the better one, whatever the reported seeds say
        rows.append(made(arm, "5e-4", 100, (0.4, 0.9, 1.0)))
        rows.append(made(arm, "1e-3", 100, (0.7, 0.9, 1.0)))
        for seed, end in enumerate(ends):
            rows.append(made(arm, "1e-3", seed, (0.6, 0.95, 2.0), end))
        rows.append(made(arm, "5e-4", 0, (0.99, 0.99, 9.0)))  # of a rate that was not chosen
    return Rows({(row["task"], row["arm"], row["rate"], row["seed"]): row for row in rows})


def cells_of(text: str, arm: str) -> list[str]:
    [line] = [line for line in text.splitlines() if line.startswith(f"| {arm} | 1e-3 ")]
    return [cell.strip() for cell in line.strip("| ").split(" | ")]


def paired_t(values: list[float], others: list[float]) -> tuple[float, float, float]:
    """Bounds of the 95 % interval and p of the paired t-test of three seeds.

    Student's distribution with two degrees of freedom has a closed form: P(|T| > t) = 1 - t /
    sqrt(t² + 2), and its 97.5 % quantile is 4.302653.
    """
    differences = [value - other for value, other in zip(values, others, strict=True)]
    mean, error = statistics.mean(differences), statistics.stdev(differences) / math.sqrt(3)
    t = abs(mean) / error
    return mean - 4.302653 * error, mean + 4.302653 * error, 1 - t / math.sqrt(t * t + 2)


def test_only_reported_seeds_at_the_chosen_rate_count() -> None:
    rows = all_rows()
    reported = STUDY.reported(rows)
    for of_arm in reported.values():
        assert [(row["seed"], row["rate"]) for row in of_arm] == [
            (0, "1e-3"),
            (1, "1e-3"),
            (2, "1e-3"),
        ]

    # without one of its rates an arm has no chosen one, and so no reported row
    missing = Rows(
        {key: row for key, row in rows.by_key.items() if key[1:] != ("good", "5e-4", 100)}
    )
    assert set(STUDY.reported(missing)) == {"grpo", "poor"}
    assert STUDY.provisional(missing)["good"][0]["rate"] == "1e-3"


def test_differences_are_paired_and_adjusted_over_the_arms() -> None:
    text = leaderboard([STUDY], all_rows(), {})
    good = cells_of(text, "good")

    # +0.101, +0.100, +0.099 of pass@32; two arms make a family of two
    grpo = [0.85, 0.86, 0.84]
    low, high, smaller_p = paired_t([0.951, 0.960, 0.939], grpo)
    _, _, poor_p = paired_t([0.60, 0.50, 0.90], grpo)
    assert smaller_p * 2 < 0.001
    assert poor_p > 0.05
    keeps = good[6]
    assert keeps.startswith(f"**+0.100 [{low:+.3f}, {high:+.3f}], p <0.001 (")
    assert keeps.endswith("**")

    # its pass@1 differs by 0, +0.01 and -0.01, which nothing can tell from nothing
    assert good[7][1:].startswith("0.000 [-0.025, +0.025], p 1.000 (")
    poor = cells_of(text, "poor")
    assert "**" not in poor[6]
    assert f"p {poor_p:.3f} (" in poor[6]
    assert cells_of(text, "grpo")[6:9] == ["-", "-", "-"]
    assert good[-1] == "31"


def test_arms_that_have_not_run_are_members_of_the_family() -> None:
    ten = {**STUDY.arms, **{f"later{number}": ("exploration=none",) for number in range(8)}}
    text = leaderboard([replace(STUDY, arms=ten)], all_rows(), {})
    assert "one family of 10 contrasts, as planned, of which 2 have been run" in text

    # ten times the p value of one contrast alone, which two arms would have doubled
    _, _, p_value = paired_t([0.60, 0.50, 0.90], [0.85, 0.86, 0.84])
    assert 10 * p_value > 1
    assert "p 1.000 (" in cells_of(text, "poor")[6]
    _, _, smaller_p = paired_t([0.951, 0.960, 0.939], [0.85, 0.86, 0.84])
    assert 10 * smaller_p < 0.001
    assert "p <0.001 (" in cells_of(text, "good")[6]


@pytest.mark.parametrize(
    "change", [{"protocol": "other"}, {"overrides": ["exploration=maxrl", "exploration.order=2"]}]
)
def test_rows_that_were_made_otherwise_do_not_count(change: dict[str, object]) -> None:
    rows = {key: dict(row) for key, row in all_rows().by_key.items()}
    for row in rows.values():
        if row["arm"] == "good":
            row.update(change)
    assert set(STUDY.reported(Rows(rows))) == {"grpo", "poor"}
    assert STUDY.chosen(Rows(rows), "good") is None


def test_the_detectable_difference_is_found_in_four_of_five_studies() -> None:
    """By simulation: three seeds, a family of two, and the spread that was seen.

    With two degrees of freedom p = 1 - t / sqrt(t² + 2), so p < 0.025 means t > 6.205.
    """
    frame = long_frame(STUDY.reported(all_rows()))
    for arm, differences in (("good", [0.101, 0.1, 0.099]), ("poor", [-0.25, -0.36, 0.06])):
        true = family(STUDY, frame, "pass@32")[arm].detectable
        rng = np.random.default_rng(0)
        seen_RS = rng.normal(true, statistics.stdev(differences), (100_000, 3))
        t_R = seen_RS.mean(1) / (seen_RS.std(1, ddof=1) / math.sqrt(3))
        assert (abs(t_R) > 6.2053).mean() == pytest.approx(0.8, abs=0.01)


def test_no_share_differs_by_more_than_one_and_a_number_of_answers_may() -> None:
    one = family(STUDY, long_frame(STUDY.reported(all_rows())), "pass@32")["poor"]
    assert difference_cell(replace(one, detectable=0.5)).endswith("(0.500)")
    assert difference_cell(replace(one, detectable=2.5)).endswith("(none)")
    assert difference_cell(replace(one, detectable=2.5, metric="distinct")).endswith("(2.500)")


def test_the_column_at_equal_accuracy_is_the_arm_minus_the_baseline() -> None:
    """Levels of pass@1: 0.80, 0.81 and 0.78, where good keeps 0.951, 0.95955 and 0.939, and GRPO
    0.85, 0.86 and 0.84579."""
    cell = cells_of(leaderboard([STUDY], all_rows(), {}), "good")[9]
    low, high, _ = paired_t([0.951, 0.959545, 0.939], [0.85, 0.86, 0.845789])
    assert cell == f"+0.098 [{low:+.3f}, {high:+.3f}]"
    assert cells_of(leaderboard([STUDY], all_rows(), {}), "grpo")[9] == "-"


def test_an_arm_that_does_what_the_baseline_does_is_called_the_same() -> None:
    """Its differences have no spread, which says nothing about what could have been seen."""
    same = {**STUDY.arms, "same": ("exploration=nsr",)}
    study, rows = replace(STUDY, arms=same), dict(all_rows().by_key)
    for row in list(rows.values()):
        if row["arm"] == "grpo":
            twin = {**row, "arm": "same", "overrides": ["exploration=nsr"]}
            rows["detour", "same", row["rate"], row["seed"]] = twin
    cells = cells_of(leaderboard([study], Rows(rows), {}), "same")
    assert cells[6:9] == ["0, the same in every seed"] * 3


def test_every_planned_arm_stands_in_a_table_of_rates_to_choose_from() -> None:
    rows = Rows({key: row for key, row in all_rows().by_key.items() if key[1] != "poor"})
    assert "| poor | - | - | - |" in leaderboard([STUDY], rows, {})


def test_a_claim_may_be_shown_in_the_other_direction() -> None:
    study = replace(STUDY, claims=Claims("grpo", ("good",), ("pass@32", "distinct")))
    text = leaderboard([study], all_rows(), {})
    assert "over the family: less pass@32 than good; less distinct than good. " in text


def test_rows_that_lack_what_is_compared_are_refused_by_name() -> None:
    """A plan of one's own may measure fewer samples than 32."""
    with pytest.raises(ValueError, match="has no pass@16 at step 0, only pass@1, pass@32: name"):
        leaderboard([replace(STUDY, coverage="pass@16")], all_rows(), {})

    # coverage is measured through training, the primary metric before and after it
    rows = {
        key: {**row, "curve": [dict(point) for point in row["curve"]]}
        for key, row in all_rows().by_key.items()
    }
    for row in rows.values():
        for point in (row["curve"][0], row["curve"][-1]):
            point["pass@64"] = 1.0
    primary = replace(STUDY, primary="pass@64")
    assert "Δ pass@64" in leaderboard([primary], Rows(rows), {})
    with pytest.raises(ValueError, match="grpo 1e-3 0 has no pass@64 at step 1, only"):
        leaderboard([replace(primary, coverage="pass@64")], Rows(rows), {})

    # and what is claimed after it alone
    claims = Claims("good", ("grpo",), ("pass@16",))
    with pytest.raises(ValueError, match=r"has no pass@16 at step 1, only .* metrics of claims"):
        leaderboard([replace(STUDY, claims=claims)], all_rows(), {})


def test_claims_are_one_family_in_which_missing_arms_count() -> None:
    text = leaderboard([STUDY], all_rows(), {})
    claims = text.partition("**Claims about `good`**")[2]
    assert "one family of 3 contrasts" in claims
    _, _, p_value = paired_t([0.951, 0.960, 0.939], [0.85, 0.86, 0.84])
    assert "| grpo | pass@32 | 3 | **+0.100 " in claims
    detectable = detectable_difference(0.001, 3, 0.05 / 3)  # +0.101, +0.100, +0.099
    assert f"| <0.001 | <0.001 | {detectable:.3f} |" in claims
    assert p_value * 3 < 0.001
    assert "| absent | pass@32 | 0 | - | - | - | - |" in claims
    assert "Shown at 0.05 over the family: more pass@32 than grpo. Of the other 2 " in claims


def test_coverage_at_equal_accuracy() -> None:
    # 0.3 -> 0.5 -> 0.9 of pass@1, while coverage falls from 0.99 to 0.95 and 0.75
    row = made("grpo", "1e-3", 0, (0.5, 0.95, 1.0), (0.9, 0.75, 1.0))
    assert coverage_at(row, 0.3, "pass@32") == pytest.approx(0.99)
    assert coverage_at(row, 0.4, "pass@32") == pytest.approx(0.97)
    assert coverage_at(row, 0.8, "pass@32") == pytest.approx(0.80)
    with pytest.raises(ValueError, match=r"never reaches 0\.950"):
        coverage_at(row, 0.95, "pass@32")

    # the other one reaches 0.7 at most, and keeps 0.97 there
    other = made("good", "1e-3", 0, (0.7, 0.97, 1.0), (0.6, 0.99, 1.0))
    assert at_equal_accuracy(other, row, "pass@32") == pytest.approx(0.97 - 0.85)
    assert at_equal_accuracy(row, other, "pass@32") == pytest.approx(0.85 - 0.97)


def test_before_any_reported_run_there_are_only_rates() -> None:
    rates = Rows({key: row for key, row in all_rows().by_key.items() if key[3] == 100})
    text = leaderboard([STUDY], rates, {})
    assert "6 of 6 runs that choose rates (3 of 3 arms at all 2), 0 of 9 reported runs" in text
    assert "Δ" not in text
    assert "| good | 0.400 / 0.900 / 1.00 | 0.700 / 0.900 / 1.00 | 1e-3 |" in text
    assert "| *before training* | 0.300 / 0.990 / 2.80 |" in text
    assert leaderboard([STUDY], Rows({}), {}).endswith("0 of 9 reported runs.")


def test_one_rate_and_one_or_two_seeds_are_said_so() -> None:
    sitting = replace(STUDY, rates=("1e-3",))
    rows = all_rows()
    two = Rows({key: row for key, row in rows.by_key.items() if key[3] != 2})
    text = leaderboard([sitting], two, {})
    assert "**One rate only, 1e-3, and 2 of 3 seeds**: methods are not at their best" in text
    good = cells_of(text, "good")
    # +0.101 and +0.100: the mean plus or minus 12.706 times half their distance, and p = 0.0032
    # (one degree of freedom: 1 - 2 arctan(201) / pi), doubled for the smaller of two
    assert good[6].startswith("**+0.100 [+0.094, +0.107], p 0.006 (")

    # nothing is chosen, so the runs on the other seed need not be there
    reported = Rows({key: row for key, row in two.by_key.items() if key[3] != 100})
    assert sitting.chosen(reported, "good") == sitting.chosen(Rows({}), "good") == "1e-3"
    text = leaderboard([sitting], reported, {})
    assert cells_of(text, "good") == good
    assert "Before training: pass@1 0.300, pass@32 0.990, distinct 2.800." in text
    assert "Seed 100" not in text

    # one seed has no interval, and nothing is tested
    one = Rows({key: row for key, row in two.by_key.items() if key[3] != 1})
    text = leaderboard([sitting], one, {})
    assert "1 of 3 seeds" in text
    assert cells_of(text, "good")[6] == "+0.101"


def test_the_page_is_filled_between_its_markers_alone() -> None:
    page = f"# Title\n\n{BEGIN}\nold\n{END}\n\nwritten by hand\n"
    filled = with_leaderboard(page, "new")
    assert filled == f"# Title\n\n{BEGIN}\n\nnew\n\n{END}\n\nwritten by hand\n"
    assert with_leaderboard(filled, "new") == filled
    for bad in ("no markers", f"{END}\n{BEGIN}"):
        with pytest.raises(ValueError, match="the page must have a line"):
            with_leaderboard(bad, "new")


def test_every_arm_has_the_command_of_its_row() -> None:
    text = commands_table([STUDY])
    assert "| good | `exploration=maxrl` | `g2rl-bench run --again --arms good` |" in text


def test_the_figure_shows_means_over_runs(tmp_path: Path) -> None:
    reported = STUDY.reported(all_rows())
    path_3E = mean_path(reported["good"], "pass@32")
    assert path_3E[0].tolist() == pytest.approx([0.3, 0.6, 0.8])
    assert path_3E[1].tolist() == pytest.approx([0.99, 0.95, 0.95])
    assert path_3E[2].tolist() == pytest.approx([2.8, 2.0, 2.4])

    # what the baseline gains and loses, and who has most answers at which accuracy
    paths = {arm: mean_path(of_arm, "pass@32") for arm, of_arm in reported.items()}
    first_line, second_line = message(STUDY, "pass@32", paths).split("\n")
    assert "pass@1 from 0.30 to 0.80, pass@32 from 0.990 to 0.850" in first_line
    assert second_line == (
        "most different answers: 2.4 by good (grey) at pass@1 0.80; 1.1 by plain GRPO at pass@1 "
        "0.80; 0.8 by poor (grey) at pass@1 0.51"
    )
    assert kept_metric(STUDY, reported) == STUDY.primary
    assert kept_metric(replace(STUDY, primary="pass@512"), reported) == "pass@32"
    path = draw_bakeoff(STUDY, reported, tmp_path / "detour.png", "caption")
    assert path.stat().st_size > 10_000
    frame = long_frame(reported)
    assert sorted(frame["arm"].unique()) == ["good", "grpo", "poor"]
