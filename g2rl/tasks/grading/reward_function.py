"""A reward function of the user's own as a verifier, with the signature that TRL gives them.

    def closeness(prompts, completions, answer, **columns):
        return [1.0 / (1.0 + abs(len(text) - len(gold))) for text, gold in zip(completions, answer)]

A function is named by where it is, so that it can be sent to workers: ``package.module:function``
or ``folder/file.py:function``. It is called in a worker that can be killed, once for every
response, with lists of one. So it cannot compare the responses of a group, and what one response
does to it touches no other.

It gets ``prompts``, ``completions`` and every kept column of the row, each as a list of one; of
these only the ones that it names, unless it takes ``**columns``. With `messages` a prompt is a list
of chat messages, and so is a completion. The arguments ``trainer_state``, ``environments``,
``log_extra`` and ``log_metric`` of TRL are given where they are named: None, None, and functions
that do nothing. A function may be a coroutine.

The reward of a response is the weighted sum of what the functions return; one that returns None
does not apply to the response and is left out. The response counts as correct from `right_from` on.

A function that raises, or returns anything but one finite number or None, stops the run with a
`RewardFunctionError`, unless `on_error` is "count": then the response gets `failed_reward` and the
verdict has the route ``error``. One that does not come back in time is always counted, as
``timeout``.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import inspect
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.machinery import PathFinder
from numbers import Real
from pathlib import Path
from types import ModuleType
from typing import Any

from g2rl.tasks.grading.code_files import file_of, line_of, python_file, raised, words_of
from g2rl.tasks.grading.extract import clean, final_text, last_boxed
from g2rl.tasks.grading.verifier import LARGEST_REWARD, SHOWN_RESPONSE
from g2rl.types import Problem, Verdict

ON_ERROR = ("stop", "count")
MAX_ANSWER = 200
"""Characters of a response without a box that stand for its answer."""
COLUMNS = "columns"
"""Key of `Problem.meta` under which the kept columns of a row are."""


class RewardFunctionError(ValueError):
    """A reward function cannot be found or called, or returned no reward; the message names it."""


@dataclass(slots=True, frozen=True)
class RewardFunction:
    """One function and its weight: ``RewardFunction("rewards.py:closeness", 0.5)``."""

    name: str
    weight: float = 1.0

    def __post_init__(self) -> None:
        # the last colon, because a path may hold one as well
        place, colon, function = self.name.rpartition(":")
        if not colon or not place or not function.isidentifier():
            raise ValueError(
                f"task.source.reward: {self.name!r} names no function; write "
                "package.module:function or path/to/file.py:function"
            )

        # an infinite weight would hide all other functions
        if not math.isfinite(self.weight):
            raise ValueError(
                f"task.source.reward: the weight of {self.name} must be finite, got {self.weight}"
            )


@dataclass(slots=True)
class RewardVerifier:
    """Judges a response by reward functions.

    Args:
        functions: one or more.
        right_from: a response with this reward or more is correct.
        failed_reward: of a response whose reward cannot be had (see the head of this module).
        on_error: "stop" or "count".
        messages: prompts and completions are given as chat messages rather than as text.

    Raises:
        ValueError: a setting that cannot be, named by its key.
    """

    functions: tuple[RewardFunction, ...]
    right_from: float = 1.0
    failed_reward: float = 0.0
    on_error: str = "stop"
    messages: bool = False
    _loaded: dict[str, Callable[..., Any]] = field(default_factory=dict, repr=False, compare=False)
    """Functions by name, in a worker."""
    _files: dict[str, Path] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Where the files of functions lie, by name; workers know the user's folders from here only."""

    bounded = False

    def __post_init__(self) -> None:
        # settings are checked in the command's own process, before any worker starts
        if not self.functions:
            raise ValueError("task.source.reward names no function")
        if self.on_error not in ON_ERROR:
            raise ValueError(
                f"task.source.on_error must be one of {ON_ERROR}, got {self.on_error!r}"
            )
        for name in ("right_from", "failed_reward"):
            value = getattr(self, name)
            if not abs(value) <= LARGEST_REWARD:
                raise ValueError(f"task.source.{name} must be a finite number, got {value}")

        # looked for once, so that workers and fingerprints have one and the same file
        for function in self.functions:
            path = file_of(function.name)
            if path is not None:
                self._files[function.name] = path

    def __getstate__(self) -> Any:
        """What a worker is given: no functions that were imported here.

        A module of a user's file may have a name that no other process finds; a worker imports the
        file itself.
        """
        state: Any = object.__getstate__(self)
        own, slots = state
        return own, {**slots, "_loaded": {}}

    @property
    def identity(self) -> tuple[object, ...]:
        """What tells two verifiers of this class apart."""
        return (
            self.functions,
            self.right_from,
            self.failed_reward,
            self.on_error,
            self.messages,
        )

    def code_files(self) -> list[Path]:
        """The files of the functions, as far as they can be found without importing anything."""
        return list(self._files.values())

    def grade(self, completion: str, problem: Problem) -> Verdict:
        """Judge one completion.

        Raises:
            RewardFunctionError: a function failed and `on_error` is "stop".
        """
        start = time.perf_counter()
        answer = answer_of(completion)

        # a failure ends the run, or is counted and paid as the settings say
        try:
            reward = self._reward(completion, problem)
        except RewardFunctionError:
            if self.on_error == "stop":
                raise
            seconds = time.perf_counter() - start
            return Verdict(False, answer, "error", seconds, graded=self.failed_reward)

        # the reward itself trains; the threshold says what counts as right
        seconds = time.perf_counter() - start
        return Verdict(reward >= self.right_from, answer, "reward", seconds, graded=reward)

    def key(self, answer: str) -> str:
        """The answer without extra spaces."""
        return " ".join(answer.split())

    def equivalent(self, left: str, right: str) -> bool:
        """Whether two answers read the same, spaces aside."""
        return self.key(left) == self.key(right)

    def warm_up(self) -> None:
        """Import the functions before the memory limit and the clock of an item apply.

        What is wrong with them is said when the first response is graded.
        """
        for function in self.functions:
            try:
                self._function(function.name)
            except RewardFunctionError:
                return

    def _reward(self, completion: str, problem: Problem) -> float:
        """The weighted sum over the functions that apply."""
        row = self._row(completion, problem)
        # so that the user can find the response again; its text may be hostile
        asked = f"{problem.id} that begins {completion[:SHOWN_RESPONSE]!r}"
        total, is_rewarded = 0.0, False
        for function in self.functions:
            returned = call(self._function(function.name), function.name, row, asked)
            reward = one_reward(returned, function.name, asked)
            if reward is not None:
                total += function.weight * reward
                is_rewarded = True

        # TRL makes a nan of this; here every response needs a reward
        if not is_rewarded:
            names = ", ".join(function.name for function in self.functions)
            raise RewardFunctionError(
                f"reward function {names} returned None for a response to {asked}: some "
                "function must return a number for every response"
            )

        # such a reward would drown all others
        if not abs(total) <= LARGEST_REWARD:
            raise RewardFunctionError(
                f"the weighted rewards of a response to {asked} come to {total}, beyond "
                f"{LARGEST_REWARD:g}"
            )
        return total

    def _row(self, completion: str, problem: Problem) -> dict[str, Any]:
        """What the functions are told, as lists of one."""
        # prompts and completions win over columns of these names
        columns: Mapping[str, Any] = problem.meta.get(COLUMNS, {})
        row = {name: [value] for name, value in columns.items()}
        row["prompts"], row["completions"] = [problem.prompt], [completion]
        if self.messages:
            row["prompts"] = [[{"role": "user", "content": problem.prompt}]]
            row["completions"] = [[{"role": "assistant", "content": completion}]]
        return row

    def _function(self, name: str) -> Callable[..., Any]:
        """The function of a name, imported once a process."""
        if name not in self._loaded:
            self._loaded[name] = load_function(name, self._files.get(name))
        return self._loaded[name]


