"""g2rl-analyze compare: finished runs in one table and one figure, with intervals over seeds."""

from __future__ import annotations

import argparse
import difflib
import fnmatch
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from g2rl.cli.one_line import errors_in_one_line

if TYPE_CHECKING:
    import pandas as pd

    from g2rl.analysis.comparison.runs import Run

EPILOG = """examples
  g2rl-analyze compare runs                                      every run in a folder
  g2rl-analyze compare runs/A-seed0 runs/A-seed1 runs/B-seed0    these
  g2rl-analyze compare runs --by exploration.lam --out evals/lambda
  g2rl-analyze compare runs --against none                       and paired differences to an arm
  g2rl-analyze compare runs --against none --family 'eval/*/pass@1' 'eval/*/distinct'
  g2rl-analyze compare runs --metrics 'eval/*/pass@1' train/entropy

It writes runs.parquet (arm, seed, run, step, metric, value), table.md, compare.png and, where runs
wrote gradient cosines, geometry.png; with --against also differences.png. Arms are told apart by
the settings that differ in the runs' config.yaml, the seed left out; intervals are 95 % t-intervals
over seeds. With --against, p values of all contrasts in the table are adjusted together (Holm), or
of those that --family names; contrasts.parquet holds the numbers. More in docs/analysis.md."""


