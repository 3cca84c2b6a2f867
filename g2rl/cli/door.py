"""What a command refuses before it makes a folder or loads anything.

Hydra makes the folder of a run itself, so these checks are a callback that it calls before that.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from g2rl.cli.config.choices import config_dir
from g2rl.cli.config.own_code import folders_of, make_importable
from g2rl.cli.ctrl_c import work_begins
from g2rl.cli.folder import refuse_other_settings, refuse_shorter, refuse_unwritable
from g2rl.cli.one_line import in_words
from g2rl.cli.sweep.finished import finished_score
from g2rl.cli.sweep.plugins import launcher_of, refuse_missing_plugin
from g2rl.runs.identity import free_keys
from g2rl.runs.layout import OUTPUTS
from g2rl.tasks.rows import is_local


class Door(Callback):
    """Ends a command that cannot go well with one line, before it leaves a trace.

    Args:
        command: a file of conf/ without its ending: train, evaluate, ...
    """

    def __init__(self, command: str) -> None:
        self.command = command

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        with one_line(bool(config.hydra.verbose)):
            HydraConfig.instance().set_config(config)  # labels look there; Hydra sets it later
            folder = Path(config.hydra.run.dir)
            own = without_hydra(config)
            typed = list(config.hydra.overrides.task)
            make_importable(own, folders_of(config.hydra))
            refuse_shadowed_sources(typed, own)
            if self.command == "train":
                refuse_foreign_preset(typed, own)
            check(self.command, own, folder)
        refuse_unwritable(folder)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        refuse_missing_plugin(launcher_of(config.hydra), str(config.hydra.launcher._target_))
        refuse_unwritable(Path(config.hydra.sweep.dir))
        work_begins()  # arms may run in other processes, which this one has to end

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        # an arm of a sweep, perhaps in a process of its own; a single run has been here already
        if config.hydra.mode == RunMode.MULTIRUN:
            make_importable(without_hydra(config), folders_of(config.hydra))


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
    from g2rl.cli.build.extras import refuse_missing_packages
    from g2rl.cli.build.settings import check_command, plain, read_train_settings

    refuse_missing_packages(config)
    check_command(command, config)
    if is_training:
        read_train_settings(config)
        free = free_keys("train", "resume")
        refuse_shorter(folder, config.trainer.steps, config.resume)
        refuse_other_settings(folder, plain(config), config.resume, free, OUTPUTS)


def refuse_shadowed_sources(overrides: Sequence[str], config: DictConfig) -> None:
    """Refuse a data set of the hub that `data_dir` would silently replace by a local copy.

    The local copy's name belongs to the data set of the file in conf/, not to the one typed. A
    source that is a file is read whatever `data_dir` says.

    Args:
        overrides: what was typed.
        config: composed, without Hydra's own node.

    Raises:
        ValueError: naming both, and how to get either.
    """
    # "task.source.source=ID" as the key and the value
    typed = dict(word.lstrip("+").split("=", 1) for word in overrides if "=" in word)
    for key, source in typed.items():
        place, _, name = key.rpartition(".")
        if name != "source" or f"{place}.local_name" in typed:
            continue
        node = OmegaConf.select(config, place)
        if not isinstance(node, DictConfig) or not node.get("local_name"):
            continue
        if node.get("data_dir") is not None and not is_local(str(node.source)):
            raise ValueError(
                f"{key}={source} with data_dir={node.data_dir}: the local copy {node.local_name} "
                f"of another data set would be read instead; set {place}.data_dir=null to read "
                f"{source} from the hub, or {place}.local_name=FILE for a local copy of it"
            )


def refuse_foreign_preset(overrides: Sequence[str], config: DictConfig) -> None:
    """Refuse to train a model of the user's own under the name and rate of a built-in policy.

    Args:
        overrides: what was typed.
        config: composed, without Hydra's own node.

    Raises:
        ValueError: `model.source` was typed beside the settings of a built-in policy.
    """
    typed = dict(word.lstrip("+").split("=", 1) for word in overrides if "=" in word)
    source = typed.get("model.source")
    is_foreign = source is not None and not source.startswith("builtin:")
    builtin = (config_dir() / "model").glob("*.yaml")
    presets = [path.stem for path in builtin if "source: builtin:" in path.read_text("utf-8")]
    if is_foreign and config.model.name in presets:
        raise ValueError(
            f"model.source={source} beside the settings of model={config.model.name}, whose "
            f"learning rate is {config.model.lr:g}: choose model=hf model.source={source}"
        )


@contextmanager
def one_line(verbose: bool) -> Iterator[None]:
    """Turn an error into one line and exit code 1; `verbose` shows the traceback as well."""
    try:
        yield
    except (ValueError, TypeError, OSError, ImportError, OmegaConfBaseException) as error:
        if verbose:
            traceback.print_exc()
        told = in_words(error, "hydra.run.dir=FOLDER").splitlines()[0]
        print(f"error: {told}", file=sys.stderr)
        raise SystemExit(1) from None
