"""The folder of a run or an evaluation: new, continued with the same settings, or wiped."""

from __future__ import annotations

import fcntl
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from g2rl.runs.files import atomic_path
from g2rl.runs.identity import differences
from g2rl.runs.layout import RunFolder
from g2rl.world import environment_rank

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


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, so that two runs never write there at once.

    The system frees the lock when the process ends. Under torchrun the first rank holds it for all.

    Raises:
        ValueError: another process holds it, for example an orphan of a killed sweep.
    """
    if environment_rank() != 0:
        yield
        return

    # the file stays; only its lock says that somebody is at work
    folder.mkdir(parents=True, exist_ok=True)
    with RunFolder(folder).lock.open("a") as handle:
        try:
            # locks belong to the process: forked workers do not keep them
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(
                f"another process is at work in {folder}: wait until it has ended and start the "
                "same command again, or write elsewhere with hydra.run.dir=..."
            ) from None
        yield


def prepare(
    folder: Path, config: dict[str, Any], resume: str, free: Sequence[str], outputs: Sequence[str]
) -> None:
    """Make sure that the folder is new, wiped on request, or holds work of the same configuration.

    Args:
        folder: where the command writes.
        config: resolved; written to config.yaml.
        resume: auto, or never, which deletes `outputs`.
        free: keys that may change in between; they do not matter to the result.
        outputs: files and folders that a run makes; without any the folder counts as new.

    Raises:
        ValueError: naming the settings that differ from those in the folder.
    """
    if resume not in RESUME:
        raise ValueError(f"resume must be one of {RESUME}, got {resume!r}")
    place = RunFolder(folder).config

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

    # from here on the folder is this run's
    with atomic_path(place) as aside:
        OmegaConf.save(OmegaConf.create(config), aside)


def holds_work(folder: Path, outputs: Sequence[str]) -> bool:
    """Whether one of the outputs is there, other than the error of a command that was refused."""
    error = RunFolder(folder).error.name
    return any((folder / name).exists() for name in outputs if name != error)
