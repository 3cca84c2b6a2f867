"""g2rl-train: one training run, or a sweep with --multirun."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from omegaconf import DictConfig

from g2rl.cli.config import config_dir, refuse_mistakes, register_resolvers

USER_ERRORS = (ValueError, OSError, ImportError, RuntimeError, TypeError, InstantiationException)


def main() -> None:
    """Entry point of `g2rl-train`."""
    register_resolvers()
    if not {"--help", "-h", "--hydra-help", "--version", "--info", "-i"} & set(sys.argv[1:]):
        refuse_mistakes("train")
    hydra.main(config_path=str(config_dir()), config_name="train", version_base="1.3")(run)()


def run(config: DictConfig) -> float:
    """One run in Hydra's output folder; returns the final held-out pass@1."""
    run_dir = Path(HydraConfig.get().runtime.output_dir)
    from g2rl.cli.job import train  # torch is imported here, so that --help stays quick

    try:
        return train(config, run_dir)
    except USER_ERRORS as error:
        if "--traceback" in sys.argv or logging.getLogger().isEnabledFor(logging.DEBUG):
            raise
        raise_cleanly(error, run_dir)


def raise_cleanly(error: BaseException, run_dir: Path) -> NoReturn:
    """Write the traceback into the run folder and end with one readable line."""
    import traceback

    place = run_dir / "error.txt"
    place.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    if isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__  # what the constructor said, without Hydra's account of where
    print(f"error: {error}\n(traceback in {place})", file=sys.stderr)
    raise SystemExit(1) from None


if __name__ == "__main__":
    main()
