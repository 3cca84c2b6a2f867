"""g2rl-eval: evaluate a model, grade samples again, or compare evaluations."""

from __future__ import annotations

import sys
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from g2rl.cli.config.launch import launch
from g2rl.cli.errors import reported


def main() -> None:
    """Entry point of `g2rl-eval`."""
    launch("evaluate", run, ("run", "samples", "compare", "data_dir", "hydra.run.dir"))


def run(config: DictConfig) -> float | None:
    """One evaluation in Hydra's output folder; returns pass@1 averaged over benchmarks."""
    # torch is imported here, so that --help stays quick
    from g2rl.cli.jobs.evaluate import evaluate

    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        with reported(folder):
            return evaluate(config, folder, list(HydraConfig.get().overrides.task))
    except KeyboardInterrupt:
        print(
            "interrupted: the same command continues after the last finished part", file=sys.stderr
        )
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