def parser() -> argparse.ArgumentParser:
    """The command line of `g2rl-analyze compare`."""
    command_line = argparse.ArgumentParser(
        "g2rl-analyze compare",
        description="Join runs into one table and one figure.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )

    # which runs, and where the results go
    command_line.add_argument(
        "runs", metavar="RUN", nargs="+", type=Path, help="folder of a run, or one that holds runs"
    )
    command_line.add_argument(
        "--out", metavar="FOLDER", type=Path, help="where to write (default: evals/runs-HASH)"
    )

    # what is compared
    command_line.add_argument(
        "--by",
        metavar="KEY",
        nargs="+",
        default=[],
        action="extend",
        help=(
            "settings that tell arms apart; exploration.name is the signal (default: what differs)"
        ),
    )
    command_line.add_argument(
        "--metrics",
        metavar="NAME",
        nargs="+",
        default=[],
        action="extend",
        help="columns of the table, * stands for anything (default: accuracies, length, geometry)",
    )
    command_line.add_argument(
        "--against", metavar="ARM", help="also the differences to this arm, seed by seed (paired)"
    )
    command_line.add_argument(
        "--family",
        metavar="NAME",
        nargs="+",
        default=[],
        action="extend",
        help="metrics whose contrasts are one family of tests, with --against (default: all)",
    )
    command_line.add_argument(
        "--partial", action="store_true", help="also take unfinished runs as far as they are"
    )
    return command_line


def main() -> None:
    """Entry point of `g2rl-analyze compare`, the command's own word already removed."""
    words = parser().parse_args()
    with errors_in_one_line():
        compare(
            words.runs,
            words.out,
            words.by,
            words.metrics,
            words.partial,
            words.against,
            words.family,
        )


def compare(
    folders: Sequence[Path],
    out: Path | None = None,
    by: Sequence[str] = (),
    metrics: Sequence[str] = (),
    partial: bool = False,
    against: str | None = None,
    family: Sequence[str] = (),
) -> Path:
    """Join runs and write tables and figures.

    Args:
        folders: of runs, or folders that hold runs.
        out: where to write; None makes a folder of evals/ that is named after the arguments.
        by: settings that tell arms apart; none: those that differ.
        metrics: columns of the table, as patterns; none: the usual ones.
        partial: take unfinished runs too.
        against: label of the arm to which differences are taken.
        family: metrics whose contrasts are tested as one family, as patterns; none: all columns.

    Returns:
        The folder that was written.

    Raises:
        ValueError: no run, no finished run without `partial`, a seed twice in an arm, an unknown
            metric or arm, or a family without `against`.
    """
    import pandas as pd

    from g2rl.analysis.comparison.runs import long_table
    from g2rl.analysis.comparison.training_geometry import training_geometry
    from g2rl.runs.files import atomic_path
    from g2rl.runs.lock import one_process_in

    if family and against is None:
        raise ValueError("--family needs --against ARM: it names tests of differences to an arm")

    # one long table of all runs, and what is derived from it
    groups = arms_to_compare(folders, by, partial)
    frame = long_table(groups)
    columns = chosen_metrics(frame, metrics)
    differences = Differences.of(frame, columns, against, family)
    geometry = training_geometry(frame)

    # tables, in files and on the terminal, and figures
    out = out or default_folder(folders, by)
    with one_process_in(out, "g2rl-analyze compare", "--out FOLDER"):
        with atomic_path(out / "runs.parquet") as aside:
            pd.concat([frame, geometry], ignore_index=True).to_parquet(aside, index=False)
        with atomic_path(out / "table.md") as aside:
            aside.write_text(report(frame, columns, groups, differences), encoding="utf-8")
        differences.write(out / "contrasts.parquet")
        show_tables(frame, columns, differences)
        figures = draw_figures(frame, geometry, groups, against, out)

    # where it is, and what is missing
    arms_with_cosines = set(geometry["arm"])
    tell(out, figures, [label for label in groups if label not in arms_with_cosines])
    return out


@dataclass(slots=True, frozen=True)
class Differences:
    """What every other arm changes against one, in the forms that are written and shown."""

    paired: list[list[str]] = field(default_factory=list)
    """Cells, one row an arm; empty where no arm was named."""
    tests: list[list[str]] = field(default_factory=list)
    """Cells, one row a contrast."""
    explanation: str = ""
    numbers: pd.DataFrame | None = None

    @classmethod
    def of(
        cls,
        frame: pd.DataFrame,
        columns: dict[str, str],
        against: str | None,
        family: Sequence[str],
    ) -> Differences:
        """Differences to an arm on the columns of the table; nothing without an arm."""
        if against is None:
            return cls()
        from g2rl.analysis.comparison import contrasts as tests
        from g2rl.analysis.comparison.paired import paired_rows

        # the family is stated by name, or is all that the table shows
        members = list(columns)
        if family:
            members = list(chosen_metrics(frame, family))
        found = tests.contrasts(frame, columns, against, members)
        return cls(
            paired_rows(frame, columns, against),
            tests.contrast_rows(found, columns, against),
            tests.explanation(found, against),
            tests.contrast_frame(found, against),
        )

    def write(self, path: Path) -> None:
        """Write the numbers of the contrasts, if there are any."""
        from g2rl.runs.files import atomic_path

        if self.numbers is not None:
            with atomic_path(path) as aside:
                self.numbers.to_parquet(aside, index=False)


def default_folder(folders: Sequence[Path], by: Sequence[str]) -> Path:
    """A folder of evals/ for these runs and settings: the same words write in the same place."""
    words = repr(([str(folder.resolve()) for folder in folders], list(by)))
    return Path("evals") / f"runs-{hashlib.sha256(words.encode()).hexdigest()[:8]}"


def show_tables(frame: pd.DataFrame, columns: dict[str, str], differences: Differences) -> None:
    """The table of the arms and, if asked for, that of the differences, on the terminal."""
    from g2rl.analysis.tables import comparison_rows
    from g2rl.runs.terminal import output, print_table

    # every arm by itself
    console = output()
    title = "last value of each run: mean over seeds, 95 % t-interval over seeds"
    print_table(console, comparison_rows(frame, columns), title)

    # and against the one that was named
    if differences.paired:
        title = "paired differences: mean over shared seeds, 95 % t-interval"
        print_table(console, differences.paired, title)
        title = "contrasts: p adjusted over the family (Holm)"
        print_table(console, differences.tests, title, labels=2)
        console.print(differences.explanation, markup=False)


def tell(out: Path, figures: Sequence[Path], arms_without_cosines: Sequence[str]) -> None:
    """Say what was written, and which arms the figure of gradient cosines lacks."""
    # a figure that lacks arms says which, and how to have them
    if arms_without_cosines:
        print(
            f"no gradient cosines in {', '.join(arms_without_cosines)}: train with "
            "exploration.observe=[g2rl] to have them"
        )

    # what there is to open
    print(f"written: {out / 'runs.parquet'}, {out / 'table.md'}")
    print(f"figures: {', '.join(str(path) for path in figures)}")


def arms_to_compare(
    folders: Sequence[Path], by: Sequence[str], partial: bool
) -> dict[str, list[Run]]:
    """Label of each arm to its runs: all of them if `partial`, else the finished ones."""
    from g2rl.analysis.comparison.runs import finished_arms, read_arms

    # unfinished runs count only where they were asked for
    if partial:
        return read_arms(folders, by, partial)

    # otherwise they are named, so that none is missed in silence
    groups, left_out = finished_arms(folders, by)
    tell_left_out(left_out)
    return groups


def tell_left_out(runs: Sequence[Run]) -> None:
    """Say which runs have not finished, and so are in no table."""
    if not runs:
        return
    count = "1 run has" if len(runs) == 1 else f"{len(runs)} runs have"
    print(f"note: {count} not finished and is left out (--partial takes what is there):")
    for run in runs:
        print(f"  {run.folder}")


def draw_figures(
    frame: pd.DataFrame,
    geometry: pd.DataFrame,
    groups: dict[str, list[Run]],
    against: str | None,
    out: Path,
) -> list[Path]:
    """Draw learning curves and, where there are any, differences to an arm and gradient cosines.

    Returns:
        The files that were written.
    """
    from g2rl.analysis.figures.curves import draw_curves, draw_geometry_curves, learning_panels
    from g2rl.analysis.figures.differences import draw_differences
    from g2rl.analysis.figures.ends import held_out_panels

    # always
    figures = [draw_curves(frame, learning_panels(frame), out / "compare.png")]

    # where asked for, or measured
    ends = held_out_panels(frame)
    if against is not None and ends:
        figures.append(draw_differences(frame, ends, against, out / "differences.png"))
    if len(geometry):
        caption = geometry_caption(geometry, groups)
        figures.append(draw_geometry_curves(geometry, caption, out / "geometry.png"))
    return figures


def chosen_metrics(frame: pd.DataFrame, patterns: Sequence[str]) -> dict[str, str]:
    """Names of metrics to headings: those that match the patterns, or the usual ones.

    Raises:
        ValueError: a pattern that nothing matches, with the nearest names.
    """
    from g2rl.analysis.comparison.sweep import headlines

    if not patterns:
        return headlines(frame)

    # every pattern must match something
    names = list(dict.fromkeys(frame["metric"]))
    headings: dict[str, str] = {}
    for pattern in patterns:
        matching = fnmatch.filter(names, pattern)
        if not matching:
            raise ValueError(f"no run reports a metric {pattern!r}{hint_at(pattern, names)}")
        for name in matching:
            headings[name] = name.removeprefix("eval/")
    return headings


def hint_at(pattern: str, names: Sequence[str]) -> str:
    """The nearest names to one that does not exist, as the end of an error message."""
    # misspelt, or a part of a longer name
    near = difflib.get_close_matches(pattern, names, n=3)
    if not near:
        near = [name for name in names if pattern in name][:3]
    return f"; did you mean {' or '.join(near)}?" if near else ""


def report(
    frame: pd.DataFrame,
    columns: dict[str, str],
    groups: dict[str, list[Run]],
    differences: Differences,
) -> str:
    """table.md: values after and before training, what the runs differ in, each arm's folders."""
    from g2rl.analysis.comparison.runs import differing
    from g2rl.analysis.tables import comparison_table, markdown

    # two tables: after and before training
    lines = [
        "# Comparison of runs",
        "",
        "Last value of each run: mean over seeds [95 % t-interval over seeds]; no interval for one "
        "seed.",
        "",
        comparison_table(frame, columns),
        "",
        "First value of each run, before training unless the metric is of training itself:",
        "",
        comparison_table(frame, columns, first=True),
        "",
    ]

    # a third one, if asked for
    if differences.paired:
        lines += ["Paired differences: mean over shared seeds [95 % t-interval].", ""]
        lines += [markdown(differences.paired), ""]
        lines += [differences.explanation, "", markdown(differences.tests), ""]

    # what was compared
    runs = [run for members in groups.values() for run in members]
    lines += [f"The runs differ in: {', '.join(differing(runs)) or 'the seed only'}.", ""]

    # where each arm comes from
    for label, members in groups.items():
        inside = differing(members)
        mixed = f"; **its runs differ in {', '.join(inside)}**" if inside else ""
        lines.append(f"- {label}: {', '.join(_shown(run) for run in members)}{mixed}")
    return "\n".join(lines) + "\n"


def _shown(run: Run) -> str:
    """A run in the list of an arm's runs."""
    state = "" if run.finished else ", unfinished"
    return f"{run.folder} (seed {run.seed}{state})"


def geometry_caption(geometry: pd.DataFrame, groups: dict[str, list[Run]]) -> str:
    """How training responses were sampled and scored; "mixed" where runs differ."""
    from g2rl.analysis.captions import one_or_mixed, sampled_and_scored

    captions: list[str] = []
    for arm in dict.fromkeys(geometry["arm"]):
        for run in groups.get(arm, []):
            text = sampled_and_scored(
                run.settings["task.temperature"],
                run.settings["task.top_p"],
                run.settings["task.top_k"],
                run.settings.get("exploration.feature_temperature"),
            )
            captions.append(f"training responses {text}")
    return one_or_mixed(captions)


if __name__ == "__main__":
    main()
