"""Tasksets of the package verifiers as tasks: one prompt, one response, its own rewards.

A taskset of verifiers 0.4 yields tasks, each with a prompt and with methods that reward a *trace*,
the record of what a model has said. Here every task becomes a `Problem`, and the verifier writes a
trace of one exchange around the response and lets the task score it. Nothing of verifiers' serving,
sandboxes and agents is used.

A taskset is code of the user's own: it is imported by its name, in workers that can be killed.
What needs more than one exchange is refused: tools, containers, judges (other models), and rewards
that look at a runtime. The package wants many others, so it is no part of an extra:
`pip install 'verifiers>=0.4,<0.5'`.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from g2rl.tasks.grading.extract import final_text, last_boxed
from g2rl.tasks.task import stream_from_rows
from g2rl.types import Problem, Verdict

MAX_ANSWER = 200
"""Characters at the end of a response without a box that stand for its answer."""


class TasksetError(ValueError):
    """A taskset cannot be used here; the message says why."""


@dataclass(slots=True)
class TasksetVerifier:
    """Judges a response by the rewards of its task.

    Args:
        taskset: the taskset's name, as for `prime eval`.
        settings: of the taskset's configuration.
        right_from: a response with this reward, the sum of the task's weighted rewards, is right.
    """

    taskset: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    right_from: float = 1.0
    _loaded: Any = field(default=None, repr=False, compare=False)
    """The taskset, in a worker."""

    bounded = False
    packages = ("verifiers",)

    def __post_init__(self) -> None:
        if not math.isfinite(self.right_from):
            raise ValueError(f"task.source.right_from must be a number, got {self.right_from}")

    @property
    def identity(self) -> str:
        """What tells two verifiers of this class apart, as samples name it."""
        settings = json.dumps(dict(self.settings), sort_keys=True, default=str)
        return f"{self.taskset} {settings} right from {self.right_from:g}"

    def grade(self, completion: str, problem: Problem) -> Verdict:
        """Judge one completion. If the task's own rewards fail, it is wrong (route ``error``)."""
        start = time.perf_counter()
        answer = last_boxed(completion) or completion.strip()[-MAX_ANSWER:] or None
        try:
            reward = self._reward(final_text(completion), problem)
        except MemoryError:
            raise  # the worker's limit; the grader counts it as killed
        except Exception:
            return Verdict(False, answer, "error", time.perf_counter() - start)

        # not a number is never right
        return Verdict(reward >= self.right_from, answer, "taskset", time.perf_counter() - start)

    def key(self, answer: str) -> str:
        """The answer without case and extra spaces."""
        return " ".join(answer.casefold().split())

    def equivalent(self, left: str, right: str) -> bool:
        """Whether two answers read the same, case and spaces aside."""
        return self.key(left) == self.key(right)

    def warm_up(self) -> None:
        """Import the package before the memory limit and the clock of an item apply."""
        self._load()

    def _load(self) -> Any:
        """The taskset, loaded once in every worker."""
        if self._loaded is None:
            self._loaded = load_taskset(self.taskset, self.settings)
        return self._loaded

    def _reward(self, said: str, problem: Problem) -> float:
        """The sum of the weighted rewards of a response."""
        import verifiers.v1 as vf
        from verifiers.v1.graph import MessageNode
        from verifiers.v1.trace import AgentInfo, TraceTask

        # the task again, from its data
        taskset = self._load()
        task_class = taskset.task_type()
        data = task_class.data_type().model_validate(json.loads(problem.meta["data"]))
        task = task_class(data, taskset.config.task)

        # a trace of one exchange: the prompt, and what the policy has said
        trace = vf.Trace(
            task=TraceTask(type=task_class.__name__, data=data),
            agent=AgentInfo(config=vf.AgentConfig()),
        )
        trace.nodes.append(MessageNode(message=vf.UserMessage(content=data.prompt_text)))
        reply = vf.AssistantMessage(content=said)
        trace.nodes.append(MessageNode(parent=0, message=reply, sampled=True))
        asyncio.run(task.score(trace))
        return float(trace.reward)


