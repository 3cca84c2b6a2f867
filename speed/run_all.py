"""Run every comparison and write RESULTS.md.

python speed/run_all.py                     or: make bench
python speed/run_all.py NAME ...            these alone, printed and not written
python speed/run_all.py NAME ... --write    these alone, in the place of their rows in RESULTS.md
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from harness import Row, machine

HERE = Path(__file__).parent
RESULTS = HERE / "RESULTS.md"
NAMES = (
    "features",
    "update_head",
    "prefix_sharing",
    "sampling",
    "signal_step",
    "trl_step",
    "group_geometry",
    "evaluation",
    "startup",
)
HEAD = """# Benchmarks

Written by `make bench`; do not edit. Ratios of ours to a peer timed in the same run, in turns:
median of the repeats with their quartiles in brackets. The machine is shared, so single figures
move by some per cent from run to run, and absolute times in the last column mean little. No GPU was
used.

"""


def main() -> None:
    """Run the comparisons one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(NAMES))
    parser.add_argument(
        "--repeats", type=int, help="of every comparison; default: each script's own"
    )
    parser.add_argument(
        "--write", action="store_true", help="put the rows of these names into RESULTS.md"
    )
    args = parser.parse_args()
    is_whole = args.names == list(NAMES)
    if (
        args.write
        and not is_whole
        and f"\n{machine()}.\n" not in RESULTS.read_text(encoding="utf-8")
    ):
        parser.error(f"RESULTS.md is of another machine than {machine()}: run all of them")

    lines = ["| | against | ratio of | | target | met | |", "|---|---|---|---|---|---|---|"]
    for name in args.names:
        print(f"== {name}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "rows.json"
            words = [] if args.repeats is None else ["--repeats", str(args.repeats)]
            subprocess.run(
                [sys.executable, str(HERE / f"{name}.py"), "--json", str(out), *words], check=True
            )
            rows = [Row(**fields) for fields in json.loads(out.read_text(encoding="utf-8"))]
        new_lines = [line(name, row) for row in rows]
        lines += new_lines

        # written after each comparison, so that what has been measured is not lost
        if is_whole:
            text = HEAD + f"{machine()}.\n\n" + "\n".join(lines) + "\n"
            RESULTS.write_text(text, encoding="utf-8")
        elif args.write:
            replace_rows(name, new_lines)


def replace_rows(name: str, rows: list[str]) -> None:
    """Put the rows of one script in the place of its earlier ones, in the order of `NAMES`."""
    head, _, table = RESULTS.read_text(encoding="utf-8").partition("\n| | against |")
    titles, ruler, *lines = f"| | against |{table}".splitlines()

    # every row names its script
    rows_of: dict[str, list[str]] = {other: [] for other in NAMES}
    for row in lines:
        rows_of[row.rpartition("`speed/")[2].partition(".py`")[0]].append(row)
    rows_of[name] = rows
    kept = [row for other in NAMES for row in rows_of[other]]
    RESULTS.write_text("\n".join([head, titles, ruler, *kept, ""]), encoding="utf-8")


def line(name: str, row: Row) -> str:
    """One row of the table."""
    spread = f" [{row.low:.3f}, {row.high:.3f}]" if row.low < row.high else ""
    cells = [
        row.what,
        row.against,
        row.quantity,
        f"**{row.ratio:.3f}**{spread}",
        row.target,
        row.met,
    ]
    return "| " + " | ".join([*cells, f"`speed/{name}.py`: {row.note}"]) + " |"


if __name__ == "__main__":
    main()
