"""What the commands that compare runs share: options, and names of what they write."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from g2rl.analysis.comparison.choices import Choices
from g2rl.cli import report as report_command
from g2rl.cli.api import report as report_function
from g2rl.cli.comparing import NAME_LENGTH, named_after, safe_name
from g2rl.cli.jobs import compare as compare_command
from g2rl.cli.jobs.compare import folder_name


@pytest.mark.parametrize(
    "first",
    [
        ["runs/a/b"],
        ["runs/a-b"],
        ["a-b"],
        ["runs/a", "runs/b"],
        ["runs/ä"],
        ["runs/实验一"],
        ["runs"],
    ],
)
def test_other_runs_have_another_name(
    first: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    others = [["runs/a/b"], ["runs/a-b"], ["a-b"], ["runs/a", "runs/b"], ["runs/ä"], ["runs/ö"]]
    others += [["runs/实验一"], ["runs/实验二"], ["runs"], ["runs/runs"], [".."]]
    mine = named_after([Path(word) for word in first])
    assert mine == named_after([Path(word) for word in first])
    for words in others:
        other = named_after([Path(word) for word in words])
        assert (other == mine) == (words == first)
    assert named_after([Path(word) for word in first], by=["exploration.lam"]) != mine


def test_runs_in_their_usual_place_have_their_own_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert named_after([Path("runs")]) == "runs"
    assert named_after([Path("runs/signals")]) == "signals"
    assert named_after([Path("runs/a"), Path("runs/b")]).startswith("a-b-")
    assert named_after([Path(f"runs/{one}") for one in "abc"]).startswith("a-and-2-more-")


@pytest.mark.parametrize(
    "name", ["..", ".", "../../x", "/etc", "题.jsonl", "x" * 300, "", ".hidden"]
)
def test_a_name_out_of_a_run_leads_nowhere_else(name: str) -> None:
    folder = folder_name(f"benchmark={name}")
    assert Path("evals") / folder == (Path("evals") / folder).parent / folder
    assert "/" not in folder
    assert not folder.startswith(".")
    assert 8 <= len(folder) <= NAME_LENGTH
    assert folder != safe_name(f"{name}文", f"{name}文")


def test_a_plain_name_stays_as_it_is() -> None:
    assert folder_name("benchmark=math500") == "math500"


def test_a_page_about_one_run_needs_no_choices(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undrawn: None
) -> None:
    page = tmp_path / "page.html"
    words = ["g2rl-report", str(finished_run), "--out", str(page)]
    monkeypatch.setattr(sys, "argv", words)
    report_command.main()
    assert page.stat().st_size > 10_000
    assert report_function(finished_run, out=page, partial=True) == page

    # options may be typed as settings, as those of g2rl export
    page.unlink()
    monkeypatch.setattr(sys, "argv", ["g2rl-report", str(finished_run), f"out={page}"])
    report_command.main()
    assert page.is_file()
    tables = tmp_path / "tables"
    monkeypatch.setattr(sys, "argv", ["g2rl-analyze compare", str(finished_run), f"out={tables}"])
    compare_command.main()
    assert (tables / "table.md").is_file()

    # choices of a comparison have nothing to compare here
    with pytest.raises(ValueError, match="is one run: --by"):
        report_function(finished_run, out=page, by=["exploration.name"])
    assert Choices(against="none").compares
