"""Whether a run is complete already. Imports no torch, so that a sweep passes its finished arms at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from g2rl.runs.identity import FREE_TO_CHANGE, differences
from g2rl.runs.metric_names import final_score


def finished_score(config: DictConfig, run_dir: Path) -> float | None:
    """The score of the run of these settings that has finished in `run_dir`; None when there is no such.

    Finished is what has summary.json, which is written last, and the whole checkpoint of the last step.
    """
    try:
        summary = json.loads((run_dir / "summary.json").read_text(encoding="utf-8"))
        before = OmegaConf.to_container(OmegaConf.load(run_dir / "config.yaml"))
    except (OSError, ValueError):
        return None
    if differences(before, OmegaConf.to_container(config, resolve=True), FREE_TO_CHANGE):
        return None  # `prepare` says what differs
    whole = whole_checkpoint(run_dir / "checkpoints" / f"step_{config.trainer.steps:06d}")
    return final_score(summary["after"]) if whole else None


def whole_checkpoint(folder: Path) -> bool:
    """Whether every file of a checkpoint's manifest is there in its size; checksums are for loading."""
    try:
        files: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))[
            "files"
        ]
        return bool(files) and all(
            (folder / name).stat().st_size == f["bytes"] for name, f in files.items()
        )
    except (OSError, ValueError, KeyError):
        return False
