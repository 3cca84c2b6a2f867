"""Names under which a run stands in W&B: group, arm, job type, tags. Resolved in
conf/tracking/wandb.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig

from g2rl.cli.config.names import run_group, run_tag
from g2rl.runs.identity import free_keys, is_under

SHOWN_SHOWN_ELSEWHERE = ("model", "task", "exploration", "benchmark", "run", "experiment")
"""Choices that the group, the tags or the signal of a label show already."""

SHOWN_ELSEWHERE = ("model", "task", "exploration", "benchmark", "run", "experiment")
"""Choices that the group, the tags or the signal of a label show already."""


def run_label(what: str, *, _root_: DictConfig) -> Any:
    """One label of a run of g2rl-train or g2rl-eval, from its configuration and the typed
    overrides."""
    labels = training_labels(_root_) if "exploration" in _root_ else evaluation_labels(_root_)
    label = labels[what]
    return ListConfig(label) if isinstance(label, list) else label  # a plain list would not resolve


def training_labels(config: DictConfig) -> dict[str, Any]:
    """Group: EXPERIMENT-MODEL-TASK, or MODEL-TASK. Arm: the signal and the overrides of this
    run."""
    # one file a signal
    model, task = config.model.name, config.task.name
    signal = config.exploration._target_.split(".")[-2]  # one file a signal, named like its choice
    return {
        "group": run_group(f"{model}-{task}"),
        "job_type": "train",
        "arm": f"{signal}{run_tag(','.join(arm_words()))}",
        "tags": [signal, model, task, config.algorithm.name],
    }


def evaluation_labels(config: DictConfig) -> dict[str, Any]:
    """Group: the benchmark. Arm: the run evaluated, else the model."""
    # a suite has no name of its own
    node = config.benchmark
    benchmark = (
        chosen("benchmark") or node.get("name") or node.get("_target_", "a.suite.of").split(".")[-2]
    )
    arm = config.model.name if config.run is None else Path(config.run).name
    return {
        "group": f"eval-{benchmark}",
        "job_type": "evaluate",
        "arm": f"{arm}{run_tag(','.join(arm_words()))}",
        "tags": [config.model.name, benchmark],
    }


def chosen(group: str) -> str | None:
    """The choice of a config group in this Hydra run; None where Hydra does not run, or without
    one."""
    return HydraConfig.get().runtime.choices.get(group) if HydraConfig.initialized() else None


def arm_words() -> list[str]:
    """The typed overrides that make an arm, without their node: exploration.lam=3 as lam=3."""
    if not HydraConfig.initialized():
        return []
    free = (*free_keys("train", "arm"), "hydra")
    words: list[str] = []
    for override in HydraConfig.get().overrides.task:
        key, _, value = override.lstrip("+~").partition("=")
        if key not in SHOWN_ELSEWHERE and not is_under(key, free):
            words.append(f"{key.rsplit('.', 1)[-1]}={value}")
    return sorted(words)
