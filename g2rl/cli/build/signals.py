"""Build the training signal and the observers."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from g2rl.cli.build.arguments import build, check_arguments, missing_arguments, object_of
from g2rl.cli.build.settings import NOT_OF_THE_SIGNAL, plain
from g2rl.cli.config.choices import config_dir
from g2rl.cli.config.mistakes import Shelf
from g2rl.cli.config.own_code import make_importable, own_folders
from g2rl.cli.config.settings_file import read_settings
from g2rl.exploration.asking import HELP, SignalError, check_signal
from g2rl.exploration.combined import Combined
from g2rl.exploration.signal import ESTIMATOR, Signal, level_of
from g2rl.formulas.advantages import GroupAdvantage

log = logging.getLogger(__name__)

COMBINED = "g2rl.exploration.combined.Combined"
"""The target whose parts are built here, because each has a file of its own."""
OF_ONE_RESPONSE = frozenset({"entropy", "token_entropy", "texts", "problem_ids"})
"""Needs that compare no response with another."""


def build_signals(
    node: DictConfig, group_size: int, advantage: GroupAdvantage | None = None
) -> tuple[Signal, list[Signal]]:
    """The training signal and the observers of node `exploration`.

    Args:
        node: node `exploration`.
        group_size: responses to a prompt.
        advantage: what the algorithm makes of rewards; None takes its defaults.

    Raises:
        ValueError: an observer that does not exist, or groups of one for a signal that compares
            responses.
    """
    signal = build_signal(node, advantage)
    observers = build_observers(list(node.observe), advantage)
    check_group_size([signal, *observers], group_size)
    warn_of_groups_of_one(signal, group_size)
    if advantage is not None:
        warn_of_unused_settings(signal, advantage)
    return signal, observers


def build_signal(node: DictConfig, advantage: GroupAdvantage | None = None) -> Signal:
    """The training signal, from the keys of the node that are its own.

    Args:
        node: node `exploration`, or a file of conf/exploration.
        advantage: what the algorithm makes of rewards; None takes its defaults.

    Raises:
        SignalError: the node builds something that is no signal.
        ValueError: it lacks an argument, or the constructor of an own class raised.
    """
    # parts of a combination have files of their own, which Hydra would not find
    values = {str(key): node[key] for key in node if key not in NOT_OF_THE_SIGNAL}
    if values["_target_"] == COMBINED:
        return build_combination(values, advantage or GroupAdvantage())

    # one's own class may lack what the loop takes for granted
    key = f"exploration._target_={values['_target_']}"
    target = object_of(str(values["_target_"]), "exploration")
    missing = missing_arguments(target, values)
    if missing and not inspect.isclass(target):
        # a function that makes a signal of its settings is all right
        raise SignalError(
            f"{key} is no class, and asks for {', '.join(missing)}; name a class whose __call__ "
            f"takes the batch; {HELP}"
        )
    signal: Signal = build(values, "exploration")
    check_signal(signal, key)
    return signal


def build_combination(values: Mapping[str, Any], advantage: GroupAdvantage) -> Signal:
    """A combination of signals, see `g2rl.exploration.combined`.

    Args:
        values: `parts`, names of signals, and `settings`, those of parts that differ from their
            files.
        advantage: what the algorithm makes of rewards.

    Raises:
        ValueError: a part that does not exist, settings of something that is no part, a setting
            that the part does not have, or parts that do not go together.
    """
    # settings must belong to a part
    names = [str(name) for name in values["parts"]]
    changes = values.get("settings") or {}
    for name in changes:
        if name not in names:
            raise ValueError(f"exploration.settings.{name}: it is none of the parts {names}")

    parts: list[Signal] = []
    for name in names:
        # the part's own file, with what was changed
        node = signal_file(name, "exploration.parts")
        for key, value in (changes.get(name) or {}).items():
            if key not in node:
                known = [str(known) for known in node if known != "_target_"]
                raise ValueError(
                    f"exploration.settings.{name}.{key}: {name} has no such setting; it has {known}"
                )
            node[key] = value
        if node._target_ != COMBINED:
            check_arguments(get_class(node._target_), plain(node), f"exploration.settings.{name}")
        parts.append(build_signal(node, advantage))
    return Combined(parts, advantage)


def signal_file(name: str, setting: str) -> DictConfig:
    """The settings of a signal, from its file in conf/exploration.

    Raises:
        ValueError: there is no such signal, or its file builds none; the message names the setting
            that asked for it.
    """
    # the file's name is the signal's; the first folder wins, as in Hydra
    files: dict[str, Path] = {}
    for folder in (config_dir(), *own_folders()):
        for path in sorted((folder / "exploration").glob("*.yaml")):
            files.setdefault(path.stem, path)
    if name not in files:
        raise ValueError(f"{setting}: no signal {name!r}; choose from {sorted(files)}")
    node = read_settings(files[name])

    # one that is made of others, by a list of defaults, only Hydra can put together
    if "defaults" in node:
        node = composed_signal(name, setting)
    if "_target_" not in node:
        raise ValueError(
            f"{setting}: {files[name]} builds no signal; give it a _target_, or a list of defaults "
            "with a signal that has one"
        )
    make_importable(node, own_folders())
    return node


def composed_signal(name: str, setting: str) -> DictConfig:
    """The settings of a signal as training with it has them, without those of all signals.

    Raises:
        ValueError: its list of defaults names something that is not there.
    """
    try:
        node = Shelf("train", own_folders()).compose([f"exploration={name}"]).exploration
    except HydraException as error:
        raise ValueError(f"{setting}: signal {name} cannot be composed: {error}") from error

    # a setting of another node has no value here, as in files that are read alone
    values = OmegaConf.to_container(node, resolve=False)
    assert isinstance(values, dict)
    for key in NOT_OF_THE_SIGNAL:
        values.pop(key, None)
    return OmegaConf.create({"exploration": values}).exploration


def build_observers(names: Sequence[str], advantage: GroupAdvantage | None = None) -> list[Signal]:
    """One signal a name, with the settings of its file in conf/exploration."""
    observers: list[Signal] = []
    for name in names:
        observers.append(build_signal(signal_file(name, "exploration.observe"), advantage))
    return observers


def warn_of_groups_of_one(signal: Signal, group_size: int) -> None:
    """Warn that a lone response is compared with itself, and so teaches nothing.

    An estimator brings advantages of its own, which need not be zero.
    """
    parts: Sequence[Signal] = getattr(signal, "parts", [signal])
    if group_size == 1 and not any(level_of(part) == ESTIMATOR for part in parts):
        log.warning(
            "trainer.group_size=1 with exploration=%s: an advantage is a reward minus the mean of "
            "its group, which is 0 for a group of one, so rewards teach nothing; set "
            "trainer.group_size to 2 or more",
            signal.name,
        )


def warn_of_unused_settings(signal: Signal, advantage: GroupAdvantage) -> None:
    """Warn that a policy for uniform groups which the user has set does nothing.

    The advantages of an estimator are used as they are.
    """
    # an estimator alone, or as a part
    parts: Sequence[Signal] = getattr(signal, "parts", [signal])
    estimators = [part.name for part in parts if level_of(part) == ESTIMATOR]
    if estimators and advantage.uniform_groups != GroupAdvantage().uniform_groups:
        log.warning(
            "algorithm.uniform_groups=%s has no effect: the advantages of exploration=%s are used "
            "as they are",
            advantage.uniform_groups,
            estimators[0],
        )


def check_group_size(signals: Sequence[Signal], group_size: int) -> None:
    """Refuse groups that are too small for a signal.

    Raises:
        ValueError: a group of one, for a signal that compares responses, or fewer responses than a
            signal is defined for.
    """
    for signal in signals:
        # what the signal's settings ask for
        smallest = getattr(signal, "smallest_group", 1)
        if group_size < smallest:
            raise ValueError(
                f"trainer.group_size={group_size} with signal {signal.name}: its settings need "
                f"groups of at least {smallest}"
            )
        # one response has nobody to be compared with
        if group_size == 1 and signal.needs - OF_ONE_RESPONSE:
            raise ValueError(
                f"trainer.group_size=1 with signal {signal.name}: it compares responses of a "
                "group; use a group size of at least 2"
            )
