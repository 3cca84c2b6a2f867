"""The folder of a run or an evaluation: new, continued with the same settings, or wiped."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from g2rl.runs.files import atomic_path
from g2rl.runs.identity import differences
from g2rl.runs.layout import RunFolder

RESUME = ("auto", "never")


class RefuseUnwritable(Callback):
    """Ends a command that cannot write in its folder with one line, before anything is loaded.

    A Hydra callback, because Hydra itself is the first to write there.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        refuse_unwritable(Path(config.hydra.run.dir))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        refuse_unwritable(Path(config.hydra.sweep.dir))


def refuse_unwritable(folder: Path) -> None:
    """Make the folder and write a page into it; exit with code 1 when that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(4096))
            probe.flush()
    except OSError as error:
        print(
            f"error: cannot write in {folder}: {error.strerror}; free or allow it, or write "
            "elsewhere with hydra.run.dir=... (hydra.sweep.dir=... of a sweep)",
            file=sys.stderr,
        )
        raise SystemExit(1) from None


def prepare(
    folder: Path, config: dict[str, Any], resume: str, free: Sequence[str], outputs: Sequence[str]
) -> bool:
    """Make sure that the folder is new, wiped on request, or holds work of the same configuration.

    Args:
        folder: where the command writes.
        config: resolved; written to config.yaml.
        resume: auto, or never, which deletes `outputs`.
        free: keys that may change in between; they do not matter to the result.
        outputs: files and folders that a run makes; without any the folder counts as new.

    Returns:
        Whether the folder holds work that is continued.

    Raises:
        ValueError: naming the settings that differ from those in the folder.
    """
    if resume not in RESUME:
        raise ValueError(f"resume must be one of {RESUME}, got {resume!r}")
    place = RunFolder(folder).config
    continued = False

    # start over: what an earlier run made goes
    if resume == "never" and place.exists():
        for name in outputs:
            if (folder / name).is_dir():
                shutil.rmtree(folder / name)
            (folder / name).unlink(missing_ok=True)

    # continue: only with the same settings
    elif place.exists() and holds_work(folder, outputs):
        stored_config = OmegaConf.to_container(OmegaConf.load(place))
        changed = differences(stored_config, config, free)
        if changed:
            raise ValueError(
                f"{folder} was begun with other settings: {'; '.join(changed)}. Continue it with "
                "its own settings, start over with resume=never, or write elsewhere with "
                "hydra.run.dir=..."
            )
        continued = True

    # begin: the inputs of an attempt that came to nothing do not matter
    else:
        RunFolder(folder).inputs.unlink(missing_ok=True)

    # from here on the folder is this run's
    with atomic_path(place) as aside:
        OmegaConf.save(OmegaConf.create(config), aside)
    return continued


def holds_work(folder: Path, outputs: Sequence[str]) -> bool:
    """Whether one of the outputs is there, other than what an attempt leaves that was refused."""
    no_work = {RunFolder(folder).error.name, RunFolder(folder).inputs.name}
    return any((folder / name).exists() for name in outputs if name not in no_work)
