"""Start a command under Hydra, once what the user typed has been checked."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from g2rl.cli.config.choices import choices, config_dir
from g2rl.cli.config.labels import run_label
from g2rl.cli.config.mistakes import refuse_mistakes
from g2rl.cli.config.names import (
    arm_name,
    eval_dir,
    instruction_beside,
    run_group,
    run_tag,
    unnamed_settings,
)

ASKING_FLAGS = {"--help", "-h", "--hydra-help", "--version", "--info", "-i"}
"""Flags that print something and start no run."""

RERUN_FLAG = "--experimental-rerun"
"""A flag of Hydra that reads the configuration of an earlier job from a pickle."""


def share_cores() -> None:
    """Let idle OpenMP threads sleep instead of spin; to be called before torch is imported.

    On a core shared with anything else a spinning team waits for its slowest member: training steps
    of the tiny policy took 7 to 57 s beside one busy process, and 4 s with this. The user's setting
    wins.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def register_resolvers() -> None:
    """Make the functions known that the YAML files of conf/ call as ${NAME:...}."""
    OmegaConf.register_new_resolver("run_tag", run_tag, replace=True)
    OmegaConf.register_new_resolver("eval_dir", eval_dir, replace=True)
    OmegaConf.register_new_resolver("instruction_beside", instruction_beside, replace=True)
    OmegaConf.register_new_resolver("arm_name", arm_name, replace=True)
    OmegaConf.register_new_resolver("run_group", run_group, replace=True)
    OmegaConf.register_new_resolver("run_label", run_label, replace=True)
    OmegaConf.register_new_resolver("unnamed_settings", unnamed_settings, replace=True)
    OmegaConf.register_new_resolver(
        "choices", lambda group: ", ".join(choices(group)), replace=True
    )


def escape_paths(arguments: Sequence[str], keys: Sequence[str]) -> list[str]:
    """Arguments with each "=" inside the values of some keys escaped, as Hydra's grammar asks.

    ``run=runs/lam=3`` becomes ``run=runs/lam\\=3``: folders of runs are named after their
    overrides.
    """
    escaped: list[str] = []
    for word in arguments:
        # a value in quotes, or with escapes of the user's own, is left as it is
        key, _, value = word.partition("=")
        is_quoted = any(mark in value for mark in "'\"\\")
        if key in keys and not is_quoted:
            word = f"{key}={value.replace('=', chr(92) + '=')}"
        escaped.append(word)
    return escaped


def expand_combinations(arguments: Sequence[str]) -> list[str]:
    """Arguments with ``exploration=[passk,outcome]`` written out.

    Hydra would merge the files of a list into one another; what is meant is the combination of
    these signals, ``exploration=combined exploration.parts=[passk,outcome]``.
    """
    words: list[str] = []
    for word in arguments:
        key, _, value = word.partition("=")
        if key == "exploration" and value.startswith("[") and value.endswith("]"):
            words += ["exploration=combined", f"exploration.parts={value}"]
        else:
            words.append(word)
    return words


def launch(config_name: str, run: Callable[[DictConfig], Any], path_keys: Sequence[str]) -> None:
    """Run a command under Hydra, its overrides checked first.

    Args:
        config_name: name of a file in conf/, without its suffix.
        run: what the command does with its configuration.
        path_keys: keys whose values are paths, in which "=" needs no escape.
    """
    # before torch and Hydra look at the environment and at conf/
    share_cores()
    register_resolvers()
    sys.argv[1:] = expand_combinations(escape_paths(sys.argv[1:], path_keys))

    # a pickle could run code
    if any(word.startswith(RERUN_FLAG) for word in sys.argv[1:]):
        print(
            f"error: {RERUN_FLAG} would unpickle a file, which could run code; start the same "
            "command again instead",
            file=sys.stderr,
        )
        raise SystemExit(2)

    # words that only ask for something need not be checked
    if not ASKING_FLAGS & set(sys.argv[1:]):
        refuse_mistakes(config_name)
    hydra.main(config_path=str(config_dir()), config_name=config_name, version_base="1.3")(run)()
