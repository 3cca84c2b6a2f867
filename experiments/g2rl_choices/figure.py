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
"""Plain GRPO, the arm that is subtracted."""
SEEDS = 3
SETTINGS = {
    "choices": "",
    "groups64": ", groups of 64",
    "long150": ", 150 steps",
    "hot": ", 3 x learning rate",
}
"""Folder of each setting, and what it adds to the name of an arm."""
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
"""Folder of each arm, and its name in the figure, in the order of the rows."""


def main() -> None:
    signals, choices, out = (Path(word) for word in sys.argv[1:4])
    of_signals = collect([signals])
    tables = []
    for place, (setting, suffix) in enumerate(SETTINGS.items()):
        arms = {path.name: collect([path]) for path in (choices / setting).iterdir()}

        # the default setting shares its two main arms with the study of signals
        if setting == "choices":
            for name in (NONE, "g2rl"):
                of_arm = of_signals["arm"] == name
                arms[name] = of_signals[of_arm & (of_signals["seed"] < SEEDS)]

        # a setting's seeds are its own, so that an arm is paired with plain GRPO of its setting
        for name in (NONE, *NAMES):
            if name in arms:
                label = NONE if name == NONE else NAMES[name] + suffix
                seed = arms[name]["seed"] + 100 * place
                tables.append(arms[name].assign(arm=label, seed=seed))

    frame = pd.concat(tables, ignore_index=True)
    title = (
        "minus plain GRPO of the same setting and seed: "
        "dropping uniform groups leads G2RL back to it"
    )
    draw_differences(frame, held_out_panels(frame), NONE, out, title)


if __name__ == "__main__":
    main()
