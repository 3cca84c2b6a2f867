"""Write docs/files.md, the columns of every table that a command writes, from their descriptions.

    python -m docs.site.files            writes the page again
    python -m docs.site.files --check    says whether it is as the descriptions have it

The descriptions are in `g2rl.runs.columns` and beside the writers of evaluations and analyses.
"""

from __future__ import annotations

import sys
from pathlib import Path

from g2rl.analysis.columns import ANALYSIS_FILES
from g2rl.cli.grade import VERDICTS
from g2rl.evaluation.compare import COMPARISON
from g2rl.evaluation.files import SAMPLES
from g2rl.evaluation.tables import GROUPS, PROBLEMS, RESULTS
from g2rl.runs.columns import GEOMETRY, PROBE, ROLLOUTS, Column, FileSchema
from g2rl.runs.metric_columns import METRICS

PAGE = Path(__file__).resolve().parents[1] / "files.md"

PARTS: dict[str, tuple[FileSchema, ...]] = {
    "Training": (ROLLOUTS, GEOMETRY, PROBE, METRICS),
    "Evaluation": (SAMPLES, PROBLEMS, RESULTS, GROUPS, COMPARISON, VERDICTS),
    "Analysis, comparison, sweeps": ANALYSIS_FILES,
}
"""Headings of the page, and the files under each."""

HEAD = """# Files and columns

Every table that a command writes, with its columns. This page is made from the descriptions that
the writers themselves use (`python -m docs.site.files`), and tests compare these with the files of
real commands.

    import g2rl

    run = g2rl.load_run("runs/NAME")
    run.metrics        # metrics.jsonl as a data frame
    run.samples        # rollouts/ and geometry/ joined, one row a response

A file is read by `pandas.read_parquet(PATH)` or `pandas.read_json(PATH, lines=True)`. Types: `int`
and `float` have 64 bits, `floats` and `texts` are lists, `objects` is a list of records, and `any`
is one of the others. P is the number of problems of a step, G that of responses to each. A name in
braces stands for any: `pass@{k}` for `pass@1`, `pass@4` and so on. A cell is empty only where its
line says what that means, and what is in italics says when a column is there; other columns always
are. JSON files beside them (`summary.json`, `geometry.json`, `fidelity.json`) hold the same numbers
in few lines: the first and the last row of metrics, every number of an analysis with its interval.
"""


def page() -> str:
    """The whole page."""
    out = [HEAD]
    for title, schemas in PARTS.items():
        out += [f"## {title}", ""]
        for schema in schemas:
            out += [*section(schema), ""]
    return "\n".join(out).rstrip() + "\n"


def section(schema: FileSchema) -> list[str]:
    """The lines about one kind of file."""
    lines = [
        f"### {schema.place}",
        "",
        f"Written by `{schema.command}`. Each row is {schema.row}.",
        "",
        "| column | type | unit | meaning |",
        "|---|---|---|---|",
    ]
    for column in schema.columns:
        shape = f" {column.shape}" if column.shape else ""
        meaning = cell(meaning_of(column))
        lines.append(
            f"| `{column.name}` | {column.type}{shape} | {cell(column.unit)} | {meaning} |"
        )
    return lines


def meaning_of(column: Column) -> str:
    """What a column means, when it is there, and what an empty cell says."""
    words = column.meaning
    if column.nullable:
        words += f"; empty: {column.nullable}"
    if column.when:
        words += f". *{column.when}*"
    return words


def cell(text: str) -> str:
    """A text inside a table of Markdown."""
    return text.replace("|", "\\|")


def main() -> int:
    """Write the page; with --check only compare, and return 1 if it is another."""
    wanted = page()
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(wanted, encoding="utf-8")
        return 0
    if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == wanted:
        return 0
    print("docs/files.md is not as the descriptions have it: run python -m docs.site.files")
    return 1


if __name__ == "__main__":
    sys.exit(main())
