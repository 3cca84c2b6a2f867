"""Print the table of the study and draw docs/figures/signals.png.   python collect.py RUNS_FOLDER"""

from __future__ import annotations

import sys
from pathlib import Path

from g2rl.analysis.runs import finals, markdown_table, plot_arms

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
    signals = [path for name in ("none", "entropy", "evol", "g2rl") if (path := folder / name).is_dir()]
    signals += sorted(path for path in folder.iterdir() if path.is_dir() and path not in signals)
    runs = {path.name: sorted(path.glob("seed*")) for path in signals}
    frame = finals(runs, list(METRICS))
    base = frame.groupby("metric")["before"].mean()
    print("base policy: " + ", ".join(f"{label} {base[name]:.3f}" for name, label in METRICS.items()))
    print(markdown_table(frame, METRICS))
    print(plot_arms(runs, PANELS, Path("docs/figures/signals.png")))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
