"""Tasksets of the real package verifiers as a task; run with `make test-verifiers`."""

from __future__ import annotations

import sys
import textwrap
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import instantiate

from g2rl.cli.build.benchmarks import build_benchmarks
from g2rl.cli.jobs.evaluate import evaluate
from g2rl.evaluation.files import read_samples, sample_rows, verifier_name, write_samples
from g2rl.tasks.grading.grader import Grader
from g2rl.tasks.grading.registry import UnknownVerifierError, verifier_named
from g2rl.tasks.taskset import TasksetError, TasksetTask, TasksetVerifier
from g2rl.types import Completion, Verdict
from tests.support import composed

HEAD = """
    import verifiers.v1 as vf


    class SumData(vf.TaskData):
        answer: int


    class SumTask(vf.Task[SumData]):
        @vf.reward(weight=0.75)
        async def right(self, trace) -> float:
            said = trace.last_reply
            if "crash" in said:
                raise RuntimeError("the reward itself fails")
            return float(said.endswith(str(self.data.answer)))

        @vf.reward(weight=0.25)
        async def short(self, trace) -> float:
            return float(len(trace.last_reply) < 20)


    class SumConfig(vf.TasksetConfig):
        count: int = 3


    class SumTaskset(vf.Taskset[SumTask, SumConfig]):
        def load(self):
            for number in range(self.config.count):
                data = SumData(prompt=f"{number} + 1 = ?", answer=number + 1)
                yield SumTask(data, self.config.task)
"""
VARIANTS = {
    "sums": "",
    "sums_container": "    SumTask.NEEDS_CONTAINER = True",
    "sums_endless": "    SumTaskset.INFINITE = True",
    "sums_system": """
    class SystemTaskset(SumTaskset):
        def load(self):
            for task in super().load():
                yield task.with_system_prompt("be short")
    del SumTaskset
""",
    "sums_runtime": """
    async def look(self, trace, runtime) -> float:
        return 1.0
    SumTask.look = vf.reward()(look)
""",
}


def test_without_a_taskset_the_setting_is_named() -> None:
    with pytest.raises(TasksetError, match=r"task\.source\.taskset"):
        TasksetTask(None)


@pytest.mark.skipif(find_spec("verifiers") is not None, reason="verifiers is installed")
def test_without_the_package_it_is_named() -> None:
    with pytest.raises(TasksetError, match=r"pip install 'verifiers"):
        TasksetTask("sums")


def test_samples_name_the_taskset_with_its_settings() -> None:
    """So that grading them again finds the same one, or none."""
    verifier = TasksetVerifier("sums", {"split": "test", "count": 4}, 0.75)
    name = verifier_name(verifier)
    assert name == (
        'g2rl.tasks.taskset.TasksetVerifier:sums {"count": 4, "split": "test"} right from 0.75'
    )
    with pytest.raises(UnknownVerifierError, match="TasksetVerifier"):
        verifier_named(name)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Tasksets as a user's own modules, where workers find them too."""
    pytest.importorskip("verifiers")
    folder = tmp_path_factory.mktemp("tasksets")
    for name, tail in VARIANTS.items():
        code = textwrap.dedent(HEAD + tail) + f"\n__all__ = [{exported(tail)!r}]\n"
        (folder / f"{name}.py").write_text(code, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setenv("PYTHONPATH", ":".join(path for path in sys.path if path))
        yield folder


def exported(tail: str) -> str:
    """The taskset that a module offers."""
    return "SystemTaskset" if "SystemTaskset" in tail else "SumTaskset"


def test_tasks_become_problems_and_rewards_verdicts(packages: Path) -> None:
    task = TasksetTask("sums", {"count": 4})
    assert [problem.prompt for problem in task.problems] == [f"{n} + 1 = ?" for n in range(4)]
    assert len({problem.id for problem in task.problems}) == 4
    assert sorted(problem.id for problem in task.batch(0, 0, 4)) == sorted(
        problem.id for problem in task.problems
    )
    assert task.may_draw(task.problems[0])
    problem = task.problems[2]
    responses = ["so 3", "so 4", "so it is, all things considered, 3", "crash 3", ""]
    with Grader(task.verifier, workers=1, timeout_seconds=60, memory_mb=8192) as grader:
        verdicts = grader.grade([(text, problem) for text in responses])
    assert [verdict.correct for verdict in verdicts] == [True, False, False, False, False]
    assert [verdict.route for verdict in verdicts] == ["taskset"] * 3 + ["error", "taskset"]
    # a right answer that is long has the reward 0.75
    lenient = TasksetVerifier("sums", right_from=0.75)
    assert lenient.grade(responses[2], problem).correct


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sums_container", "a container"),
        ("sums_endless", r"task\.source\.first"),
        ("sums_system", "system prompt"),
        ("sums_runtime", "looks at a runtime"),
        ("no_such_taskset", "install its package"),
    ],
)
def test_what_needs_more_than_one_exchange_is_refused(
    name: str, message: str, packages: Path
) -> None:
    with pytest.raises(TasksetError, match=message):
        TasksetTask(name)


def test_an_endless_taskset_may_be_cut(packages: Path) -> None:
    assert len(TasksetTask("sums_endless", {"count": 5}, first=2).problems) == 2


def test_task_and_benchmark_share_out_the_tasks(packages: Path) -> None:
    """As composed by the command: the last tasks are held out, and the rest is drawn."""
    config = composed(
        "task=taskset",
        "task.source.taskset=sums",
        "+task.source.settings.count=6",
        "task.source.held_out=2",
    )
    task = instantiate(config.task.source)
    [benchmark] = build_benchmarks(config.benchmark)
    assert [problem.prompt for problem in benchmark.problems] == ["4 + 1 = ?", "5 + 1 = ?"]
    assert [problem.prompt for problem in task.problems] == [f"{n} + 1 = ?" for n in range(4)]
    assert not any(task.may_draw(problem) for problem in benchmark.problems)
    with pytest.raises(TasksetError, match="held_out=6"):
        TasksetTask("sums", {"count": 6}, held_out=6)


def test_stored_samples_are_graded_again_beside_their_taskset(
    packages: Path, tmp_path: Path
) -> None:
    """As the command does: the benchmark names the taskset, and its rows are found in the file."""
    chosen = ["benchmark=taskset", "benchmark.taskset=sums", "+benchmark.settings.count=6"]
    config = composed(*chosen, "benchmark.held_out=2", command="evaluate")
    [benchmark] = build_benchmarks(config.benchmark)
    responses = [Completion([1], "stop", text) for text in ("so 5", "so 6")]
    verdicts = [Verdict(False, None, "taskset")] * 2
    rows = sample_rows(benchmark, [0, 1], [responses] * 2, [verdicts] * 2)
    write_samples(tmp_path / "samples.parquet", rows, {"taskset": [1, 2]})

    config.samples = str(tmp_path / "samples.parquet")
    assert evaluate(config, tmp_path / "again") == 0.5
    again, _ = read_samples(tmp_path / "again" / "samples.parquet")
    assert [row["correct"] for row in again] == [True, False, False, True]

    # without the taskset, or with another count, it is refused by name
    more = [*chosen[:2], "+benchmark.settings.count=7", "benchmark.held_out=2"]
    for others in (["benchmark=countdown"], more):
        config = composed(*others, command="evaluate")
        config.samples = str(tmp_path / "samples.parquet")
        with pytest.raises(UnknownVerifierError, match=r"TasksetVerifier:sums .*benchmark.taskset"):
            evaluate(config, tmp_path / "refused")
