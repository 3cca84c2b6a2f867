"""Every arm of the study minus plain GRPO of its own setting and seed.

    python experiments/g2rl_choices/figure.py SIGNALS CHOICES OUT.png

SIGNALS: the folder of `g2rl-train experiment=signals`, or of its runs of none and g2rl; CHOICES: of
run.sh.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

from g2rl.analysis.comparison.runs import collect
from g2rl.analysis.figures.differences import draw_differences
from g2rl.analysis.figures.ends import held_out_panels

NONE = "none"
SETTINGS = {
    "choices": "",
    "groups64": ", groups of 64",
    "long150": ", 150 steps",
    "hot": ", 3 x learning rate",
}
NAMES = {
    "g2rl": "g2rl as it is",
    "drop": "g2rl uniform_groups=drop",
    "equation": "g2rl negatives=equation",
    "centered": "g2rl negatives=centered",
    "projection": "g2rl score=projection",
    "rank": "g2rl normalize=rank",
    "entropy": "entropy bonus",
    "evol": "evol reward",
}


def main() -> None:
    signals, choices, out = (Path(word) for word in sys.argv[1:4])
    known = collect([signals])
    parts = []
    for place, (setting, where) in enumerate(SETTINGS.items()):
        arms = {path.name: collect([path]) for path in (choices / setting).iterdir()}
        if setting == "choices":
            arms |= {
                name: known[(known["arm"] == name) & (known["seed"] < 3)]
                for name in ("none", "g2rl")
            }
        for name in ("none", *NAMES):
            if name in arms:
                label = NONE if name == "none" else NAMES[name] + where
                # a setting's seeds are its own, so that an arm is paired with plain GRPO of its
                # setting
                parts.append(arms[name].assign(arm=label, seed=arms[name]["seed"] + 100 * place))
    frame = pd.concat(parts, ignore_index=True)
    title = "minus plain GRPO of the same setting and seed: dropping uniform groups leads G2RL back to it"
    draw_differences(frame, held_out_panels(frame), NONE, out, title)


if __name__ == "__main__":
    main()
