"""The words of a command line: flags of Hydra's, and overrides KEY=VALUE."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

CONFIG_DIR = ("--config-dir", "-cd")
"""Flags that add a folder of configuration files to conf/."""
OWN_CONFIGURATION = ("--config-path", "-cp", "--config-name", "-cn")
"""Flags with which the user brings another configuration, of which nothing is known here."""
VALUED_FLAGS = ("--cfg", "-c", "--package", "-p", *CONFIG_DIR, *OWN_CONFIGURATION)
"""Flags of Hydra that are followed by a value."""
MULTIRUN = ("--multirun", "-m")
"""Flags that make a sweep."""
PLAIN_FLAGS = (
    *("--help", "-h", "--hydra-help", "--version", "--resolve", "--run", "-r"),
    *(*MULTIRUN, "--shell-completion", "-sc", "--info", "-i"),
)
"""Its other flags."""
DRY_RUN = "--dry-run"
"""A flag of g2rl-train alone, which it takes out before Hydra sees the words."""
HELP_FLAGS = ("--help", "-h", "--hydra-help")
"""Flags that print the same whatever settings are typed."""
UNCHECKED_FLAGS = ("--info", "-i", "--shell-completion", "-sc")
"""Flags that start no run, and behind which words stand that are no settings."""

_OF_A_CHECKPOINT = re.compile(r"(?P<run>run=[^,]+)/checkpoints/step_(?P<step>\d+)/?")


@dataclass(slots=True, frozen=True)
class Words:
    """What the user typed behind the command."""

    flags: tuple[str, ...]
    """With the values of those that have one."""
    overrides: tuple[str, ...]

    @classmethod
    def of(cls, arguments: Iterable[str]) -> Words:
        """Tell flags from overrides, wherever they stand."""
        flags: list[str] = []
        overrides: list[str] = []
        words = iter(arguments)
        for word in words:
            # its value may look like anything
            if word in VALUED_FLAGS:
                flags += [word, *_next_of(words)]
            elif word.startswith("-"):
                flags.append(word)
            else:
                overrides.append(word)
        return cls(tuple(flags), tuple(overrides))

    def in_order(self) -> list[str]:
        """Flags first: Hydra reads no override behind a flag that stands among overrides."""
        return [*self.flags, *self.overrides]

    def has_one_of(self, names: Sequence[str]) -> bool:
        """Whether one of these flags was typed."""
        return any(flag.split("=", 1)[0] in names for flag in self.flags)

    @property
    def own_configuration(self) -> bool:
        """Whether the user brings a configuration of which nothing is known here."""
        return self.has_one_of(OWN_CONFIGURATION)

    @property
    def config_folders(self) -> list[Path]:
        """Folders that the user adds to conf/."""
        folders: list[Path] = []
        for place, flag in enumerate(self.flags):
            # --config-dir=FOLDER, or the folder in the next word
            name, _, value = flag.partition("=")
            value = value or "".join(self.flags[place + 1 : place + 2])
            if name in CONFIG_DIR and value:
                folders.append(Path(value))
        return folders

    def without_value(self) -> str | None:
        """The flag that lacks the value which belongs behind it."""
        for flag in self.flags:
            if flag.endswith("=") and flag[:-1] in VALUED_FLAGS:
                return flag[:-1]

        # the last one, with nothing behind it
        last = self.flags[-1:]
        is_value = len(self.flags) > 1 and self.flags[-2] in VALUED_FLAGS
        return last[0] if last and last[0] in VALUED_FLAGS and not is_value else None

    def unknown_flags(self) -> list[str]:
        """Flags that do not exist."""
        known = (*VALUED_FLAGS, *PLAIN_FLAGS)
        unknown: list[str] = []
        for place, flag in enumerate(self.flags):
            # the value of a flag is none itself
            is_value = place > 0 and self.flags[place - 1] in VALUED_FLAGS
            if not is_value and flag.split("=", 1)[0] not in known:
                unknown.append(flag)
        return unknown


def _next_of(words: Iterable[str]) -> list[str]:
    """The next word, where there is one."""
    for word in words:
        return [word]
    return []


def escape_paths(arguments: Sequence[str], keys: Sequence[str]) -> list[str]:
    """Arguments with each "=" inside a value escaped, as Hydra's grammar asks.

    ``run=runs/lam=3`` becomes ``run=runs/lam\\=3``: folders of runs are named after their
    overrides.

    Args:
        arguments: as typed.
        keys: whose values are paths, which may hold parentheses and braces as well.
    """
    escaped: list[str] = []
    for word in arguments:
        # a value in quotes, or with escapes of the user's own, is left as it is
        key, _, value = word.partition("=")
        is_quoted = any(mark in value for mark in "'\"\\")
        is_function = key not in keys and any(mark in value for mark in "({")
        if not (word.startswith("-") or is_quoted or is_function):
            word = f"{key}={value.replace('=', chr(92) + '=')}" if value else word
        escaped.append(word)
    return escaped


def expand_combinations(arguments: Sequence[str]) -> list[str]:
    """Arguments with ``exploration=[passk,outcome]`` written out.

    Hydra would merge the files of a list into one another; what is meant is the combination of
    these signals, ``exploration=combined exploration.parts=[passk,outcome]``.
    """
    words: list[str] = []
    for word in arguments:
        # a list in brackets: signals that are combined
        key, _, value = word.partition("=")
        if key == "exploration" and value.startswith("[") and value.endswith("]"):
            words += ["exploration=combined", f"exploration.parts={value}"]
        else:
            words.append(word)
    return words


def expand_checkpoints(arguments: Sequence[str]) -> list[str]:
    """Arguments with ``run=RUN/checkpoints/step_000040`` as ``run=RUN checkpoint=40``."""
    words: list[str] = []
    for word in arguments:
        # run=RUN/checkpoints/step_000040 names both
        found = _OF_A_CHECKPOINT.fullmatch(word)
        if found:
            words += [found["run"], f"checkpoint={int(found['step'])}"]
        else:
            words.append(word)
    return words


def as_flags(arguments: Sequence[str], names: Sequence[str]) -> list[str]:
    """Arguments with ``out=FOLDER`` as ``--out=FOLDER``, for commands without Hydra."""
    words: list[str] = []
    for word in arguments:
        # whatever else looks like a setting is a file's name
        is_setting = word.partition("=")[0] in names and "=" in word
        words.append(f"--{word}" if is_setting else word)
    return words
