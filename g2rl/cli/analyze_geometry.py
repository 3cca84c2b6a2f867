"""g2rl-analyze geometry: pairwise cosines of gradient features, for any checkpoint."""

from __future__ import annotations

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from g2rl.cli.config.launch import launch
from g2rl.cli.errors import reported


def main() -> None:
    """Entry point of `g2rl-analyze geometry`, the command's own word already removed."""
    launch("analyze_geometry", run, ("run", "data_dir", "hydra.run.dir"))


def run(config: DictConfig) -> float:
    """One analysis in Hydra's output folder; returns the mean gradient cosine over all pairs."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    from g2rl.cli.jobs.geometry import (
        geometry,
    )  # torch is imported here, so that --help stays quick

    with reported(folder):
        return geometry(config, folder, list(HydraConfig.get().overrides.task))


if __name__ == "__main__":
    main()
