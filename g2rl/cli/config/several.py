"""Several values of a setting: a sweep makes a run of each, and one run takes one of them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf

from g2rl.cli.config.mistakes import Shelf
from g2rl.cli.config.words import DRY_RUN, MULTIRUN, OWN_CONFIGURATION, Words

IN_A_SHELL = "add --multirun for a run with each"
"""What helps somebody who types a command; a function or an arm of the bake-off says its own."""


def explain_several(
    words: Sequence[str], config_name: str, folders: Sequence[Path], mend: str
) -> str | None:
    """Say which setting has several values where one run is to be made; None where none has.

    Args:
        words: what the user typed, flags left out, free of mistakes.
        config_name: the command's file in conf/.
        folders: further folders of configuration files.
        mend: what makes a run of each value, in words.
    """
    # most commands have one value of each setting
    swept, others = _parted(words)
    if not swept:
        return None

    # an experiment or hydra.mode may make a sweep of it without the flag
    typed = [str(override.input_line) for override in others]
    config = Shelf(config_name, tuple(folders)).compose(typed, hydra=True)
    if config.hydra.mode == RunMode.MULTIRUN:
        return None
    first = swept[0]
    key = first.key_or_group
    return f"{first.input_line}: one run takes one value of {key}: {mend}{_as_one(first, config)}"


def _as_one(override: Override, config: DictConfig) -> str:
    """How a list, or a text that holds a comma, is typed, where the setting may be one."""
    if override.value_type != ValueType.SIMPLE_CHOICE_SWEEP:
        return ""
    key = override.key_or_group
    now = OmegaConf.select(config, key, throw_on_missing=False)
    value = str(override.input_line).partition("=")[2]

    # a setting without a value may take either
    as_list, as_text = f"{key}=[{value}]", f"\"{key}='{value}'\""
    if isinstance(now, ListConfig):
        return f", or type the list as {as_list}"
    if isinstance(now, str):
        return f", or type the text as {as_text}, quotes included"
    if now is None:
        return f", or type a list as {as_list}, a text as {as_text}, quotes included"
    return ""


def refuse_several_values(config_name: str, words: Words) -> None:
    """Exit with code 2 where a setting has several values and nothing makes a sweep of them.

    Args:
        config_name: the command's file in conf/.
        words: what the user typed, free of mistakes.
    """
    # of a configuration of the user's own nothing is known, and a sweep may have been asked for
    if words.own_configuration or words.has_one_of(MULTIRUN):
        return
    problem = explain_several(words.overrides, config_name, words.config_folders, IN_A_SHELL)
    if problem:
        print(f"error: {problem}", file=sys.stderr)
        raise SystemExit(2)


def refuse_own_configuration(words: Words) -> None:
    """Exit with code 2 where a dry run is asked of a configuration of which nothing is known.

    Args:
        words: what the user typed.
    """
    # without this the plan would be that of conf/, in silence
    typed = [flag for flag in words.flags if flag.split("=", 1)[0] in OWN_CONFIGURATION]
    if typed:
        print(
            f"error: {DRY_RUN} plans g2rl's own configuration, and {typed[0]} names another: put "
            "your settings into a file experiment/NAME.yaml of a folder, and type experiment=NAME "
            "--config-dir FOLDER",
            file=sys.stderr,
        )
        raise SystemExit(2)


def refuse_several_runs(config_name: str, words: Words) -> None:
    """Exit with code 2 where what was typed makes several runs: a dry run tells about one.

    Args:
        config_name: the command's file in conf/.
        words: what the user typed, free of mistakes.
    """
    swept, others = _parted(words.overrides)
    swept_words = " ".join(str(override.input_line) for override in swept)
    other_words = [str(override.input_line) for override in others]

    # an experiment may be a sweep by itself
    problem = f"{swept_words} makes several: type one value of each"
    if not swept:
        hydra = Shelf(config_name, tuple(words.config_folders)).compose(other_words, True).hydra
        if hydra.mode != RunMode.MULTIRUN:
            return
        swept_keys = ", ".join(str(key) for key in hydra.sweeper.params or ())
        problem = f"this is a sweep over {swept_keys}: add hydra.mode=RUN, and one value of each"
    print(f"error: {DRY_RUN} tells about one run, and {problem}", file=sys.stderr)
    raise SystemExit(2)


def _parted(words: Sequence[str]) -> tuple[list[Override], list[Override]]:
    """Overrides with several values, and the others."""
    swept: list[Override] = []
    others: list[Override] = []
    for override in OverridesParser.create().parse_overrides(list(words)):
        listed = swept if override.is_sweep_override() else others
        listed.append(override)
    return swept, others
