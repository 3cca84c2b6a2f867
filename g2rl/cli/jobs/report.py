"""What `g2rl-report` does, and a run at its end: write report.html."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from g2rl.analysis.comparison.choices import Choices
from g2rl.analysis.comparison.compared import read_compared
from g2rl.analysis.comparison.runs import find_runs
from g2rl.analysis.report.facts import RunFacts, read_facts
from g2rl.analysis.report.page import RaisedAlarms, page_of_run, page_of_runs
from g2rl.analysis.report.responses import Budget
from g2rl.cli.comparing import named_after, tell_left_out
from g2rl.runs.files import atomic_path
from g2rl.runs.layout import RunFolder
from g2rl.training.alarms import HealthLimits, Watch


def report(
    folders: Sequence[Path],
    out: Path | None = None,
    budget: Budget | None = None,
    choices: Choices | None = None,
) -> Path:
    """Write the page about the run in some folders, or the one that compares all of them.

    Args:
        folders: of runs, or folders that hold runs.
        out: the file; None takes `default_file`.
        budget: how many responses the page may hold, of all runs together.
        choices: how several runs are compared; None: as usual.

    Returns:
        The file that was written.

    Raises:
        RunsError: there is no run, or the runs cannot be compared so.
        ReportError: a run has logged nothing yet.
        ValueError: choices for a single run, of which nothing is compared.
    """
    runs = find_runs(folders)
    out = out or default_file(folders)
    if len(runs) > 1:
        return report_runs(folders, out, budget, choices)

    # one run has a page of its own kind
    if choices is not None and choices.compares:
        raise ValueError(
            f"{runs[0].folder} is one run: --by, --metrics, --against and --family compare several"
        )
    return report_run(runs[0].folder, out, budget)


def report_run(
    folder: Path, out: Path | None = None, budget: Budget | None = None, ended: bool = False
) -> Path:
    """Write the page about one run.

    Args:
        folder: of the run, which need not have finished.
        out: the file; None is report.html in the folder of the run.
        budget: how many responses the page may hold.
        ended: the run has come to its end, though summary.json is not there yet.

    Returns:
        The file that was written.

    Raises:
        ReportError: the folder holds no training run.
    """
    facts = read_facts(folder, ended)
    page = page_of_run(facts, raised_alarms(facts), budget or Budget())
    return _written(page, out or RunFolder(folder).report)


def report_runs(
    folders: Sequence[Path],
    out: Path,
    budget: Budget | None = None,
    choices: Choices | None = None,
) -> Path:
    """Write the page that compares runs.

    Args:
        folders: of runs, or folders that hold runs.
        out: the file.
        budget: how many responses the page may hold, of all runs together.
        choices: how runs are compared; None: as usual.

    Returns:
        The file that was written.

    Raises:
        RunsError: see `read_compared`.
        ValueError: an unknown metric.
    """
    comparisons, left_out = read_compared(folders, choices or Choices())
    tell_left_out(left_out)

    # the alarms of every run, which are found in its rows
    raised: dict[Path, RaisedAlarms] = {}
    for comparison in comparisons:
        for run in comparison.runs:
            raised[run.folder] = raised_alarms(read_facts(run.folder))
    return _written(page_of_runs(comparisons, left_out, raised, budget or Budget()), out)


def raised_alarms(facts: RunFacts) -> list[tuple[int, str, str]]:
    """The step at which each alarm of a run held first, its name and its message.

    Limits that the run did not know of, because it is of an earlier version, have today's defaults.
    """
    # limits of later versions are not ours to judge by
    known = {one.name for one in fields(HealthLimits)}
    limits = {}
    for name, value in facts.config.get("health", {}).items():
        if name in known:
            limits[name] = value
    watch = Watch(HealthLimits(**limits))

    # step by step, as in training; the log of the run has said all this already
    raised: list[tuple[int, str, str]] = []
    for row in facts.rows:
        for name, message in watch.new_alarms(row).items():
            raised.append((int(row["step"]), name, message))
    return raised


def default_file(folders: Sequence[Path]) -> Path:
    """Where a page goes: into the folder that was named, or evals/ if there are several."""
    if len(folders) == 1:
        return RunFolder(folders[0]).report
    return Path("evals") / f"report-{named_after(folders)}.html"


def _written(page: str, path: Path) -> Path:
    """Write a page, whole or not at all."""
    with atomic_path(path) as aside:
        aside.write_text(page, encoding="utf-8")
    return path
