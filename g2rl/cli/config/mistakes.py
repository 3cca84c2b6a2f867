"""TODO docstring."""

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

from g2rl.cli.config.launch import choices, config_dir

VALUED_FLAGS = ("--cfg", "-c", "--package", "-p")
OWN_CONFIG_FLAGS = ("--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd")


def groups() -> list[str]:
    return sorted(path.name for path in config_dir().iterdir() if path.is_dir())


def groups_of(config_name: str) -> list[str]:
    """The groups that a command chooses from: those of its defaults list and what their choices
    bring."""
    chosen = _compose([], config_name, hydra=True).hydra.runtime.choices
    return sorted(
        name for name in groups() if any(str(key).split("@")[0] == name for key in chosen)
    )


def flat_keys(node: Any, prefix: str = "") -> set[str]:
    """Every dotted key of a configuration, inner nodes included."""
    found: set[str] = set()
    for name in node if isinstance(node, DictConfig) else ():
        key = f"{prefix}{name!s}"
        found.add(key)
        child = node._get_node(name)
        if isinstance(child, DictConfig) and not child._is_none():
            found |= flat_keys(child, f"{key}.")
    return found


def explain_mistakes(words: Sequence[str], config_name: str) -> str | None:
    """Say what is wrong with the overrides and what was probably meant; None when all is well.

    Only what can be told without running is checked here: names of groups, choices and keys.
    """
    try:
        overrides = OverridesParser.create().parse_overrides(list(words))
    except HydraException as error:
        return str(error)
    chosen: list[str] = []
    offered = groups_of(config_name)
    for override in overrides:
        if override.key_or_group in set(groups()) - set(offered):
            return f"{override.input_line}: there is no such group here; there are {', '.join(offered)}"
        if override.key_or_group not in offered:
            continue
        names = [v for v in _values(override) if isinstance(v, str)]
        unknown = [name for name in names if name not in choices(override.key_or_group)]
        if unknown:
            return _did_you_mean(
                f"{override.key_or_group}={unknown[0]}",
                unknown[0],
                choices(override.key_or_group),
                f"{override.key_or_group} has no choice {unknown[0]!r}",
            )
        if names and override.package:  # +benchmark@benchmark.suite.aime24=aime24
            chosen.append(str(override.input_line))
        elif names:
            chosen.append(f"{override.key_or_group}={names[0]}")
    known = flat_keys(_compose(chosen, config_name))
    for override in overrides:
        key = override.key_or_group
        plain = not (override.is_add() or override.is_delete())
        if (
            plain
            and key not in offered
            and not key.startswith("hydra")
            and "@" not in key
            and key not in known
        ):
            return _did_you_mean(
                str(override.input_line),
                key,
                sorted(known | set(offered)),
                f"there is no key {key!r}",
            )
    return None


def _values(override: Override) -> list[Any]:
    """The value of an override, or every value of a simple sweep."""
    if override.is_sweep_override():
        try:
            found = list(override.sweep_iterator())
        except HydraException:
            return []
        return [str(value) for value in found]
    value = override.value()
    return [value.text if isinstance(value, QuotedString) else value]


def _compose(overrides: list[str], config_name: str, hydra: bool = False) -> DictConfig:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return compose(config_name, overrides=overrides, return_hydra_config=hydra)


def _did_you_mean(text: str, wrong: str, known: Sequence[str], problem: str) -> str:
    near = difflib.get_close_matches(wrong, known, n=3, cutoff=0.6)
    last = wrong.rsplit(".", 1)[-1]  # the right leaf under the wrong node
    near += [key for key in known if key.rsplit(".", 1)[-1] == last and key not in near][:3]
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known[:20])}"
    return f"{text}: {problem}; {hint}"


def overrides_of(arguments: Sequence[str]) -> list[str] | None:
    """The KEY=VALUE words among command-line arguments; None when another configuration is asked
    for."""
    found: list[str] = []
    words = iter(arguments)
    for word in words:
        flag = word.split("=", 1)[0]
        if flag in OWN_CONFIG_FLAGS:
            return None
        if word in VALUED_FLAGS:
            next(words, None)
        elif not word.startswith("-"):
            found.append(word)
    return found


def refuse_mistakes(config_name: str) -> None:
    """Exit with code 2 and one clear line when an override is misspelt."""
    words = overrides_of(sys.argv[1:])
    problem = explain_mistakes(words, config_name) if words else None
    if problem:
        print(f"error: {problem}", file=sys.stderr)
        raise SystemExit(2)
