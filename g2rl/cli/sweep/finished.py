"""Whether a run is complete already, told without torch: a sweep skips finished arms at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from g2rl.cli.folder import read_config_file
from g2rl.runs.identity import differences, free_keys
from g2rl.runs.layout import CHECKPOINT_MANIFEST, RunFolder
from g2rl.runs.metric_names import final_score

UNREADABLE = (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError)
"""What a file raises that is missing, cut off, or holds something else than it should."""


def finished_score(config: DictConfig, run_dir: Path) -> float | None:
    """Held-out pass@1 of a finished run of these settings in `run_dir`; None without such a run.

    A run has finished if it has summary.json, which is written last, and the whole checkpoint of
    its last step.
    """
    # what a finished run has left
    folder = RunFolder(run_dir)
    try:
        summary = json.loads(folder.summary.read_text(encoding="utf-8"))
        stored_config = OmegaConf.to_container(read_config_file(folder.config))
        after = dict(summary["after"])
    except UNREADABLE:
        return None

    # where settings differ, `prepare` will say which
    config_now = OmegaConf.to_container(config, resolve=True)
    if differences(stored_config, config_now, free_keys("train", "resume")):
        return None

    # a run of another length is made longer, or refused
    if after.get("step", config.trainer.steps) != config.trainer.steps:
        return None

    # the last checkpoint may have been lost or cut since
    if not is_whole(folder.checkpoint(config.trainer.steps)):
        return None
    return final_score(after)


def is_whole(checkpoint: Path) -> bool:
    """Whether every file of a checkpoint's manifest is there in its size.

    Checksums are left to whoever loads it.
    """
    try:
        manifest = json.loads((checkpoint / CHECKPOINT_MANIFEST).read_text(encoding="utf-8"))
        files: dict[str, Any] = manifest["files"]
        for name, entry in files.items():
            if (checkpoint / name).stat().st_size != entry["bytes"]:
                return False
    except UNREADABLE:
        return False
    return bool(files)
