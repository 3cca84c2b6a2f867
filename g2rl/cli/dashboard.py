"""The W&B dashboard as code: sections and panels of `g2rl.runs.metric_names`, built with
wandb-workspaces.

    python -m g2rl.cli.dashboard --entity NAME --project g2rl --benchmarks countdown

saves it in a W&B project, which needs an account; `--print` shows what would be saved and needs
nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from g2rl.cli.one_line import errors_in_one_line
from g2rl.hub import missing_package
from g2rl.runs.metric_names import CURATED, SECTIONS, Curated, filled
from g2rl.runs.wandb_mirror import HISTOGRAMS, SAMPLES

KS = (1, 4, 16)
STACKED = "Parts of a step"
Panel = tuple[str, str, list[str]]
"""Title, unit, metric names."""


def panels(section: str, benchmarks: Mapping[str, Sequence[int]]) -> list[Panel]:
    """The line plots of a section; metrics with the same title share one."""
    units: dict[str, str] = {}
    names_of_title: dict[str, list[str]] = {}
    for metric in CURATED:
        if metric.section != section:
            continue
        for title, name in zip(*titles_and_names(metric, benchmarks), strict=True):
            units.setdefault(title, metric.unit)
            names_of_title.setdefault(title, []).append(name)
    return [(title, units[title], names) for title, names in names_of_title.items()]


def titles_and_names(
    metric: Curated, benchmarks: Mapping[str, Sequence[int]]
) -> tuple[list[str], list[str]]:
    """A metric's titles and names, one for each benchmark and k."""
    names = filled(metric.name, benchmarks)
    titles = filled(metric.panel, benchmarks)

    # a title without a place for benchmark and k is that of all names
    if len(titles) != len(names):
        titles = titles * len(names)
    return titles, names


def build(entity: str, project: str, benchmarks: Mapping[str, Sequence[int]]) -> Any:
    """The workspace; talks to no server.

    Runs are grouped by arm, so that a line is the mean over seeds and its band their range.

    Args:
        entity: account or team.
        project: W&B project.
        benchmarks: held-out benchmarks of the runs, name to ks.

    Raises:
        ImportError: wandb-workspaces is not installed.
    """
    # an extra of this package
    try:
        import wandb_workspaces.reports.v2 as reports
        import wandb_workspaces.workspaces as workspaces
    except ImportError as error:
        said = missing_package("the dashboard", "wandb-workspaces", "dashboard")
        raise ImportError(said) from error

    def line(title: str, unit: str, names: list[str]) -> Any:
        # parts of a whole lie on one another, so a band over seeds would say nothing
        return reports.LinePlot(
            title=title,
            x="step",
            y=list(names),
            title_x="training step",
            title_y=unit,
            plot_type="stacked-area" if title == STACKED else "line",
            groupby_aggfunc="mean",
            groupby_rangefunc=None if title == STACKED else "minmax",
        )

    # one section for each kind of metric, one panel for each title
    sections = []
    for name in SECTIONS:
        lines = [line(*panel) for panel in panels(name, benchmarks)]
        sections.append(workspaces.Section(name=name, is_open=True, panels=lines))

    # what is not a line: histograms and samples
    geometry = sections[SECTIONS.index("Exploration geometry")]
    geometry.panels += [
        reports.MediaBrowser(title="Gradient cosines by pair class", media_keys=list(HISTOGRAMS))
    ]
    sections.append(
        workspaces.Section(
            name="Samples", panels=[reports.WeavePanelSummaryTable(table_name=SAMPLES)]
        )
    )

    # runs of one arm make one line
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name="g2rl",
        sections=sections,
        settings=workspaces.WorkspaceSettings(x_axis="step"),
        runset_settings=workspaces.RunsetSettings(groupby=[workspaces.Config("arm")]),
    )


def save(workspace: Any) -> None:
    """Save a workspace to the server.

    Raises:
        SystemExit: with 1 and one line, without an account or a connection.
    """
    try:
        workspace.save()
    except Exception as error:  # wandb and its transport raise many unrelated types
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        print(
            f"error: the dashboard could not be saved: {reason} (log in with `wandb login`, or see "
            "what it holds with --print, which needs no account)",
            file=sys.stderr,
        )
        raise SystemExit(1) from None


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of `python -m g2rl.cli.dashboard`."""
    parser = argparse.ArgumentParser(
        prog="python -m g2rl.cli.dashboard", description="Save the W&B dashboard."
    )
    parser.add_argument("--entity", required=True, help="W&B account or team")
    parser.add_argument("--project", default="g2rl")
    parser.add_argument(
        "--benchmarks", nargs="+", default=["countdown"], help="names as in eval/NAME/pass@1"
    )
    parser.add_argument("--ks", nargs="+", type=int, default=list(KS), help="of pass@k and maj@k")
    parser.add_argument(
        "--print", action="store_true", help="show it as JSON instead; no account, no network"
    )
    options = parser.parse_args(arguments)

    # save it, or show what would be saved
    benchmarks = dict.fromkeys(options.benchmarks, options.ks)
    with errors_in_one_line(ImportError):
        workspace = build(options.entity, options.project, benchmarks)
    if options.print:
        print(json.dumps(workspace._spec, indent=2, default=str))
    else:
        save(workspace)


if __name__ == "__main__":
    main()
