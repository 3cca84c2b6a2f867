"""Objects by the name of their file in conf/, for those who compose no configuration."""

from __future__ import annotations

from typing import Any

from hydra.utils import instantiate
from omegaconf import OmegaConf

from g2rl.cli.build.signals import build_observers
from g2rl.cli.config.choices import choices, config_dir


def build_named(group: str, name: str) -> Any:
    """The object of conf/GROUP/NAME.yaml, with the settings of that file.

    Args:
        group: a folder of conf/ whose files name an object: exploration, encoder or partition.
        name: a file in it, without its ending.

    Raises:
        ValueError: there is no such file; the message lists those that there are.
    """
    known = choices(group)
    if name not in known:
        raise ValueError(f"no {group}={name}; choose from {known}")

    # a signal may be made of others
    if group == "exploration":
        [signal] = build_observers([name])
        return signal
    return instantiate(OmegaConf.load(config_dir() / group / f"{name}.yaml"))
