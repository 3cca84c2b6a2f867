"""What makes two runs the same run, or the same arm of a study. Imports no torch.

One table says of every setting that does not decide a run's result in which sense it is free.
Everything that compares configurations asks the table: resuming, names of folders, arms of a study,
labels in W&B.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True, frozen=True)
class FreeSetting:
    """A setting that is free in one sense or another. A node stands for all its settings.

    Args:
        key: dotted key of the setting or node.
        resume: may differ when a run is continued, because its result does not depend on it.
        arm: does not make another arm of a study.
        name: is left out of the folder's name, because it is free or stands there anyway.
    """

    key: str
    resume: bool = False
    arm: bool = False
    name: bool = False


def _free(*keys: str) -> tuple[FreeSetting, ...]:
    """Settings that are free in every sense."""
    return tuple(FreeSetting(key, resume=True, arm=True, name=True) for key in keys)


def _in_the_name(*keys: str) -> tuple[FreeSetting, ...]:
    """Settings that the folder's name shows in words of its own."""
    return tuple(FreeSetting(key, name=True) for key in keys)


_SUBJECT = (
    *_free("resume"),
    *_in_the_name("run", "model", "benchmark"),
    FreeSetting("data_dir", resume=True, name=True),
    FreeSetting("verify", resume=True),
    FreeSetting("verify.workers", name=True),
)

_FREE_IN_TRAINING = _free(
    "resume",
    "plan",
    "tracking",
    "trainer.keep_checkpoints",
    "trainer.keep_best",
    "trainer.checkpoint_every",
    "verify",
    "health",
    "parallel",
)

FREE_SETTINGS: dict[str, tuple[FreeSetting, ...]] = {
    "train": (
        *_FREE_IN_TRAINING,
        *_in_the_name("model", "task", "exploration"),
        FreeSetting("seed", arm=True, name=True),
        FreeSetting("data_dir", arm=True),
    ),
    # an arm of a study: its folder is named by what the study sweeps, see
    # conf/experiment/base/sweep.yaml
    "arm": (
        *_FREE_IN_TRAINING,
        *_in_the_name("seed", "experiment", "data_dir", "exploration.observe"),
    ),
    "evaluate": (
        *_SUBJECT,
        *_in_the_name("samples", "compare"),
        FreeSetting("tracking", resume=True, name=True),
    ),
    "analyze_geometry": (*_SUBJECT, *_in_the_name("task")),
    "analyze_fidelity": (*_SUBJECT, *_in_the_name("task")),
}
"""By command: what does not decide its result. What is not listed decides it in every sense."""

NODES_NAMED_WHOLE = ("tracking",)
"""Nodes of which only the choice is left out of names: tracking.project=... stands in the name."""

MOVED_MODULES = {
    "g2rl.encoders": "g2rl.exploration.encoders",
    "g2rl.benchmarks": "g2rl.tasks.benchmarks",
    "g2rl.wandb_mirror": "g2rl.runs.wandb_mirror",
    "g2rl.tracking": "g2rl.runs.tracking",
}
"""Modules and packages by their old name, as files written before version 0.1.0 hold them, to their
new one. Moved verifiers are listed in `g2rl.tasks.grading.registry`."""

_MOVED = re.compile(rf"({'|'.join(re.escape(name) for name in MOVED_MODULES)})(?=\.|$)")


def free_keys(command: str, sense: str) -> tuple[str, ...]:
    """Keys of settings and nodes that are free.

    Args:
        command: a key of `FREE_SETTINGS`.
        sense: resume, arm or name, see `FreeSetting`.
    """
    return tuple(s.key for s in FREE_SETTINGS[command] if getattr(s, sense))


def is_under(key: str, keys: Iterable[str]) -> bool:
    """Whether a dotted key is one of some keys, or lies in one of these nodes."""
    return any(key == name or key.startswith(f"{name}.") for name in keys)


def unnamed_keys(command: str, config: Mapping[str, Any]) -> list[str]:
    """Every key that a folder's name leaves out, with all settings of the nodes among them.

    Args:
        command: as in `free_keys`.
        config: the composed configuration, in which nodes are looked up.
    """
    # nodes with their settings
    keys: list[str] = []
    for key in free_keys(command, "name"):
        keys.append(key)
        node = config.get(key)
        # a choice (model, exploration) is named by its group, its settings one by one
        is_free_node = is_under(key, free_keys(command, "resume"))
        if isinstance(node, Mapping) and is_free_node and key not in NODES_NAMED_WHOLE:
            keys += [f"{key}.{name}" for name in node]
    return keys


def with_present_names(value: Any) -> Any:
    """A stored value, or a whole stored configuration, with moved modules under their present
    name."""
    if isinstance(value, dict):
        return {key: with_present_names(item) for key, item in value.items()}
    if isinstance(value, list):
        return [with_present_names(item) for item in value]
    if isinstance(value, str):
        return (
            _MOVED.sub(lambda match: MOVED_MODULES[match[1]], value, count=1)
            if _MOVED.match(value)
            else value
        )
    return value


def differences(before: Any, after: Any, free: Sequence[str] = ()) -> list[str]:
    """Settings in which two configurations differ, as "key: old -> new".

    Args:
        before: a stored configuration, perhaps of an earlier version.
        after: another one.
        free: keys of settings and nodes that may differ, see `free_keys`.
    """
    return _differences(with_present_names(before), with_present_names(after), free, "")


def _differences(before: Any, after: Any, free: Sequence[str], key: str) -> list[str]:
    if key and is_under(key, free):
        return []
    if isinstance(before, dict) and isinstance(after, dict):
        changes: list[str] = []
        for name in dict.fromkeys([*before, *after]):
            path = f"{key}.{name}" if key else str(name)
            changes += _differences(before.get(name), after.get(name), free, path)
        return changes
    return [] if before == after else [f"{key}: {before} -> {after}"]
