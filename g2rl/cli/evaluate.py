"""g2rl-eval: evaluate a model, grade samples again, or compare evaluations."""

from __future__ import annotations

import sys
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from g2rl.cli.config.launch import launch
from g2rl.cli.ctrl_c import EXIT_CTRL_C, work_begins
from g2rl.cli.errors import reported


def main() -> None:
    """Entry point of `g2rl-eval`."""
    launch("evaluate", run, ("run", "samples", "compare", "data_dir", "hydra.run.dir"))


def run(config: DictConfig) -> float | None:
    """One evaluation in Hydra's output folder; returns pass@1 averaged over benchmarks."""
    # torch is imported here, so that --help stays quick
    from g2rl.cli.jobs.evaluate import evaluate

    # a part that is done is stored, so Ctrl-C loses no more than one
    work_begins()
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        with reported(folder):
            return evaluate(config, folder, list(HydraConfig.get().overrides.task))
    except KeyboardInterrupt:
        print(
            "\ninterrupted: the same command continues after the last finished part",
            file=sys.stderr,
        )
        raise SystemExit(EXIT_CTRL_C) from None


if __name__ == "__main__":
    main()
