"""g2rl-analyze compare: finished runs in one table and one figure, with intervals over seeds."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from g2rl.analysis.comparison.choices import Choices
from g2rl.cli.comparing import (
    CHOICES,
    add_choices,
    choices_of,
    named_after,
    safe_name,
    tell_left_out,
)
from g2rl.cli.config.words import as_flags
from g2rl.cli.one_line import errors_in_one_line

if TYPE_CHECKING:
    import pandas as pd

    from g2rl.analysis.comparison.compared import Compared
    from g2rl.analysis.comparison.runs import Run

EPILOG = """examples
  g2rl-analyze compare runs                                      every run in a folder
  g2rl-analyze compare runs/A-seed0 runs/A-seed1 runs/B-seed0    these
  g2rl-analyze compare runs --by exploration.lam --out evals/lambda
  g2rl-analyze compare runs --against g2rl                       differences to this arm
  g2rl-analyze compare runs --against none --family 'eval/*/pass@1' 'eval/*/distinct'
  g2rl-analyze compare runs --metrics 'eval/*/pass@1' train/entropy

It writes runs.parquet (arm, seed, run, step, metric, value), table.md, compare.png, where there are
several arms contrasts.parquet and differences.png, and where runs wrote gradient cosines
geometry.png. Arms are told apart by the settings that differ in the runs' config.yaml, the seed
left out; intervals are 95 % t-intervals over seeds. Differences are paired by seed, and p values of
all contrasts in the table are adjusted together (Holm), or of those that --family names. Runs that
were measured on different problems are compared by themselves, in a folder each. g2rl-report makes
a page of the same, by the same choices. More in docs/analysis.md."""

LAST_VALUES = "last value of each run: mean over seeds, 95 % t-interval over seeds"
PAIRED = "paired differences: mean over shared seeds, 95 % t-interval"
CONTRASTS = "contrasts: p adjusted over the family (Holm)"
WRITTEN = ("runs.parquet", "contrasts.parquet", "table.md")
"""Tables of one comparison."""


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
        "--out", metavar="FOLDER", type=Path, help="where to write (default: evals/compare-RUNS)"
    )

    # how they are compared, as in g2rl-report
    add_choices(command_line)
    return command_line


def main() -> None:
    """Entry point of `g2rl-analyze compare`, the command's own word already removed."""
    words = parser().parse_args(as_flags(sys.argv[1:], CHOICES))
    with errors_in_one_line():
        compare(words.runs, words.out, choices_of(words))


def compare(
    folders: Sequence[Path], out: Path | None = None, choices: Choices | None = None
) -> Path:
    """Join runs and write tables and figures.

    Runs that were measured on different problems are compared by themselves, in a folder each.

    Args:
        folders: of runs, or folders that hold runs.
        out: where to write; None makes a folder of evals/ that is named after the runs.
        choices: how they are compared; None: as usual.

    Returns:
        The folder that was written.

    Raises:
        ValueError: no run, no finished run without `choices.partial`, a seed twice in an arm, or an
            unknown metric or arm.
    """
    from g2rl.analysis.comparison.compared import read_compared
    from g2rl.runs.lock import one_process_in

    choices = choices or Choices()
    comparisons, left_out = read_compared(folders, choices)
    tell_left_out(left_out)
    out = out or default_folder(folders, choices.by)
    with one_process_in(out, "g2rl-analyze compare", "--out FOLDER"):
        if len(comparisons) > 1:
            print(
                f"these runs were measured on {len(comparisons)} sets of problems, whose numbers "
                "cannot be compared: each has a folder of its own"
            )
            # those of an earlier comparison would be taken for these
            for file in WRITTEN:
                (out / file).unlink(missing_ok=True)
        for one in comparisons:
            folder = out / folder_name(one.name) if one.name else out
            write(one, folder, choices)
    return out


def folder_name(name: str) -> str:
    """``benchmark=math500 limit=4`` as the name of a folder, math500-limit-4."""
    plain = name.removeprefix("benchmark=").replace(" ", "-").replace("=", "-")
    return safe_name(plain, name)


