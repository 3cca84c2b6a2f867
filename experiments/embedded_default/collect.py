"""Print the table of the study and draw docs/figures/signals.png.   python collect.py RUNS_FOLDER"""

from __future__ import annotations

import sys
from pathlib import Path

from g2rl.analysis.compare_plots import draw_curves
from g2rl.analysis.runs import collect, comparison_table

METRICS = {
    "eval/countdown/pass@1": "pass@1",
    "eval/countdown/maj@16": "maj@16",
    "eval/countdown/pass@16": "pass@16",
    "eval/countdown/distinct": "distinct solutions",
    "eval/countdown/length": "length",
    "probe/cosine": "gradient cosine",
    "probe/negative_pairs": "negative pairs",
}
PANELS = {
    "eval/countdown/pass@1": ("held-out pass@1", "share of problems"),
    "eval/countdown/pass@4": ("held-out pass@4", "share of problems"),
    "train/entropy": ("token entropy in training", "nats"),
}


def main(folder: Path) -> None:
    frame = collect([folder])
    print("before training:", comparison_table(frame, METRICS, first=True), sep="\n")
    print("after:", comparison_table(frame, METRICS), sep="\n")
    print(draw_curves(frame, PANELS, Path("docs/figures/signals.png"), columns=3))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
