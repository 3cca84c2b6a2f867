"""g2rl-analyze: cosines of gradient features, comparison of runs, and the features' fidelity."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from g2rl.cli.config.launch import launch
from g2rl.cli.ctrl_c import work_begins
from g2rl.cli.errors import reported

PATH_KEYS = ("run", "data_dir", "hydra.run.dir")
COMMANDS = {
    "geometry": (
        "cosines of gradient features of responses to one problem, for any checkpoint (Figure 3)"
    ),
    "compare": "finished runs in one table and one figure, with bands over seeds",
    "fidelity": "how well cosines of the features predict cosines of the true gradients",
}
HELP = (
    "usage: g2rl-analyze COMMAND ...\n\n"
    + "\n".join(f"  {name:<10}{text}" for name, text in COMMANDS.items())
    + "\n\ng2rl-analyze COMMAND --help says more."
)


def main() -> None:
    """Entry point of `g2rl-analyze`: the first word chooses the command, the rest is its own."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        asked = len(sys.argv) > 1
        print(HELP, file=sys.stdout if asked else sys.stderr)
        raise SystemExit(0 if asked else 2)

    # the command sees its own words only
    word = sys.argv.pop(1)
    if word not in COMMANDS:
        print(f"error: {unknown(word)}", file=sys.stderr)
        raise SystemExit(2)
    {"geometry": geometry, "compare": compare, "fidelity": fidelity}[word]()


# Each command imports its own job only: the others' libraries would slow down --help.


def compare() -> None:
    """`g2rl-analyze compare`, which needs no Hydra."""
    from g2rl.cli.jobs.compare import main as compare_main

    compare_main()


def geometry() -> None:
    """`g2rl-analyze geometry`."""

    def run(config: DictConfig) -> float:
        """One analysis in Hydra's output folder; returns the mean cosine over all pairs."""
        folder = Path(HydraConfig.get().runtime.output_dir)
        from g2rl.cli.jobs.geometry import geometry as analyze_geometry

        work_begins()
        with reported(folder):
            return analyze_geometry(config, folder, list(HydraConfig.get().overrides.task))

    launch("analyze_geometry", run, PATH_KEYS)


def fidelity() -> None:
    """`g2rl-analyze fidelity`."""

    def run(config: DictConfig) -> float | None:
        """One analysis in Hydra's output folder; returns the pooled Spearman correlation of Phi."""
        folder = Path(HydraConfig.get().runtime.output_dir)
        from g2rl.cli.jobs.fidelity import fidelity as analyze_fidelity

        work_begins()
        with reported(folder):
            return analyze_fidelity(config, folder, list(HydraConfig.get().overrides.task))

    launch("analyze_fidelity", run, PATH_KEYS)


def unknown(word: str) -> str:
    """What to say of a first word that is no command."""
    hint = ""
    near = difflib.get_close_matches(word, COMMANDS, n=1)
    if near:
        hint = f"; did you mean {near[0]}?"
    return f"g2rl-analyze has no command {word!r}: there are {', '.join(COMMANDS)}{hint}"


if __name__ == "__main__":
    main()
