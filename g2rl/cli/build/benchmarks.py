"""TODO docstring."""

from __future__ import annotations

from hydra.utils import instantiate
from omegaconf import DictConfig

from g2rl.tasks.benchmarks.benchmark import Benchmark


def build_benchmarks(node: DictConfig) -> list[Benchmark]:
    """The one benchmark of a node, or those of a suite, whose settings that are not null hold for
    all."""
    if "_target_" in node:
        return [instantiate(node)]
    common = {
        str(key): value for key, value in node.items() if key != "suite" and value is not None
    }
    found: list[Benchmark] = []
    for name, member in node.suite.items():
        unknown = [key for key in common if key not in member]
        if unknown:
            raise ValueError(
                f"benchmark.{unknown[0]}: {name!s} has no such setting; it has {', '.join(member)}"
            )
        found.append(instantiate(member, **common))
    if not found:
        raise ValueError("benchmark.suite is empty: choose benchmarks, e.g. benchmark=math")
    if len({benchmark.name for benchmark in found}) < len(found):
        raise ValueError(f"two benchmarks of the suite share a name: {[b.name for b in found]}")
    return found
