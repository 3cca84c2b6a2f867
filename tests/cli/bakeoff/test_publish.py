"""Which rows a figure of a bake-off shows, and what its caption says of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from g2rl.analysis.bakeoff.rows import Rows, write_rows
from g2rl.analysis.bakeoff.study import Study
from g2rl.cli.bakeoff.plan import read_plan
from g2rl.cli.bakeoff.publish import draw, publish
from tests.cli.bakeoff.test_plan import PLAN, row_of, rows_of

plan = read_plan(PLAN)
TASK = plan.tasks["detour"]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was asked to be drawn: study, rows, path and caption."""
    asked: list[Any] = []

    def note(*words: Any) -> Path:
        asked.extend(words)
        return Path("drawn")

    monkeypatch.setattr("g2rl.analysis.figures.bakeoff.draw_bakeoff", note)
    return asked


def rates_rows() -> Rows:
    """Runs of two arms at every rate on the seed that chooses; the last rate is the best."""
    found = []
    for arm in ("grpo", "maxrl"):
        for number, rate in enumerate(TASK.rates):
            found.append(row_of(plan.run(TASK, arm, rate, plan.rates_seed), 0.3 + 0.1 * number))
    return rows_of(*found)


def reported_rows(seeds: tuple[int, ...]) -> Rows:
    """The same, and the runs of the baseline that are reported."""
    reported = [row_of(plan.run(TASK, "grpo", TASK.rates[-1], seed), 0.5) for seed in seeds]
    return Rows(rates_rows().by_key | rows_of(*reported).by_key)


def test_until_something_is_reported_the_figure_is_provisional(drawn: list[Any]) -> None:
    study = plan.study(TASK)
    assert draw(study, rates_rows(), Path("x.png")) == Path("drawn")
    _, rows, path, caption = drawn
    assert path == Path("x.png")
    assert {arm: [row["seed"] for row in some] for arm, some in rows.items()} == {
        "grpo": [100],
        "maxrl": [100],
    }
    assert caption.startswith(
        "PROVISIONAL: one run an arm (seed 100, on which rates are chosen), at the best rate tried "
        "so far.\nDot: after the last step"
    )


@pytest.mark.parametrize(("count", "words"), [(1, "1 seed"), (2, "2 seeds")])
def test_a_figure_of_reported_runs_says_at_which_rate(
    drawn: list[Any], count: int, words: str
) -> None:
    study = plan.study(TASK)
    draw(study, reported_rows(study.seeds[:count]), Path("x.png"))
    assert [row["seed"] for row in drawn[1]["grpo"]] == list(study.seeds[:count])
    assert drawn[3].startswith(f"each arm at its best rate, mean of {words}")


def test_a_task_with_one_rate_says_which(drawn: list[Any]) -> None:
    one: Study = replace(plan.study(TASK), rates=(TASK.rates[-1],))
    draw(one, reported_rows((0,)), Path("x.png"))
    assert drawn[3].startswith(f"each arm at rate {TASK.rates[-1]} alone, mean of ")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with a page that has a place for tables."""
    (tmp_path / "README.md").write_text(
        "# Mine\n\n<!-- g2rl-bench: begin -->\n<!-- g2rl-bench: end -->\n"
    )
    return tmp_path


def with_numbers(rows: Rows) -> Rows:
    """The same with what a page tells of a run."""
    point = {"pass@1": 0.3, "pass@4": 0.4, "pass@32": 0.5, "distinct": 2.0}
    for row in rows.by_key.values():
        first, last = row["curve"]
        row.update(command="stored", cpu_seconds=1.0, curve=[{**point, **first}, {**point, **last}])
    return rows


def test_a_task_has_a_figure_where_there_is_something_to_draw(home: Path, drawn: list[Any]) -> None:
    """Of four tasks one has runs, which choose rates and are not reported yet."""
    write_rows(home / "rows", with_numbers(rates_rows()))
    written = publish(plan, home, [])
    assert written == [home / "rows", home / "README.md", Path("drawn")]
    assert drawn[2] == home / "detour.png"
    page = (home / "README.md").read_text()
    assert [name for name in plan.tasks if f"({name}.png)" in page] == ["detour"]


def test_without_any_row_the_folders_are_named(home: Path, drawn: list[Any]) -> None:
    before = (home / "README.md").read_text()
    words = f"^there is no row in {home / 'rows'}, {home / 'more'}: make some with g2rl-bench run$"
    (home / "rows").mkdir()
    (home / "more").mkdir()
    with pytest.raises(ValueError, match=words):
        publish(plan, home, [home / "more"])
    assert (home / "README.md").read_text() == before


def test_a_task_with_one_rate_has_a_figure_without_runs_that_choose(
    home: Path, drawn: list[Any]
) -> None:
    task = replace(TASK, rates=(TASK.rates[-1],))
    one = replace(plan, tasks={"detour": task})
    write_rows(
        home / "rows", with_numbers(rows_of(row_of(one.run(task, "grpo", *task.rates, 0), 0.5)))
    )
    assert publish(one, home, [])[-1] == Path("drawn")
    assert drawn[3].startswith(f"each arm at rate {TASK.rates[-1]} alone, mean of 1 seed.")
