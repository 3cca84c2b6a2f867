"""Put the sections into the template: one HTML file that needs nothing beside it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from g2rl.analysis.comparison.compared import Compared
from g2rl.analysis.comparison.runs import Run
from g2rl.analysis.report import one_run
from g2rl.analysis.report.facts import RunFacts, flat_settings, read_facts
from g2rl.analysis.report.one_run import Section, Tile
from g2rl.analysis.report.responses import Budget, packed, responses_of
from g2rl.analysis.report.several_runs import Comparison

ASSETS = resources.files("g2rl.analysis.report") / "assets"
"""Template, style and script."""

RaisedAlarms = Sequence[tuple[int, str, str]]
"""The step at which an alarm held first, its name, and what it says."""


@dataclass(slots=True, frozen=True)
class RunPart:
    """What a page says of one run alone.

    Args:
        name: of its folder.
        about: names and values.
        alarms: cells, the headings first.
        command: that makes the run again; None if it is not known.
        settings: every setting by dotted key.
        metrics: cells of the table of all metrics, the headings first.
    """

    name: str
    about: Sequence[tuple[str, str]]
    alarms: Sequence[Sequence[str]]
    command: str | None
    settings: Mapping[str, str]
    metrics: Sequence[Sequence[str]]

    @classmethod
    def of(cls, facts: RunFacts, raised: RaisedAlarms) -> RunPart:
        """The part about a run, with the alarms that its rows raise."""
        return cls(
            facts.name,
            one_run.about(facts),
            one_run.alarm_rows(raised),
            facts.command,
            flat_settings(facts.config),
            one_run.metric_rows(facts),
        )


def page_of_run(facts: RunFacts, raised: RaisedAlarms, budget: Budget) -> str:
    """The page about one run.

    Args:
        facts: of the run.
        raised: alarms of the run.
        budget: how many responses the page may hold.
    """
    sections = [one_run.results(facts), one_run.learning(facts), one_run.geometry(facts)]
    return render(
        title=facts.name,
        tiles=one_run.tiles(facts, len(raised)),
        sections=sections,
        parts=[RunPart.of(facts, raised)],
        responses=[{"name": facts.name, **responses_of(facts.folder, budget)}],
    )


def page_of_runs(
    comparisons: Sequence[Compared],
    left_out: Sequence[Run],
    raised: Mapping[Path, RaisedAlarms],
    budget: Budget,
) -> str:
    """The page that compares runs.

    Args:
        comparisons: of the runs, one for each benchmark.
        left_out: runs that have not finished.
        raised: alarms of each run, by folder.
        budget: how many responses the page may hold, of all runs together.

    Raises:
        ReportError: a folder holds no run.
    """
    # every run has its share of the page
    runs = [run for comparison in comparisons for run in comparison.runs]
    share = Budget(
        max(budget.responses // len(runs), 1),
        budget.characters,
        max(budget.total_characters // len(runs), 1),
    )
    parts: list[RunPart] = []
    responses: list[dict[str, Any]] = []
    for run in runs:
        facts = read_facts(run.folder)
        parts.append(RunPart.of(facts, raised[run.folder]))
        responses.append({"name": facts.name, **responses_of(run.folder, share)})

    # what a reader wants to know first
    alarm_count = sum(len(raised[run.folder]) for run in runs)
    arm_count = sum(len(comparison.arms) for comparison in comparisons)
    tiles = [
        Tile("runs", str(len(runs)), f"in {arm_count} arms"),
        Tile("alarms", str(alarm_count) if alarm_count else "none", "in all runs together"),
    ]
    if left_out:
        tiles.append(Tile("left out", str(len(left_out)), "runs that have not finished"))
    return render(
        title=f"{len(runs)} runs compared",
        tiles=tiles,
        sections=_sections(comparisons),
        parts=parts,
        responses=responses,
    )


def _sections(comparisons: Sequence[Compared]) -> list[Section]:
    """The sections of all comparisons, one after the other."""
    if len(comparisons) == 1:
        return Comparison(comparisons[0]).sections()
    sections: list[Section] = []
    for number, comparison in enumerate(comparisons, 1):
        sections += Comparison(comparison, str(number)).sections()
    return sections


def render(
    *,
    title: str,
    tiles: Sequence[Tile],
    sections: Sequence[Section],
    parts: Sequence[RunPart],
    responses: Sequence[Mapping[str, Any]],
) -> str:
    """Fill the template.

    Everything is escaped but the drawings, which come from matplotlib, and our own style and
    script. The page forbids every other script, and every request to a network, to the browser.

    Args:
        title: of the page.
        tiles: numbers at its head.
        sections: figures and tables.
        parts: about each run.
        responses: of each run, for the explorer.
    """
    style, script = _asset("report.css"), _asset("report.js")

    # the browser runs a script of this content, and no other
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")

    # a name that the template misspells is an error, and everything is escaped
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_asset),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        title=title,
        tiles=tiles,
        sections=sections,
        parts=parts,
        data=packed({"runs": responses}),
        has_responses=any(one["steps"] for one in responses),
        style=Markup(style),
        script=Markup(script),
        digest=digest,
        drawn=Markup,
    )


def _asset(name: str) -> str:
    """The text of a file in assets/."""
    return (ASSETS / name).read_text(encoding="utf-8")
