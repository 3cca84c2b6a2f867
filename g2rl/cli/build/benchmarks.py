"""Build the held-out benchmarks of a configuration, and the graders that judge responses."""

from __future__ import annotations

from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from g2rl.cli.build.settings import GradingSettings
from g2rl.tasks.benchmarks.benchmark import Benchmark
from g2rl.tasks.grading.code_files import class_of
from g2rl.tasks.grading.grader import Graders
from g2rl.tasks.grading.verifier import check_verifier


def build_benchmarks(node: DictConfig) -> list[Benchmark]:
    """The one benchmark of a node, or those of a suite.

    Settings of a suite that are not null hold for all of its members.

    Raises:
        ValueError: a setting that a member does not have, an empty suite, one name twice, or a
            count below 1.
    """
    refuse_counts(node, "benchmark")
    if "_target_" in node:
        return [checked(instantiate(node), "benchmark")]

    # settings for all members
    common: dict[str, object] = {}
    for key, value in node.items():
        if key != "suite" and value is not None:
            common[str(key)] = value

    # its members
    benchmarks: list[Benchmark] = []
    for name, member in node.suite.items():
        for key in common:
            if key not in member:
                raise ValueError(
                    f"benchmark.{key}: {name!s} has no such setting; it has {', '.join(member)}"
                )
        refuse_counts(member, f"benchmark.suite.{name!s}")
        benchmarks.append(checked(instantiate(member, **common), f"benchmark.suite.{name!s}"))

    # files and metrics are named after benchmarks, so names must differ
    names = [benchmark.name for benchmark in benchmarks]
    if not benchmarks:
        raise ValueError("benchmark.suite is empty: choose benchmarks, e.g. benchmark=math")
    if len(set(names)) < len(names):
        raise ValueError(f"two benchmarks of the suite share a name: {names}")
    return benchmarks


def checked(benchmark: Any, key: str) -> Benchmark:
    """What the node of a benchmark was made into, if it is one whose answers can be judged.

    Args:
        benchmark: perhaps of the user's own.
        key: where its node stands.

    Raises:
        ValueError: it is no benchmark, or its verifier is none.
    """
    # what is none would fail in the first evaluation, after a training step
    if not isinstance(benchmark, Benchmark):
        raise ValueError(
            f"{key}._target_ gave a {class_of(benchmark)}; it must give a "
            "g2rl.tasks.benchmarks.benchmark.Benchmark"
        )
    check_verifier(benchmark.verifier, f"benchmark {benchmark.name}")
    return benchmark


def refuse_counts(node: DictConfig, key: str) -> None:
    """Refuse fewer problems than one; a negative limit would leave out the last ones instead.

    Args:
        node: of a benchmark or a suite.
        key: where it stands.

    Raises:
        ValueError: naming the setting and its value.
    """
    for name in ("problems", "limit"):
        value = node.get(name)
        if isinstance(value, int) and value < 1:
            raise ValueError(f"{key}.{name} must be >= 1, got {value}")


def build_graders(settings: GradingSettings) -> Graders:
    """The graders of a command, which share limits but not worker processes."""
    return Graders(settings.workers, settings.timeout_seconds, settings.memory_mb)
