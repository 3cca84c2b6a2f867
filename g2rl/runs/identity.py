"""What makes two runs the same run, or the same arm of a study. Imports no torch.

One table, `FREE_SETTINGS`, lists the settings that do not decide a result, and in which sense each
of them is free. Everything that compares configurations asks the table: resuming, names of folders,
arms of a study, labels in W&B.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# --- settings that are free


@dataclass(slots=True, frozen=True)
class FreeSetting:
    """A setting that is free in one sense or another. A node stands for all its settings.

    Args:
        key: dotted key of the setting or node.
        resume: it may differ when a run is continued, because no result depends on it.
        arm: runs that differ in it belong to the same arm of a study.
        name: it is left out of the folder's name.
    """

    key: str
    resume: bool = False
    arm: bool = False
    name: bool = False


def _free(*keys: str) -> tuple[FreeSetting, ...]:
    """Settings that are free in every sense."""
    return tuple(FreeSetting(key, resume=True, arm=True, name=True) for key in keys)


def _not_named(*keys: str) -> tuple[FreeSetting, ...]:
    """Settings that matter, but that conf/ leaves out of the name or shows in it by itself."""
    return tuple(FreeSetting(key, name=True) for key in keys)


# comparisons that stop a run or let it go on, and change nothing else
_CHECKS = ("engine.drift_every", "engine.drift_tolerance")

# in which order numbers are added up: in nothing else do runs from before this setting differ
_ORDERS = ("model.prefix_sharing",)

# of g2rl-train, alone or as an arm of a study
_FREE_IN_TRAINING = _free(
    "resume",
    "plan",
    "report",
    "profile",
    "tracking",
    "trainer.keep_checkpoints",
    "trainer.keep_best",
    "trainer.checkpoint_every",
    "trainer.shown_samples",
    "verify.workers",
    "health",
    "parallel",
    *_CHECKS,
    *_ORDERS,
)

# what decides verdicts was never shown in the names of folders
_VERDICTS = _not_named("verify.timeout_seconds", "verify.memory_mb")

# of the commands that look at a model: g2rl-eval and g2rl-analyze
_FREE_IN_MEASURING = (
    *_free("resume"),
    *_not_named("run", "model", "benchmark"),
    FreeSetting("data_dir", resume=True, name=True),
    FreeSetting("verify.workers", resume=True, name=True),
    *(FreeSetting(key, resume=True, name=True) for key in (*_CHECKS, *_ORDERS)),
)

FREE_SETTINGS: dict[str, tuple[FreeSetting, ...]] = {
    "train": (
        *_FREE_IN_TRAINING,
        *_not_named("model", "task", "exploration"),
        # a run may be made longer; a shorter one is refused where it continues
        FreeSetting("trainer.steps", resume=True, name=True),
        *_VERDICTS,
        FreeSetting("seed", arm=True, name=True),
        FreeSetting("data_dir", arm=True),
    ),
    # an arm is named by what its study sweeps: conf/experiment/base/sweep.yaml
    "arm": (
        *_FREE_IN_TRAINING,
        *_not_named("seed", "experiment", "data_dir", "exploration.observe"),
        *_VERDICTS,
    ),
    "evaluate": (
        *_FREE_IN_MEASURING,
        *_not_named("samples", "compare"),
        FreeSetting("tracking", resume=True, name=True),
    ),
    "analyze_geometry": (*_FREE_IN_MEASURING, *_not_named("task")),
    "analyze_fidelity": (*_FREE_IN_MEASURING, *_not_named("task")),
}
"""By command. A setting that is not listed decides the result in every sense."""

NAMED_ONE_BY_ONE = ("tracking",)
"""Free nodes of which names leave out the choice (``tracking=local``) but not a single setting
(``tracking.project=mine``)."""


def free_keys(command: str, sense: str) -> tuple[str, ...]:
    """Keys of settings and nodes that are free.

    Args:
        command: a key of `FREE_SETTINGS`.
        sense: resume, arm or name, see `FreeSetting`.
    """
    return tuple(setting.key for setting in FREE_SETTINGS[command] if getattr(setting, sense))


def is_under(key: str, nodes: Iterable[str]) -> bool:
    """Whether a dotted key is one of some keys, or lies in one of these nodes."""
    return any(key == node or key.startswith(f"{node}.") for node in nodes)


def unnamed_keys(command: str, config: Mapping[str, Any]) -> list[str]:
    """Every key that a folder's name leaves out, nodes with the settings inside them.

    A choice such as ``exploration`` is left out because the name begins with it; its settings, for
    example ``exploration.lam``, are named. The settings of a free node are left out one by one.

    Args:
        command: a key of `FREE_SETTINGS`.
        config: the composed configuration, in which nodes are looked up.
    """
    keys: list[str] = []
    free_nodes = set(free_keys(command, "resume")) - set(NAMED_ONE_BY_ONE)
    for key in free_keys(command, "name"):
        keys.append(key)

        # Hydra compares whole keys, so the settings of a free node must be listed
        node = config.get(key)
        if isinstance(node, Mapping) and key in free_nodes:
            keys += [f"{key}.{name}" for name in node]
    return keys


# --- configurations, also of earlier versions

MOVED_MODULES = {
    "g2rl.encoders": "g2rl.exploration.encoders",
    "g2rl.benchmarks": "g2rl.tasks.benchmarks",
    "g2rl.wandb_mirror": "g2rl.runs.wandb_mirror",
    "g2rl.tracking": "g2rl.runs.tracking",
}
"""Modules and packages that files written before version 0.1.0 call by another name, and their
present name. Moved verifiers are listed in `g2rl.tasks.grading.registry`."""

ADDED_SETTINGS: dict[str, Any] = {
    "algorithm.kl_bias_correction": False,
    "algorithm.sampler_mode": "truncate",
    "algorithm.sampler_floor": 0.0,
    "algorithm.overlong_buffer": 0.0,
    "algorithm.overlong_penalty": 1.0,
    "algorithm.sampling_rounds": 1,
    "model.checkpoint": None,
    "trainer.shown_samples": 2,
    "trainer.lag": 0,
    "model.date": "2025-01-01",  # of use to few templates; theirs wrote the day of every start
    "model.training_noise": False,  # the noise of a checkpoint was on, which few have
}
"""Settings that runs of earlier versions do not have, with the value by which a run does what it
did without them."""

ADDED_ARGUMENTS: dict[str, dict[str, Any]] = {
    "g2rl.exploration.g2rl.GradientGuided": {"reward": "pm1"},
    "g2rl.exploration.encoders.sentence.SentenceTransformerEncoder": {
        "dtype": "float32",
        "token_budget": None,
        "offload": False,
    },
    "g2rl.tasks.math.MathTask": {"boxed_only": False},
    "g2rl.tasks.benchmarks.math.math_benchmark": {"boxed_only": False},
}
"""The same for arguments of what a node builds, by its ``_target_``, wherever the node stands."""

ADDED_NODES = ("partition",)
"""Nodes that runs of earlier versions do not have and that decided nothing in them: only signals
that came with a node look at it."""

_MOVED = re.compile(rf"({'|'.join(re.escape(name) for name in MOVED_MODULES)})(?=\.|$)")


def with_present_names(value: Any) -> Any:
    """A stored value or whole configuration, in which moved classes go by their present names."""
    if isinstance(value, dict):
        return {key: with_present_names(item) for key, item in value.items()}
    if isinstance(value, list):
        return [with_present_names(item) for item in value]
    if isinstance(value, str):
        # only at the start of a text, where a dotted path stands
        match = _MOVED.match(value)
        if match:
            return MOVED_MODULES[match[1]] + value[match.end() :]
    return value


def with_added_settings(config: Any) -> Any:
    """A whole configuration in which settings that were added since it was stored have the value
    that changes nothing. A node that is missing as a whole is not added."""
    if not isinstance(config, dict):
        return config

    # a copy, in which only what is missing is filled in
    completed = dict(config)
    for key, value in ADDED_SETTINGS.items():
        node, _, name = key.partition(".")
        if isinstance(completed.get(node), dict) and name not in completed[node]:
            completed[node] = {**completed[node], name: value}
    return completed


def with_added_arguments(config: Any) -> Any:
    """A configuration in which arguments that were added since it was stored have the value that
    changes nothing."""
    if isinstance(config, list):
        return [with_added_arguments(item) for item in config]
    if not isinstance(config, dict):
        return config
    completed = {key: with_added_arguments(value) for key, value in config.items()}
    return {**ADDED_ARGUMENTS.get(str(config.get("_target_")), {}), **completed}


def as_of_today(config: Any) -> Any:
    """A whole stored configuration as this version would have stored it: with the present names,
    and with the settings and arguments that were added since."""
    return with_added_arguments(with_present_names(with_added_settings(config)))


def differences(before: Any, after: Any, free: Sequence[str] = ()) -> list[str]:
    """Settings in which two configurations differ, as "key: old -> new".

    Args:
        before: a stored configuration, perhaps of an earlier version.
        after: another one.
        free: keys of settings and nodes that may differ, see `free_keys`.
    """
    return _differences(as_of_today(before), as_of_today(after), free, "")


def _differences(before: Any, after: Any, free: Sequence[str], key: str) -> list[str]:
    if key and is_under(key, free):
        return []

    # nodes: setting by setting, also those that only one of the two has
    if isinstance(before, dict) and isinstance(after, dict):
        changes: list[str] = []
        for name in dict.fromkeys([*before, *after]):
            setting_key = f"{key}.{name}" if key else str(name)
            old_value, new_value = before.get(name), after.get(name)

            # what an earlier version did not ask for
            if setting_key in ADDED_NODES and name not in before:
                continue
            changes += _differences(old_value, new_value, free, setting_key)
        return changes

    # single values
    return [] if before == after else [f"{key}: {before} -> {after}"]
