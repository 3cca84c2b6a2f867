"""The folder of a run or an evaluation: new, continued with the same settings, or wiped."""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from g2rl.cli.config.settings_file import read_settings
from g2rl.runs.files import atomic_path, remove
from g2rl.runs.identity import differences
from g2rl.runs.layout import RunFolder, step_number
from g2rl.world import environment_rank

log = logging.getLogger(__name__)

RESUME = ("auto", "never")
_made_folders: list[Path] = []
"""Folders that this command has made, the outermost first."""


class OtherSettingsError(ValueError):
    """A folder holds work of other settings; nothing in it was touched."""


# --- before a command works in it, and when it is refused


def refuse_unwritable(folder: Path) -> None:
    """Make the folder and write a page into it; exit with code 1 when that fails."""
    # remembered, so that a refused command can take them away again
    for place in (*reversed(folder.absolute().parents), folder.absolute()):
        if not place.exists():
            _made_folders.append(place)
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


def forget_attempt(folder: Path) -> bool:
    """Delete what a refused command has left, and the folders that it has made for that.

    Returns:
        Whether all is as it was before; False where the folder holds work, which is not touched.
    """
    # of several processes, the first one writes and deletes
    if environment_rank() != 0:
        return True

    # anything else than these came of work
    place = RunFolder(folder)
    traces = {place.config, place.inputs, place.lock, place.error, *folder.glob("g2rl-*.log")}
    if folder.is_dir():
        if set(folder.iterdir()) - traces:
            return False
        for path in traces:
            path.unlink(missing_ok=True)

    # the innermost first; others may work in the outer ones by now
    for made in reversed(_made_folders):
        if made.is_dir() and not any(made.iterdir()):
            made.rmdir()
    return True


# --- what the folder holds


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
        OtherSettingsError: naming the settings that differ from those in the folder.
        ValueError: a word for `resume` that has no meaning.
    """
    place = RunFolder(folder).config
    continued = False
    refuse_other_settings(folder, config, resume, free, outputs)

    # start over: what an earlier run made goes
    if resume == "never" and place.exists():
        for name in outputs:
            remove(folder / name)
        set_evaluations_aside(folder)

    # continue, with the same settings
    elif place.exists() and holds_work(folder, outputs):
        continued = True

    # begin: what an attempt left that came to nothing does not matter
    else:
        # mirrors of others stay in a folder where no run has begun
        inputs = RunFolder(folder).inputs
        if place.exists() and inputs.exists():
            for mirror in mirrors(folder):
                if mirror.name in outputs:
                    remove(mirror)
        inputs.unlink(missing_ok=True)

    # from here on the folder is this run's
    with atomic_path(place) as aside:
        OmegaConf.save(OmegaConf.create(config), aside)
    return continued


def mirrors(folder: Path) -> tuple[Path, Path, Path]:
    """Where a run's metrics are told again for other programs; nothing here reads them back."""
    place = RunFolder(folder)
    return place.wandb, place.tensorboard, place.metrics_csv


def set_evaluations_aside(folder: Path) -> None:
    """Give the evaluations of a model that is made anew another name: they are not of the new one.

    They may have taken longer than the training, so they are not deleted.
    """
    evaluations = RunFolder(folder).evaluations
    if not evaluations.is_dir():
        return

    # the first number that is free
    number = 1
    while (folder / f"{evaluations.name}-{number}").exists():
        number += 1
    place = evaluations.rename(folder / f"{evaluations.name}-{number}")
    log.warning("evaluations of the earlier model are in %s now", place)


def refuse_other_settings(
    folder: Path, config: dict[str, Any], resume: str, free: Sequence[str], outputs: Sequence[str]
) -> None:
    """Refuse to continue work of other settings; reads only.

    Args:
        folder, config, resume, free, outputs: as in `prepare`.

    Raises:
        OtherSettingsError: naming the settings that differ from those in the folder.
        ValueError: a word for `resume` that has no meaning.
    """
    if resume not in RESUME:
        raise ValueError(f"resume must be one of {RESUME}, got {resume!r}")
    place = RunFolder(folder).config
    if resume == "never" or not place.exists() or not holds_work(folder, outputs):
        return

    stored_config = OmegaConf.to_container(read_config_file(place))
    changed = differences(stored_config, config, free)
    if changed:
        raise OtherSettingsError(
            f"{folder} was begun with other settings: {'; '.join(changed)}. Continue it with its "
            "own settings, start over with resume=never, or write elsewhere with hydra.run.dir=..."
        )


ANOTHER_RUN = "; put back what the run wrote, or make the run anew (g2rl train resume=never)"
"""What can be done about a damaged configuration."""


def read_config_file(place: Path) -> DictConfig:
    """The configuration that a command has stored.

    Raises:
        ValueError: the file cannot be read, or holds no settings.
    """
    try:
        return read_settings(place)
    except ValueError as error:
        raise ValueError(f"{error}{ANOTHER_RUN}") from error


def refuse_shorter(folder: Path, steps: int, resume: str) -> None:
    """Refuse to continue a run that has more steps than are asked for; reads only.

    Args:
        folder: of the run.
        steps: that it shall have.
        resume: auto, or never, which starts over.

    Raises:
        OtherSettingsError: naming both numbers.
    """
    if resume == "never":
        return
    done = 0
    for path in RunFolder(folder).checkpoints.glob("step_*"):
        done = max(done, step_number(path.name) or 0)
    if done > steps:
        raise OtherSettingsError(
            f"{folder} has {done} steps already, and trainer.steps={steps} asks for fewer: ask "
            f"for {done} or more, start over with resume=never, or write elsewhere with "
            "hydra.run.dir=..."
        )


def holds_work(folder: Path, outputs: Sequence[str]) -> bool:
    """Whether one of the outputs is there, other than what an attempt leaves that came to nothing.

    Mirrors begin before the first evaluation. So a run that fails in it, by a reward function that
    raises, say, has a mirror and no work, and is begun anew once the function is mended.
    """
    no_work = {RunFolder(folder).error.name, RunFolder(folder).inputs.name}
    no_work |= {mirror.name for mirror in mirrors(folder)}
    return any((folder / name).exists() for name in outputs if name not in no_work)
