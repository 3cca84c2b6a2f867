"""Tables on terminals: no number is cut or broken, whatever the width."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from g2rl.runs.progress import progress_bar
from g2rl.runs.terminal import (
    FILE_WIDTH,
    divided,
    output,
    print_parts,
    print_table,
    styled,
)

METRICS = [f"countdown/{kind}@{k}" for kind in ("pass", "maj") for k in (1, 4, 16)]
NUMBERS = [f"0.{place}90 [0.{place}67, 0.{place}93]" for place in range(len(METRICS))]
ROWS = [["arm", "seeds", *METRICS], ["none", "3", *NUMBERS], ["g2rl lam=3", "3", *NUMBERS]]


def printed(width: int, *parts: object, **options: object) -> str:
    """What a terminal of that width shows."""
    file = io.StringIO()
    console = Console(file=file, width=width, highlight=False)
    if options.pop("page", False):
        print_parts(console, parts)  # type: ignore[arg-type]
    else:
        print_table(console, *parts, **options)  # type: ignore[arg-type]
    return file.getvalue()


@pytest.mark.parametrize("width", [40, 60, 80, 118, 200])
def test_every_number_is_whole_and_no_line_too_long(width: int) -> None:
    text = printed(width, ROWS, "a title")
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    for row in ROWS[1:]:
        for cell in row[2:]:
            value, _, interval = cell.partition(" ")
            assert text.count(value) >= len(ROWS) - 1
            assert text.count(interval) >= len(ROWS) - 1


def test_what_does_not_fit_stands_below_with_its_labels() -> None:
    assert len(printed(200, ROWS).split("arm ")) == 2
    text = printed(60, ROWS)
    tables = text.split("arm ")[1:]
    assert len(tables) > 1
    assert all("g2rl lam=3" in table for table in tables)
    headings = "".join(text.split())
    assert all(name.split("/")[1] in headings for name in METRICS)


def test_columns_are_divided_as_they_fit() -> None:
    # 10 + 2 for the label and 1 for the edge leave 27, which three columns of 7 + 2 fill
    assert divided([10, 7, 7, 7, 7], 40) == [[0, 1, 2, 3], [0, 4]]
    assert divided([10, 7, 7, 7], 39) == [[0, 1, 2], [0, 3]]
    assert divided([4, 4, 5, 5], 20, labels=2) == [[0, 1, 2], [0, 1, 3]]
    assert divided([4, 90, 5], 20) == [[0, 1], [0, 2]], "too wide by itself"


def test_long_labels_are_broken_and_numbers_are_not() -> None:
    label = "exploration.lam=0.30000000000000004 with a long name"
    text = printed(60, [["arm", "x"], [label, "0.123 [0.012, 0.345]"]])
    assert "[0.012, 0.345]" in text
    assert label.replace(" ", "") in "".join(
        line[:21].replace(" ", "") for line in text.splitlines()[3:]
    )


def test_brackets_are_text_and_stars_are_print() -> None:
    assert styled("**+0.1 [0.0, 0.2]**, *before*").plain == "+0.1 [0.0, 0.2], before"
    assert "[bold]" in printed(80, [["arm", "x"], ["[bold]", "1 * 2 * 3"]])
    broken = printed(80, [["arm", "x"], ["g2rl", "**+0.1 [0.0, 0.2]**"]])  # over two lines
    assert "[0.0, 0.2]" in broken
    assert "*" not in broken
    for text in ("1 * 2 * 3", "2*3*4", "eval/*/pass@1 and eval/*/distinct"):
        assert styled(text).plain == text


def test_a_page_has_paragraphs_and_tables() -> None:
    text = printed(80, "## detour", "One **bold** word.", ROWS[:2], page=True)
    assert text.startswith("detour\n\nOne bold word.\n\n")
    assert NUMBERS[0].split(" ")[0] in text


def test_a_progress_bar_without_a_total_shows_no_question_mark() -> None:
    file = io.StringIO()
    console = Console(file=file, width=80, force_terminal=True, no_color=True)
    progress = progress_bar(console)
    with progress:
        progress.add_task("sampling", total=None)
        progress.add_task("training", total=50, completed=3)
        progress.refresh()
    shown = file.getvalue()
    assert "sampling" in shown
    assert "3/50" in shown
    assert "?" not in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown)


def test_a_pipe_is_as_wide_as_columns_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "70")
    assert output().width == output(118).width == 70
    monkeypatch.delenv("COLUMNS")
    assert (output().width, output(118).width) == (FILE_WIDTH, 118)
