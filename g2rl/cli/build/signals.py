"""Build the training signal and the observers."""

from __future__ import annotations

from collections.abc import Sequence

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from g2rl.cli.config.choices import choices, config_dir
from g2rl.exploration.signal import Signal

NOT_OF_THE_SIGNAL = ("observe", "feature_temperature")
"""Keys of node `exploration` that are not arguments of the signal's constructor."""


def build_signals(node: DictConfig, group_size: int) -> tuple[Signal, list[Signal]]:
    """The training signal and the observers of node `exploration`.

    Raises:
        ValueError: an observer that does not exist, or groups of one for a signal that compares
            responses.
    """
    signal = build_signal(node)
    observers = build_observers(list(node.observe))
    check_group_size([signal, *observers], group_size)
    return signal, observers


def build_signal(node: DictConfig) -> Signal:
    """The training signal, from the keys of the node that are its own."""
    return instantiate({key: node[key] for key in node if key not in NOT_OF_THE_SIGNAL})


def build_observers(names: Sequence[str]) -> list[Signal]:
    """One signal a name, with the settings of its file in conf/exploration."""
    observers: list[Signal] = []
    for name in names:
        if name not in choices("exploration"):
            raise ValueError(
                f"exploration.observe: no signal {name!r}; choose from {choices('exploration')}"
            )
        file = config_dir() / "exploration" / f"{name}.yaml"
        observers.append(instantiate(OmegaConf.load(file)))
    return observers


def check_group_size(signals: Sequence[Signal], group_size: int) -> None:
    """Refuse groups that are too small for a signal.

    Raises:
        ValueError: a group of one, for a signal that compares responses, or fewer responses than a
            signal is defined for.
    """
    for signal in signals:
        smallest = getattr(signal, "smallest_group", 1)
        if group_size < smallest:
            raise ValueError(
                f"trainer.group_size={group_size} with signal {signal.name}: its settings need "
                f"groups of at least {smallest}"
            )
        if group_size == 1 and signal.needs:
            raise ValueError(
                f"trainer.group_size=1 with signal {signal.name}: it compares responses of a "
                "group; use a group size of at least 2"
            )