class TasksetTask:
    """The tasks of a taskset as problems, visited in shuffled epochs.

    Args:
        taskset: its name, as for `prime eval`.
        settings: of its configuration.
        first: keep the first so many tasks; needed for a taskset that never ends.
        held_out: the last so many of these are for the benchmark only.
        right_from: reward from which a response is right.

    Raises:
        TasksetError: no taskset is named, verifiers is not installed, or the taskset needs more
            than one exchange, or has fewer tasks than are held out.
    """

    name = "taskset"

    def __init__(
        self,
        taskset: str | None,
        settings: Mapping[str, Any] | None = None,
        first: int | None = None,
        held_out: int = 0,
        right_from: float = 1.0,
    ) -> None:
        if not taskset:
            raise TasksetError("task.source.taskset names no taskset of an installed package")
        chosen = dict(settings or {})
        self.verifier = TasksetVerifier(taskset, chosen, right_from)

        # a taskset that never ends is cut
        loaded = load_taskset(taskset, chosen)
        if first is None and not loaded.bounded:
            raise TasksetError(f"taskset {taskset} never ends: set task.source.first")
        tasks = list(itertools.islice(loaded, first))
        if not 0 <= held_out < len(tasks):
            raise TasksetError(f"taskset {taskset} has {len(tasks)} tasks, held_out={held_out}")
        refuse_runtimes(taskset, tasks[0])

        # the last tasks are not drawn
        problems = [problem_of(taskset, task) for task in tasks]
        count = len(problems) - held_out
        self.problems, self.held_out = problems[:count], problems[count:]
        self._prompts = {problem.prompt for problem in self.problems}

    def batch(self, seed: int, start: int, size: int) -> list[Problem]:
        """Problems of shuffled epochs over the taskset."""
        return stream_from_rows(self.problems, seed, start, size)

    def may_draw(self, problem: Problem) -> bool:
        """Whether a problem's prompt is one of the taskset's."""
        return problem.prompt in self._prompts


def load_taskset(name: str, settings: Mapping[str, Any]) -> Any:
    """A taskset by its name, checked.

    Raises:
        TasksetError: verifiers or the taskset is not installed, or it needs more than one exchange.
    """
    try:
        from verifiers.v1 import TasksetConfig
        from verifiers.v1.utils.generic import concrete_type
        from verifiers.v1.utils.loaders import taskset_class
    except ImportError as error:
        raise TasksetError(
            f"task.source.taskset={name} needs the package verifiers: "
            "pip install 'verifiers>=0.4,<0.5' or uv pip install 'verifiers>=0.4,<0.5'"
        ) from error

    # with the configuration of its own class
    try:
        found = taskset_class(name)
    except ImportError as error:
        raise TasksetError(f"there is no taskset {name}: install its package") from error
    config_class = concrete_type(found, TasksetConfig) or TasksetConfig
    taskset = found(config_class.model_validate({**settings, "id": name}))
    refuse_more_than_one_exchange(name, taskset)
    return taskset


def refuse_more_than_one_exchange(name: str, taskset: Any) -> None:
    """Refuse tasksets whose rewards need what is not here; see the module.

    Raises:
        TasksetError: the message says what it needs.
    """
    task_class, config = taskset.task_type(), taskset.config
    needs: list[str] = []
    if type(taskset).toolsets(config) or task_class.toolsets(config.task):
        needs.append("tools")
    if task_class.NEEDS_CONTAINER:
        needs.append("a container")
    if config.task.judges:
        needs.append("judges")
    if needs:
        raise TasksetError(f"taskset {name} needs {', '.join(needs)}: only one exchange is judged")


def refuse_runtimes(name: str, task: Any) -> None:
    """Refuse rewards that look at a sandbox: they would be left out of the sum without a word.

    Raises:
        TasksetError: it names the reward.
    """
    for reward in task.hooks("reward"):
        runtime = inspect.signature(reward).parameters.get("runtime")
        if runtime is not None and runtime.default is inspect.Parameter.empty:
            raise TasksetError(f"taskset {name}: reward {reward.__name__} looks at a runtime")


def problem_of(name: str, task: Any) -> Problem:
    """A task as a problem; its data travel as JSON.

    Raises:
        TasksetError: it has no prompt, a conversation as its prompt, or a system prompt.
    """
    data = task.data
    prompt = data.prompt
    if isinstance(prompt, list) and len(prompt) == 1 and prompt[0].role == "user":
        prompt = data.prompt_text
    if not isinstance(prompt, str) or not prompt.strip():
        raise TasksetError(f"taskset {name}, task {data.idx}: its prompt is not one user turn")
    if data.system_prompt:
        raise TasksetError(f"taskset {name}, task {data.idx}: it has a system prompt")
    return Problem(
        id=f"{name}/{data.id or data.idx}",
        prompt=prompt,
        answer=str(getattr(data, "answer", "")),
        meta={"data": data.model_dump_json()},
    )