def answer_of(completion: str) -> str | None:
    """What stands for the answer of a response: its last box, else the end of its text."""
    # only used to count distinct answers and to vote, never for the reward
    text = final_text(completion)
    boxed = last_boxed(text)
    answer = clean(text).strip()[-MAX_ANSWER:] if boxed is None else boxed
    return answer.strip() or None


def load_function(name: str, file: Path | None = None) -> Callable[..., Any]:
    """Import the function that is named ``package.module:function`` or ``file.py:function``.

    Args:
        name: of the function.
        file: where ``file.py`` lies; None looks for it.

    Raises:
        RewardFunctionError: there is no such module, file or function, or its import fails.
    """
    # importing runs the user's code, which may do anything
    place, _, function_name = name.rpartition(":")
    try:
        module = _module_of(place, file)
    except (Exception, SystemExit) as error:
        raise RewardFunctionError(
            f"reward function {name}: {place} cannot be imported ({words_of(error)}"
            f"{line_of(error)})"
        ) from error

    # a class that can be called is as good as a function
    function = getattr(module, function_name, None)
    if not callable(function):
        raise RewardFunctionError(
            f"reward function {name}: {place} has no function of that name{_there_are(module)}"
        )
    return function


def _module_of(place: str, file: Path | None) -> Any:
    """Import a file, or a module by its dotted name, also from the current folder."""
    # the console script does not look into the current folder by itself
    if not place.endswith(".py"):
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())
        return importlib.import_module(place)

    # a file, and modules beside it
    found = file or python_file(place)
    if found is None:
        raise FileNotFoundError(f"no such file: {Path(place).expanduser().resolve()}")
    path = found.resolve()
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    name = _module_name(path)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses of the file look themselves up there
    spec.loader.exec_module(module)
    return module


