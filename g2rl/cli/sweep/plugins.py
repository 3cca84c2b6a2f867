"""Launchers of sweeps that are packages of their own: which was chosen, and is it installed."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

from g2rl.hub import missing_package

PLUGINS = {"joblib": "sweep", "submitit_local": "sweep", "submitit_slurm": "sweep", "ray": "ray"}
"""Launchers that are not Hydra's own, and the extra of this package that brings each."""


def launcher_of(hydra_node: Any) -> str:
    """The chosen launcher: basic, joblib, submitit_local, submitit_slurm, ray."""
    return str(hydra_node.runtime.choices.get("hydra/launcher", "basic"))


def refuse_missing_plugin(launcher: str, target: str) -> None:
    """Exit with code 1 and one line when the launcher's package is not installed."""
    # hydra_plugins.NAME, as the launcher's class says
    package = ".".join(target.split(".")[:2])
    try:
        is_installed = importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # not even hydra_plugins
        is_installed = False

    # name the extra that brings it
    if not is_installed:
        extra = PLUGINS.get(launcher, launcher)
        said = missing_package(f"hydra/launcher={launcher}", package, extra)
        print(f"error: {said}", file=sys.stderr)
        raise SystemExit(1)