def write(compared: Compared, folder: Path, choices: Choices) -> None:
    """Write and print one comparison.

    Args:
        compared: arms of one benchmark.
        folder: where to write.
        choices: of the user.
    """
    import pandas as pd

    from g2rl.analysis.comparison.contrasts import contrast_frame
    from g2rl.analysis.comparison.training_geometry import training_geometry
    from g2rl.runs.files import atomic_path

    # tables, in files and on the terminal
    geometry = training_geometry(compared.frame)
    with atomic_path(folder / "runs.parquet") as aside:
        pd.concat([compared.frame, geometry], ignore_index=True).to_parquet(aside, index=False)
    with atomic_path(folder / "table.md") as aside:
        aside.write_text(report(compared), encoding="utf-8")
    if compared.against is not None:
        with atomic_path(folder / "contrasts.parquet") as aside:
            contrast_frame(compared.found, compared.against).to_parquet(aside, index=False)
    show_tables(compared)

    # an arm may be there on one benchmark only
    if choices.against not in (None, compared.against):
        print(f"no differences to {choices.against}: there is no such arm, or no other one, here")

    # figures, where it all is, and what is missing
    figures = draw_figures(compared, geometry, folder)
    arms_with_cosines = set(geometry["arm"])
    tell(folder, figures, [label for label in compared.arms if label not in arms_with_cosines])


def default_folder(folders: Sequence[Path], by: Sequence[str]) -> Path:
    """A folder of evals/ for these runs and settings: the same words write in the same place."""
    return Path("evals") / f"compare-{named_after(folders, by)}"


def show_tables(compared: Compared) -> None:
    """The table of the arms and, where there are several, their differences, on the terminal."""
    from g2rl.runs.terminal import output, print_table

    # every arm by itself
    console = output()
    if compared.name:
        console.print(f"\n{compared.name}", markup=False)
    print_table(console, compared.arm_rows(), LAST_VALUES)

    # and against one of them
    if compared.against is not None:
        print_table(console, compared.paired_rows(), PAIRED)
        print_table(console, compared.contrast_rows(), CONTRASTS, labels=2)
        console.print(compared.explanation(), markup=False)


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


def draw_figures(compared: Compared, geometry: pd.DataFrame, out: Path) -> list[Path]:
    """Draw learning curves and, where there are any, differences to an arm and gradient cosines.

    Returns:
        The files that were written.
    """
    from g2rl.analysis.figures.curves import draw_curves, draw_geometry_curves, learning_panels
    from g2rl.analysis.figures.differences import draw_differences
    from g2rl.analysis.figures.ends import held_out_panels

    # always
    frame = compared.frame
    figures = [draw_curves(frame, learning_panels(frame), out / "compare.png")]

    # where there is something to subtract, or to measure
    ends = held_out_panels(frame)
    if compared.against is not None and ends:
        place = out / "differences.png"
        figures.append(draw_differences(frame, ends, compared.against, place))
    if len(geometry):
        caption = geometry_caption(geometry, compared.arms)
        figures.append(draw_geometry_curves(geometry, caption, out / "geometry.png"))
    return figures


def report(compared: Compared) -> str:
    """table.md: values after and before training, what the runs differ in, each arm's folders."""
    from g2rl.analysis.comparison.runs import differing
    from g2rl.analysis.tables import markdown

    # two tables: after and before training
    lines = [
        "# Comparison of runs",
        "",
        "Last value of each run: mean over seeds [95 % t-interval over seeds]; no interval for one "
        "seed.",
        "",
        markdown(compared.arm_rows()),
        "",
        "First value of each run, before training unless the metric is of training itself:",
        "",
        markdown(compared.arm_rows(first=True)),
        "",
    ]

    # and two more, where there is an arm to subtract
    if compared.against is not None:
        lines += ["Paired differences: mean over shared seeds [95 % t-interval].", ""]
        lines += [markdown(compared.paired_rows()), ""]
        lines += [compared.explanation(), "", markdown(compared.contrast_rows()), ""]

    # what was compared
    runs = compared.runs
    lines += [f"The runs differ in: {', '.join(differing(runs)) or 'the seed only'}.", ""]

    # where each arm comes from
    for label, members in compared.arms.items():
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
