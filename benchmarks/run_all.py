"""Run every benchmark and write RESULTS.md.   python benchmarks/run_all.py [NAME ...]   (make bench)"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from harness import Row, machine

HERE = Path(__file__).parent
NAMES = ("features", "update_head", "signal_step", "trl_step", "group_geometry", "evaluation", "startup")
HEAD = """# Benchmarks

Written by `make bench`; do not edit. Ratios of ours to a peer timed in the same run, in turns: median of the
repeats with their quartiles in brackets. The machine is shared, so single figures move by some per cent from
run to run, and absolute times in the last column mean little. No GPU was used.

"""


def main() -> None:
    names = sys.argv[1:] or list(NAMES)
    lines = ["| | against | ratio of | | target | met | |", "|---|---|---|---|---|---|---|"]
    for name in names:
        print(f"== {name}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "rows.json"
            subprocess.run([sys.executable, str(HERE / f"{name}.py"), "--json", str(out)], check=True)
            for row in (Row(**found) for found in json.loads(out.read_text(encoding="utf-8"))):
                spread = f" [{row.low:.3f}, {row.high:.3f}]" if row.low < row.high else ""
                cells = [
                    row.what,
                    row.against,
                    row.quantity,
                    f"**{row.ratio:.3f}**{spread}",
                    row.target,
                    row.met,
                ]
                lines.append("| " + " | ".join([*cells, f"`benchmarks/{name}.py`: {row.note}"]) + " |")
    if not sys.argv[1:]:
        text = HEAD + f"{machine()}.\n\n" + "\n".join(lines) + "\n"
        (HERE / "RESULTS.md").write_text(text, encoding="utf-8")
        print(f"written: {HERE.name}/RESULTS.md")


if __name__ == "__main__":
    main()
