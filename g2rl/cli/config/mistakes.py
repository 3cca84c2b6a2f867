"""What is wrong with the words that a user typed, and what was probably meant."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig

from g2rl.cli.config.choices import choices, config_dir

VALUED_FLAGS = ("--cfg", "-c", "--package", "-p")
"""Flags of Hydra that are followed by a value."""
OWN_CONFIG_FLAGS = ("--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd")
"""Flags with which the user brings another configuration, of which nothing is known here."""


def groups() -> list[str]:
    """All configuration groups: the folders of conf/."""
    return sorted(path.name for path in config_dir().iterdir() if path.is_dir())


def groups_of(config_name: str) -> list[str]:
    """The groups that a command chooses from, those included that other choices bring."""
    choices_made = _compose([], config_name, hydra=True).hydra.runtime.choices
    names = {str(key).split("@")[0] for key in choices_made}
    return sorted(names & set(groups()))


def flat_keys(node: Any, prefix: str = "") -> set[str]:
    """Every dotted key of a configuration, inner nodes included."""
    keys: set[str] = set()
    if not isinstance(node, DictConfig):
        return keys
    for name in node:
        key = f"{prefix}{name!s}"
        keys.add(key)
        child = node._get_node(name)
        if isinstance(child, DictConfig) and not child._is_none():
            keys |= flat_keys(child, f"{key}.")
    return keys


def explain_mistakes(words: Sequence[str], config_name: str) -> str | None:
    """Say what is wrong with the overrides and what was probably meant; None when all is well.

    Only what can be told without running is checked here: names of groups, choices and keys.

    Args:
        words: what the user typed, flags left out.
        config_name: the command's file in conf/.
    """
    # Hydra's grammar first
    try:
        overrides = OverridesParser.create().parse_overrides(list(words))
    except HydraException as error:
        return str(error)

    # then groups and keys
    offered = groups_of(config_name)
    problem = _wrong_choice(overrides, offered)
    return problem or _wrong_key(overrides, offered, config_name)


def _wrong_choice(overrides: Sequence[Override], offered: Sequence[str]) -> str | None:
    """What is wrong with a group that an override names, or with the choice from it."""
    for override in overrides:
        group = override.key_or_group
        if group not in offered:
            if group in groups():
                there = ", ".join(offered)
                return f"{override.input_line}: there is no such group here; there are {there}"
            continue

        # one choice, or those of a sweep
        for name in _values(override):
            if isinstance(name, str) and name not in choices(group):
                problem = f"{group} has no choice {name!r}"
                return _did_you_mean(f"{group}={name}", name, choices(group), problem)
    return None


def _wrong_key(
    overrides: Sequence[Override], offered: Sequence[str], config_name: str
) -> str | None:
    """What is wrong with a key that an override changes."""
    # choices bring keys of their own, so they are made first
    made_choices: list[str] = []
    for override in overrides:
        group = override.key_or_group
        names = [value for value in _values(override) if isinstance(value, str)]
        if group not in offered or not names:
            continue
        if override.package:  # +benchmark@benchmark.suite.aime24=aime24
            made_choices.append(str(override.input_line))
        else:
            made_choices.append(f"{group}={names[0]}")

    # keys that are there now
    known_keys = flat_keys(_compose(made_choices, config_name))
    for override in overrides:
        key = override.key_or_group
        if _must_be_known(override) and key not in offered and key not in known_keys:
            candidates = sorted(known_keys | set(offered))
            problem = f"there is no key {key!r}"
            return _did_you_mean(str(override.input_line), key, candidates, problem)
    return None


def _must_be_known(override: Override) -> bool:
    """Whether an override changes a key, rather than adds or deletes one, or sets up Hydra."""
    if override.is_add() or override.is_delete():
        return False
    return not override.key_or_group.startswith("hydra") and "@" not in override.key_or_group


def _values(override: Override) -> list[Any]:
    """The value of an override, or every value of a simple sweep."""
    if override.is_sweep_override():
        try:
            swept_values = list(override.sweep_iterator())
        except HydraException:
            return []
        return [str(value) for value in swept_values]
    value = override.value()
    return [value.text if isinstance(value, QuotedString) else value]


def _compose(overrides: list[str], config_name: str, hydra: bool = False) -> DictConfig:
    """The configuration of a command, with Hydra's own node if asked for."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return compose(config_name, overrides=overrides, return_hydra_config=hydra)


def _did_you_mean(text: str, wrong: str, known: Sequence[str], problem: str) -> str:
    """One line: what was typed, what is wrong, and the nearest names that exist."""
    near = difflib.get_close_matches(wrong, known, n=3, cutoff=0.6)

    # the right last name under a wrong node
    last = wrong.rsplit(".", 1)[-1]
    near += [key for key in known if key.rsplit(".", 1)[-1] == last and key not in near][:3]

    hint = f"known: {', '.join(known[:20])}"
    if near:
        hint = f"did you mean {' or '.join(near)}?"
    return f"{text}: {problem}; {hint}"


def overrides_of(arguments: Sequence[str]) -> list[str] | None:
    """The KEY=VALUE words among command-line arguments; None if the user brings a configuration."""
    overrides: list[str] = []
    words = iter(arguments)
    for word in words:
        flag = word.split("=", 1)[0]
        if flag in OWN_CONFIG_FLAGS:
            return None
        if word in VALUED_FLAGS:
            next(words, None)
        elif not word.startswith("-"):
            overrides.append(word)
    return overrides


def refuse_mistakes(config_name: str) -> None:
    """Exit with code 2 and one clear line when an override is misspelt."""
    words = overrides_of(sys.argv[1:])
    problem = explain_mistakes(words, config_name) if words else None
    if problem:
        print(f"error: {problem}", file=sys.stderr)
        raise SystemExit(2)
