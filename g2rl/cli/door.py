"""What a command refuses before it makes a folder or loads anything.

Hydra makes the folder of a run itself, so these checks are a callback that it calls before that.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

from g2rl.cli.config.launch import EXIT_CTRL_C
from g2rl.cli.folder import refuse_other_settings, refuse_unwritable
from g2rl.cli.sweep.finished import finished_score
from g2rl.runs.identity import free_keys
from g2rl.runs.layout import OUTPUTS


class Door(Callback):
    """Ends a command that cannot go well with one line, before it leaves a trace.

    Args:
        command: a file of conf/ without its ending: train, evaluate, ...
    """

    def __init__(self, command: str) -> None:
        self.command = command

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        with one_line(bool(config.hydra.verbose)), quiet_interrupt():
            HydraConfig.instance().set_config(config)  # labels look there; Hydra sets it later
            folder = Path(config.hydra.run.dir)
            check(self.command, without_hydra(config), folder)
        refuse_unwritable(folder)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        refuse_unwritable(Path(config.hydra.sweep.dir))


def without_hydra(config: DictConfig) -> DictConfig:
    """The settings of the command itself."""
    own = config.copy()
    with open_dict(own):
        del own["hydra"]
    return own


def check(command: str, config: DictConfig, folder: Path) -> None:
    """Check the settings of a command, and whether its folder may be continued with them.

    Args:
        command: a file of conf/ without its ending.
        config: composed, without Hydra's own node.
        folder: where the command will write; it is only looked at.

    Raises:
        ValueError: a setting that cannot be, or a folder with work of other settings.
    """
    # a finished run is passed over without loading torch
    is_training = command == "train"
    if is_training and config.resume == "auto" and finished_score(config, folder) is not None:
        return

    # torch comes with the records that check the settings
    from g2rl.cli.build.settings import check_command, plain, read_train_settings

    check_command(command, config)
    if is_training:
        read_train_settings(config)
        free = free_keys("train", "resume")
        refuse_other_settings(folder, plain(config), config.resume, free, OUTPUTS)


@contextmanager
def one_line(verbose: bool) -> Iterator[None]:
    """Turn an error into one line and exit code 1; `verbose` shows the traceback as well."""
    try:
        yield
    except (ValueError, TypeError, OSError, ImportError, OmegaConfBaseException) as error:
        if verbose:
            traceback.print_exc()
        print(f"error: {str(error).splitlines()[0]}", file=sys.stderr)
        raise SystemExit(1) from None


@contextmanager
def quiet_interrupt() -> Iterator[None]:
    """Let Ctrl-C end the process with one line while torch is imported.

    A library that is interrupted in its import raises whatever it likes, so nothing is raised.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        print("\ninterrupted before anything began", file=sys.stderr, flush=True)
        os._exit(EXIT_CTRL_C)

    # only the main thread may set handlers; it has Python's own when a user started the command
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
