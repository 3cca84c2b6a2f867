"""Store the rows of a bake-off, and make its page and figures from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from g2rl.analysis.bakeoff.leaderboard import (
    commands_table,
    leaderboard,
    seeds_words,
    with_leaderboard,
)
from g2rl.analysis.bakeoff.rows import Rows, read_rows, write_rows
from g2rl.analysis.bakeoff.study import Study
from g2rl.cli.bakeoff.plan import Plan
from g2rl.runs.files import atomic_path


def publish(plan: Plan, home: Path, folders: Sequence[Path]) -> list[Path]:
    """Write HOME/rows, the leaderboard between the markers of HOME/README.md, and HOME/TASK.png.

    Args:
        plan: what was compared.
        home: folder of the study.
        folders: with further rows; those of later folders replace earlier ones. Rows of arms that
            the plan does not have, or has otherwise, are left out.

    Returns:
        What was written.

    Raises:
        ValueError: the page has no place for the leaderboard, or there is no row at all.
    """
    rows = publishable(plan, home / "rows", folders)
    if not rows.by_key:
        listed = ", ".join(str(folder) for folder in (home / "rows", *folders))
        raise ValueError(f"there is no row in {listed}: make some with g2rl-bench run")
    studies = [plan.study(task) for task in plan.tasks.values()]

    # the page first: without its markers nothing is written
    page = home / "README.md"
    figures: dict[str, str] = {}
    for study in studies:
        if study.baseline in study.reported(rows) or study.provisional(rows):
            figures[study.task] = f"{study.task}.png"
    tables = leaderboard(studies, rows, figures)
    text = f"{tables}\n\n## Arms\n\n{commands_table(studies)}"
    filled = with_leaderboard(page.read_text(encoding="utf-8"), text)

    write_rows(home / "rows", rows)
    with atomic_path(page) as aside:
        aside.write_text(filled, encoding="utf-8")
    written = [home / "rows", page]
    for study in studies:
        if study.task in figures:
            written.append(draw(study, rows, home / figures[study.task]))
    return written


def publishable(plan: Plan, stored: Path, folders: Sequence[Path]) -> Rows:
    """The stored rows, and those of further folders that are of an arm as the plan has it.

    Rates and seeds may be others than the plan's: plans of one study share their stored rows.
    """
    kept = dict(read_rows([stored]).by_key)
    strange: dict[str, int] = {}
    for key, row in read_rows(folders).by_key.items():
        if plan.has_made(row):
            kept[key] = row
        else:
            strange[row["arm"]] = strange.get(row["arm"], 0) + 1

    # what the page cannot show is said, and stays where it is
    for arm, count in strange.items():
        print(f"left out: {count} rows of {arm}, which the plan does not have as they were made")
    return Rows(kept)


def draw(study: Study, rows: Rows, path: Path) -> Path:
    """The figure of a task: of the reported runs, or, until there are any, of those that choose
    rates."""
    from g2rl.analysis.figures.bakeoff import draw_bakeoff  # loads matplotlib

    reported = study.reported(rows)
    if study.baseline in reported:
        rate = "its best rate" if len(study.rates) > 1 else f"rate {study.rates[0]} alone"
        caption = f"each arm at {rate}, mean of {seeds_words(reported)}"
        return draw_bakeoff(study, reported, path, with_marks(caption))

    # one seed, chosen upon: it says what to expect, no more
    caption = (
        f"PROVISIONAL: one run an arm (seed {study.rates_seed}, on which rates are chosen), at the "
        "best rate tried so far"
    )
    return draw_bakeoff(study, study.provisional(rows), path, with_marks(caption))


def with_marks(caption: str) -> str:
    """A caption with the meaning of the marks."""
    return (
        f"{caption}.\nDot: after the last step, 64 samples a problem; line: from the base policy "
        "(on the left by way of evaluations in between); grey: all other arms; dashed: base policy"
    )
