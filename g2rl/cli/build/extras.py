"""Packages that only some choices need, looked for before anything is loaded or written.

What needs a package says so itself where it imports it; here a command is refused before it makes
a folder, for the choices that can be told from their settings.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from g2rl.cli.config.own_code import TARGET, named_code
from g2rl.hub import missing_package

OF_MODULES = {
    "g2rl.engines.vllm": ("engine=vllm", "vllm", "vllm"),
    "g2rl.runs.tensorboard_mirror": ("tracking=tensorboard", "tensorboard", "tensorboard"),
    "g2rl.tasks.reasoning_gym": ("task=reasoning_gym", "reasoning_gym", "reasoning-gym"),
    "g2rl.tasks.benchmarks.reasoning_gym": (
        "benchmark=reasoning_gym",
        "reasoning_gym",
        "reasoning-gym",
    ),
}
"""Module of a `_target_` to the choice that names it, the package that it imports, its extra."""


def refuse_missing_packages(config: DictConfig) -> None:
    """Refuse choices whose packages are not installed.

    Args:
        config: composed, without Hydra's own node.

    Raises:
        ImportError: what was chosen, and the lines that install what it needs.
    """
    node: Any = OmegaConf.to_container(config, resolve=False)
    for key, target in named_code(node):
        module = target.rpartition(".")[0]
        if key.endswith(TARGET) and module in OF_MODULES:
            what, package, extra = OF_MODULES[module]
            refuse_missing(what, package, extra)
    refuse_missing_of_model(node.get("model") or {})


def refuse_missing_of_model(model: Mapping[str, Any]) -> None:
    """Refuse adapters and GGUF files without the packages that read them; see above."""
    lora = model.get("lora") or {}
    if lora.get("r") is not None:
        refuse_missing("LoRA (model.lora.r)", "peft", "peft")
    if model.get("adapter") is not None:
        refuse_missing("LoRA (model.adapter)", "peft", "peft")

    # transformers reads GGUF files with both
    if model.get("gguf_file") is not None:
        for package in ("gguf", "accelerate"):
            refuse_missing("a GGUF file (model.gguf_file)", package, "gguf")


def refuse_missing(what: str, package: str, extra: str) -> None:
    """Refuse one choice if its package is not there; nothing is imported.

    Raises:
        ImportError: see `refuse_missing_packages`.
    """
    if importlib.util.find_spec(package) is None:
        raise ImportError(missing_package(what, package, extra))
