"""Names of folders, arms and groups, made of what the user typed; resolvers of conf/ call these."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig

from g2rl.runs.identity import free_keys, unnamed_keys

TAG_LENGTH = 60
ARM_LENGTH = 40


def run_tag(overrides: str) -> str:
    """Overrides as part of a folder name: readable when short, cut and hashed when long."""
    if not overrides:
        return ""
    name = re.sub(r"[^\w.=+-]+", "_", overrides)
    if len(name) > TAG_LENGTH:
        name = f"{name[: TAG_LENGTH - 9]}-{_short_hash(overrides)}"
    return f"-{name}"


def arm_name(words: Sequence[str], swept: Mapping[str, Any] | None, excluded: Sequence[str]) -> str:
    """Folder of a sweep's arm: what the study sweeps, then other overrides, hashed when long.

    Args:
        words: overrides of one run, ``["exploration.lam=0.3", "seed=1", "trainer.steps=9"]``.
        swept: hydra.sweeper.params, whose keys come first and by their last part.
        excluded: keys that are not named.

    Returns:
        ``lam=0.3``, ``lam=0.3-trainer.steps=9``, ``lam=0.3-1f0c22ab``; ``default`` when nothing is
        left.
    """
    swept_words: list[str] = []
    other_words: list[str] = []
    for word in words:
        if word.startswith("~"):
            continue
        key, value = word.lstrip("+").split("=", 1)
        if key in excluded or key.startswith("hydra."):
            continue
        if key in (swept or {}):
            swept_words.append(f"{key.rsplit('.', 1)[-1]}={value}")
        else:
            other_words.append(f"{key}={value}")

    # what the study does not sweep is hashed when it is long
    others = ",".join(sorted(other_words))
    tag = run_tag(others)
    if len(tag) > ARM_LENGTH:
        tag = f"-{_short_hash(others)}"
    return f"{run_tag(','.join(swept_words))}{tag}".removeprefix("-") or "default"


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def run_group(what: str) -> str:
    """Name by which tracking groups runs: ``signals-countdown-tiny`` in experiment=signals, else
    `what`."""
    experiment = None
    if HydraConfig.initialized():
        experiment = HydraConfig.get().runtime.choices.get("experiment")
    return what if experiment in (None, "null") else f"{experiment}-{what}"


def eval_dir(
    run: str | None,
    samples: str | None,
    compare: Sequence[Any],
    model: str,
    benchmark: str,
    overrides: str,
    absolute: bool = False,
) -> str:
    """Where an evaluation writes: beside the run or the samples it is about, else under evals/.

    Names hold no "=", so that they can be typed in an override. `absolute` is for sweeps, whose
    folders Hydra would put under another.
    """
    # beside what it is about
    tag = run_tag(overrides.replace("benchmark.", "").replace("=", "-"))
    if compare:
        folder = Path("evals") / f"compare-{_short_hash(str(compare))}"
    elif samples is not None and Path(samples).expanduser().is_file():
        folder = Path(samples).expanduser().parent / f"regraded{tag}"
    elif run is not None and Path(run).expanduser().is_dir():
        folder = Path(run).expanduser() / "eval" / f"{benchmark}{tag}"
    else:
        folder = Path("evals") / f"{model}-{benchmark}{tag}"
    return str(folder.resolve() if absolute else folder)


def unnamed_settings(command: str, *, _root_: DictConfig) -> ListConfig:
    """Keys that the folder's name leaves out, for `hydra.job.config.override_dirname.exclude_keys`.

    Args:
        command: a key of `g2rl.runs.identity.FREE_SETTINGS`.
    """
    # only the names of a node's settings are needed
    nodes: dict[str, Any] = {}
    for key in free_keys(command, "name"):
        node = _root_.get(key)
        if isinstance(node, DictConfig):
            nodes[key] = {name: None for name in node}
    return ListConfig(unnamed_keys(command, nodes))
