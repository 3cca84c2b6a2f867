"""verl's own losses, read out of its wheel without importing verl, which wants Ray and more.

pip install --no-deps verl
"""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch


def functions_of(file: Path, names: set[str], scope: dict[str, Any]) -> dict[str, Any]:
    """Define some functions of a file as they stand there, without annotations and decorators."""
    found = []
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name in names:
            node.decorator_list, node.returns = [], None
            for argument in [*node.args.args, *node.args.kwonlyargs]:
                argument.annotation = None
            found.append(node)
    assert {node.name for node in found} == names, f"{file} has other functions now"
    exec(compile(ast.Module(found, []), str(file), "exec"), scope)
    return scope


def verl_loss(name: str, **settings: float) -> Any:
    """A policy loss of verl with its settings, as (old, log pi, A, mask) -> loss.

    Skips the test where verl is not installed.
    """
    spec = importlib.util.find_spec("verl")
    if spec is None or spec.origin is None:
        pytest.skip("verl is not installed: pip install --no-deps verl")
    package = Path(spec.origin).parent
    masked = functions_of(
        package / "utils" / "torch_functional.py", {"masked_mean", "masked_sum"}, {"torch": torch}
    )
    scope = functions_of(
        package / "trainer" / "ppo" / "core_algos.py",
        {"agg_loss", f"compute_policy_loss_{name}"},
        {"torch": torch, "verl_F": SimpleNamespace(**masked), "AlgoConfig": type("None_", (), {})},
    )
    config = SimpleNamespace(
        clip_ratio=0.2,
        clip_ratio_low=1.0,
        clip_ratio_high=1.0,
        policy_loss=SimpleNamespace(**settings),
        global_batch_info={},
    )

    def loss(*tensors: torch.Tensor) -> torch.Tensor:
        return scope[f"compute_policy_loss_{name}"](*tensors, config=config)[0]

    return loss