def _module_name(path: Path) -> str:
    """The name of a file as a module: its own, unless another module has that name.

    A file ``statistics.py`` of the user's must not stand for Python's module of that name.
    """
    # what is loaded, built in or first on the path would be replaced for everybody
    name = path.stem
    spec = PathFinder.find_spec(name)
    is_other = spec is None or spec.origin is None or Path(spec.origin).resolve() != path
    if is_other or name in sys.modules or name in sys.builtin_module_names:
        return str(path.with_suffix(""))
    return name


def _ignore(*_: Any) -> None:
    """Stands for TRL's functions that write to its log."""


TRL_EXTRAS: dict[str, Any] = {
    "trainer_state": None,
    "environments": None,
    "log_extra": _ignore,
    "log_metric": _ignore,
}
"""Further arguments of TRL, given to functions that name them."""


def _there_are(module: ModuleType) -> str:
    """The functions that a module defines itself, as the end of a sentence about another one."""
    names: list[str] = []
    for name, one in vars(module).items():
        if callable(one) and getattr(one, "__module__", None) == module.__name__:
            names.append(name)
    return f"; it has {', '.join(names)}" if names else ""


def call(function: Callable[..., Any], name: str, row: Mapping[str, Any], asked: str) -> Any:
    """Call a reward function with what it asks for; a coroutine is run to its end.

    Args:
        function: the function.
        name: of it, for messages.
        row: prompts, completions and columns, each a list of one.
        asked: the response in words, for messages: of which problem, and how it begins.

    Raises:
        RewardFunctionError: it asks for what there is not, or raises.
    """
    arguments = _arguments(function, name, row)

    # whatever it raises is its own fault, and is told with its name
    try:
        returned = function(**arguments)
        if inspect.isawaitable(returned):
            returned = asyncio.run(_awaited(returned))
    except MemoryError:
        raise  # the worker's limit; the grader counts it as killed
    except (Exception, SystemExit) as error:
        raise RewardFunctionError(
            f"reward function {name} {raised(error)} (for a response to {asked})"
            f"{_form_hint(error, row)}"
        ) from error
    return returned


def _form_hint(error: BaseException, row: Mapping[str, Any]) -> str:
    """What may help a function that took a response for what it is not; nothing in most cases."""
    if not isinstance(error, (TypeError, AttributeError, KeyError, IndexError)):
        return ""

    # functions written for TRL expect chat messages
    is_text = isinstance(row["completions"][0], str)
    if is_text and isinstance(error, TypeError):
        return "; if it expects chat messages, as TRL gives them, add task.source.messages=true"
    if not is_text:
        return "; task.source.messages=true gives it chat messages, without it there are texts"
    return ""


async def _awaited(awaitable: Any) -> Any:
    return await awaitable


def _arguments(function: Callable[..., Any], name: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the row's values, and of TRL's extras, that the function takes."""
    # functions written in C may not tell
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return dict(row)

    # everything for a function that takes **columns
    arguments: dict[str, Any] = {}
    if any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters):
        arguments = dict(row)
    for parameter in parameters:
        # *args and **columns are no arguments of their own
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        if parameter.name in row:
            arguments[parameter.name] = row[parameter.name]
        elif parameter.name in TRL_EXTRAS:
            arguments[parameter.name] = TRL_EXTRAS[parameter.name]
        elif parameter.default is parameter.empty:
            raise RewardFunctionError(
                f"reward function {name} asks for {parameter.name!r}, which no row has; there is "
                f"{', '.join(sorted(row))} (task.source.columns says which columns are kept)"
            )
    return arguments


def one_reward(returned: Any, name: str, asked: str) -> float | None:
    """The reward in what a function returned for one response.

    Args:
        returned: should be a sequence of one number or None.
        name: of the function, for messages.
        asked: the response in words, as in `call`.

    Raises:
        RewardFunctionError: it is anything else.
    """
    # lists, tuples, arrays and tensors are all right; a single number is not
    where = f"(for a response to {asked})"
    values = returned
    if hasattr(values, "tolist"):
        values = values.tolist()  # of an array or a tensor
    if not isinstance(values, Sequence) or isinstance(values, str | bytes):
        raise RewardFunctionError(
            f"reward function {name} returned {_short(returned)} instead of a list with one "
            f"number for each of the completions {where}"
        )
    if len(values) != 1:
        raise RewardFunctionError(
            f"reward function {name} returned {len(values)} values for 1 completion {where}; it "
            "must return one for each"
        )

    # one number, which may be one of numpy or torch; true and false are 1 and 0, as in TRL
    value = values[0]
    if hasattr(value, "tolist"):
        value = value.tolist()
    if value is None:
        return None
    if not isinstance(value, Real):
        raise RewardFunctionError(
            f"reward function {name} returned {_short(value)}, which is no number {where}"
        )
    size: Any = abs(value)  # as it is, because a whole number may be too large for a float
    if not size <= LARGEST_REWARD:
        raise RewardFunctionError(
            f"reward function {name} returned {_short(value)}, which is no reward {where}: it must "
            f"be finite, and at most {LARGEST_REWARD:g} in size"
        )
    return float(value)


def _short(value: Any) -> str:
    """The beginning of how a value is written, in one line."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # it is of a class of the user's own, or has too many digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."
