"""The dependency rule: a module imports only from lower layers, or from its own package."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "g2rl"
LAYERS = (
    {"types", "ops", "files", "estimators", "interrupt", "health", "progress", "metric_names"}
    | {"parallel"},
    {"failure", "lm_head", "lora", "memory", "batching", "data", "sharding"}
    | {"verify", "advantages", "losses", "exploration", "encoders"},
    {"shards"},
    {"tasks", "models", "policy", "checkpoint", "tracking", "settings", "optimizer"},
    {"benchmarks", "tiny", "score", "rollout", "reference", "plan"},
    {"engines"},
    {"micro_update", "evaluate", "step_metrics"},
    {"update"},
    {"geometry", "report", "evaluation"},
    {"parts", "analysis", "wandb_mirror"},
    {"heldout"},
    {"trainer", "dashboard"},
    {"cli"},
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
MODULES = sorted(PACKAGE.rglob("*.py"))


def part_of(module: str) -> str:
    """g2rl.tasks.grading.grader -> verify"""
    return module.split(".")[1]


def imports(path: Path) -> set[str]:
    """Every g2rl module that a file imports, wherever the statement stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return {name for name in found if name.startswith("g2rl.")}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    relative = path.relative_to(PACKAGE)
    if relative.name == "__init__.py" and len(relative.parts) == 1:
        assert not imports(path), "g2rl/__init__.py must import nothing"
        return
    own = relative.parts[0].removesuffix(".py")
    assert own in LEVEL, f"give {own} a layer in {Path(__file__).name}"
    for name in imports(path):
        target = part_of(name)
        assert target == own or LEVEL[target] < LEVEL[own], (
            f"{relative} imports {name}, which is not below it"
        )


def test_contributing_tells_the_same_layers() -> None:
    text = (
        (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## Layers")[2]
    )
    block = [line for line in text.splitlines() if line.startswith("    ")]
    assert [set(line.partition("the only")[0].split()) for line in block] == list(LAYERS)


def test_hydra_lives_in_cli_only() -> None:
    for path in MODULES:
        if "cli" not in path.parts:
            text = path.read_text(encoding="utf-8")
            assert "import hydra" not in text, path
            assert "from hydra" not in text, path
            assert "omegaconf" not in text, path


def test_modules_stay_readable() -> None:
    for path in MODULES:
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) <= 300, f"{path} has {len(lines)} lines"
        for node in ast.walk(ast.parse("\n".join(lines))):
            if isinstance(node, ast.FunctionDef):
                body = node.body
                docstring = isinstance(body[0], ast.Expr) and isinstance(
                    body[0].value, ast.Constant
                )
                first = body[1] if docstring and len(body) > 1 else body[0]
                length = (node.end_lineno or 0) - first.lineno + 1
                assert length <= 40, f"{path}:{node.lineno} {node.name} has {length} lines"
