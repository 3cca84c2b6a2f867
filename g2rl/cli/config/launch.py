"""Start a command under Hydra, once what the user typed has been checked."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from omegaconf import DictConfig, OmegaConf, open_dict

from g2rl.cli.config.choices import choices, config_dir
from g2rl.cli.config.labels import run_label
from g2rl.cli.config.mistakes import Shelf, refuse_mistakes
from g2rl.cli.config.names import (
    arm_folder,
    arm_name,
    eval_dir,
    instruction_beside,
    ks_within,
    model_name,
    run_folder,
    run_group,
    run_tag,
    sweep_name,
    unnamed_settings,
)
from g2rl.cli.config.own_code import folders_of, make_importable
from g2rl.cli.config.several import (
    refuse_own_configuration,
    refuse_several_runs,
    refuse_several_values,
)
from g2rl.cli.config.words import (
    HELP_FLAGS,
    UNCHECKED_FLAGS,
    Words,
    escape_paths,
    expand_checkpoints,
    expand_combinations,
)
from g2rl.cli.ctrl_c import EXIT_CTRL_C, quiet_ctrl_c
from g2rl.cli.one_line import in_words

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
    OmegaConf.register_new_resolver("run_folder", run_folder, replace=True)
    OmegaConf.register_new_resolver("eval_dir", eval_dir, replace=True)
    OmegaConf.register_new_resolver("instruction_beside", instruction_beside, replace=True)
    OmegaConf.register_new_resolver("ks_within", ks_within, replace=True)
    OmegaConf.register_new_resolver("arm_folder", arm_folder, replace=True)
    OmegaConf.register_new_resolver("arm_name", arm_name, replace=True)
    OmegaConf.register_new_resolver("sweep_name", sweep_name, replace=True)
    OmegaConf.register_new_resolver("model_name", model_name, replace=True)
    OmegaConf.register_new_resolver("run_group", run_group, replace=True)
    OmegaConf.register_new_resolver("run_label", run_label, replace=True)
    OmegaConf.register_new_resolver("unnamed_settings", unnamed_settings, replace=True)
    OmegaConf.register_new_resolver(
        "choices", lambda group: ", ".join(choices(group)), replace=True
    )


def read_words(path_keys: Sequence[str]) -> Words:
    """What the user typed, as Hydra shall see it.

    Args:
        path_keys: keys whose values are paths, in which "=" needs no escape.
    """
    typed = expand_checkpoints(escape_paths(sys.argv[1:], path_keys))
    return Words.of(expand_combinations(typed))


@quiet_ctrl_c()
def look_ahead(
    config_name: str, path_keys: Sequence[str], plan: Callable[[DictConfig, Path], None]
) -> None:
    """Compose a command's configuration and hand it on, without starting a job of Hydra's.

    Args:
        config_name: name of a file in conf/, without its suffix.
        path_keys: keys whose values are paths, in which "=" needs no escape.
        plan: takes the configuration and the folder where the command would write; it calls
            `work_begins` once all is imported.
    """
    share_cores()
    register_resolvers()
    words = read_words(path_keys)
    refuse_own_configuration(words)
    refuse_mistakes(config_name, words)
    refuse_several_runs(config_name, words)
    try:
        config = Shelf(config_name, tuple(words.config_folders)).compose(words.overrides, True)
        HydraConfig.instance().set_config(config)
        folder = Path(config.hydra.run.dir)
        folders = folders_of(config.hydra)
        with open_dict(config):
            del config["hydra"]
        make_importable(config, folders)
        plan(config, folder)
    except (ValueError, OSError, ImportError, RuntimeError, HydraException) as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) else None
        print(f"error: {in_words(cause or error)}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("\ninterrupted; nothing was written", file=sys.stderr)
        raise SystemExit(EXIT_CTRL_C) from None


@quiet_ctrl_c()
def launch(config_name: str, run: Callable[[DictConfig], Any], path_keys: Sequence[str]) -> None:
    """Run a command under Hydra, its overrides checked first.

    Args:
        config_name: name of a file in conf/, without its suffix.
        run: what the command does with its configuration; it calls `work_begins` once all is
            imported.
        path_keys: keys whose values are paths, in which "=" needs no escape.
    """
    # before torch and Hydra look at the environment and at conf/
    share_cores()
    register_resolvers()
    words = read_words(path_keys)
    if words.has_one_of(HELP_FLAGS):
        words = Words(words.flags, ())  # which help is not about; a misspelt one would end it
    sys.argv[1:] = words.in_order()
    if "--version" in words.flags:
        print(version_line())
        return

    # a pickle could run code
    if any(word.startswith(RERUN_FLAG) for word in sys.argv[1:]):
        print(
            f"error: {RERUN_FLAG} would unpickle a file, which could run code; start the same "
            "command again instead",
            file=sys.stderr,
        )
        raise SystemExit(2)

    # a shell that completes asks about words that are typed half
    if not words.has_one_of(UNCHECKED_FLAGS):
        refuse_mistakes(config_name, words)
        refuse_several_values(config_name, words)
    decorated = hydra.main(
        config_path=str(config_dir()), config_name=config_name, version_base="1.3"
    )(run)
    try:
        decorated()
    except KeyboardInterrupt:
        print("\ninterrupted: the same command begins again", file=sys.stderr)
        raise SystemExit(EXIT_CTRL_C) from None


def version_line() -> str:
    """The versions of this package and of what its results depend on."""
    names = ("g2rl", "torch", "transformers", "hydra-core")
    return ", ".join(f"{name} {version(name)}" for name in names)
