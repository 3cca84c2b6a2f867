"""Names under which a run stands in W&B (conf/tracking/wandb.yaml): group, arm, job type, tags."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig

from g2rl.cli.config.names import cut_tag, run_group
from g2rl.runs.identity import free_keys, is_under

SHOWN_ELSEWHERE = ("model", "task", "exploration", "benchmark", "run", "experiment")
"""Choices that the group, the tags or the signal of a label show already."""


def run_label(name: str, *, _root_: DictConfig) -> Any:
    """One label of a run of g2rl-train or g2rl-eval, for ``${run_label:NAME}``.

    Args:
        name: group, arm, job_type or tags.
    """
    # only training has a signal
    if "exploration" in _root_:
        labels = training_labels(_root_)
    else:
        labels = evaluation_labels(_root_)

    # OmegaConf takes no plain list from a resolver
    label = labels[name]
    return ListConfig(label) if isinstance(label, list) else label


def training_labels(config: DictConfig) -> dict[str, Any]:
    """Labels of a training run.

    The group is EXPERIMENT-MODEL-TASK or MODEL-TASK, the arm is the signal and what was typed.
    """
    model, task = config.model.name, config.task.name
    signal = config.exploration._target_.split(".")[-2]  # one file a signal, named like its choice
    return {
        "group": run_group(f"{model}-{task}"),
        "job_type": "train",
        "arm": f"{signal}{cut_tag(','.join(arm_words()))}",
        "tags": [signal, model, task, config.algorithm.name],
    }


def evaluation_labels(config: DictConfig) -> dict[str, Any]:
    """Labels of an evaluation: the group is the benchmark, the arm the evaluated run or model."""
    benchmark = choice_of("benchmark") or benchmark_name(config.benchmark)
    arm = config.model.name
    if config.run is not None:
        arm = Path(config.run).name
    return {
        "group": f"eval-{benchmark}",
        "job_type": "evaluate",
        "arm": f"{arm}{cut_tag(','.join(arm_words()))}",
        "tags": [config.model.name, benchmark],
    }


def benchmark_name(node: DictConfig) -> str:
    """The name of one benchmark; "suite" for several."""
    if node.get("name"):
        return str(node.name)
    if "_target_" in node:
        return str(node._target_).split(".")[-2]
    return "suite"


def choice_of(group: str) -> str | None:
    """What this Hydra run chose from a config group; None without a choice, or without Hydra."""
    if not HydraConfig.initialized():
        return None
    return HydraConfig.get().runtime.choices.get(group)


def arm_words() -> list[str]:
    """The typed overrides that make an arm, without their node: exploration.lam=3 as lam=3."""
    if not HydraConfig.initialized():
        return []

    # neither what makes no other arm nor what another label shows
    free = (*free_keys("train", "arm"), "hydra")
    words: list[str] = []
    for override in HydraConfig.get().overrides.task:
        key, _, value = override.lstrip("+~").partition("=")
        if key not in SHOWN_ELSEWHERE and not is_under(key, free):
            words.append(f"{key.rsplit('.', 1)[-1]}={value}")
    return sorted(words)
