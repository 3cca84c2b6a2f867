"""Problems of one's own: rows of a file or of a hub data set, judged by a verifier or by functions.

An example row is ``{"prompt": "Name a colour of the flag.", "answer": "blue"}``. The names of the
columns are settings, and `docs/own_data.md` walks through a whole example. A row becomes a
`Problem` whose prompt is the template filled with the row's prompt. Kept columns travel with it
for reward functions.

Some rows may be held out: which ones depends on their prompts and on nothing else, so the task and
the benchmark agree on them whatever the order of the file. Rows with one prompt stay together.
"""

from __future__ import annotations

import hashlib
import json
import string
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, Unpack, cast

from g2rl.tasks.grading.grader import Grader
from g2rl.tasks.grading.registry import VERIFIERS, verifier_named
from g2rl.tasks.grading.reward_function import COLUMNS, RewardFunction, RewardVerifier
from g2rl.tasks.grading.verifier import Verifier
from g2rl.tasks.places import Origin, place_of
from g2rl.tasks.rehearsal import rehearse_golds
from g2rl.tasks.rows import (
    DataError,
    column,
    gold_text,
    read_rows,
    refuse_twins,
    row_id,
    text_of,
)
from g2rl.tasks.task import stream_from_rows
from g2rl.types import Problem

NAMED_VERIFIERS = ("math", "number", "exact", "choice")
"""Verifiers that rows may choose."""
PARTS = ("train", "heldout")


class RowSettings(TypedDict, total=False):
    """Which rows, and what becomes of them: keys of conf/task/rows.yaml.

    Only `source` is needed."""

    source: str | None
    """Local .jsonl, .json, .parquet or .csv file, or a hub id."""
    split: str
    config: str | None
    revision: str | None
    prompt_column: str
    """Holds text, or a list with one chat message of the user."""
    answer_column: str | None
    """None where no function or verifier needs a gold answer."""
    answer_after: str | None
    """The gold is what follows the last of these words, such as "####" in GSM8K."""
    columns: Sequence[str] | None
    """Columns that are kept for reward functions; None keeps all."""
    template: str
    """The prompt of the policy; ``$prompt`` stands for that of the row."""
    held_out: int
    """So many different prompts are held out."""


class GradeSettings(TypedDict, total=False):
    """Who judges the responses: the other keys of conf/task/rows.yaml."""

    verifier: str | None
    """One of `NAMED_VERIFIERS`, or None with reward functions."""
    reward: Any
    """A function's name, or a list of names or of mappings with function and weight."""
    right_from: float
    failed_reward: float
    on_error: str
    messages: bool


class Settings(RowSettings, GradeSettings, total=False):
    """All of the above."""


ROW_KEYS = tuple(RowSettings.__annotations__)


def split_settings(given: Mapping[str, Any]) -> tuple[RowSettings, GradeSettings]:
    """Tell the settings of the rows from those of grading."""
    rows = {key: value for key, value in given.items() if key in ROW_KEYS}
    grading = {key: value for key, value in given.items() if key not in ROW_KEYS}
    return cast(RowSettings, rows), cast(GradeSettings, grading)


# problems


def row_problems(name: str, part: str | None, given: RowSettings) -> list[Problem]:
    """The problems of a file or a data set.

    Args:
        name: the beginning of each problem's id.
        part: "train" or "heldout"; None takes all rows.
        given: see `RowSettings`.

    Returns:
        Problems in file order.

    Raises:
        DataError: no source is named; a file, a column or a text is missing; or too few rows are
            left.
    """
    source = given.get("source")
    if not source:
        raise DataError(
            "task=rows needs data: task.source.source=FILE.jsonl (or .json, .parquet, .csv, or a "
            "hub id); for g2rl-eval benchmark.source=..."
        )

    # where the rows come from, and how errors name it
    split = given.get("split", "train")
    rows = read_rows(source, split, given.get("config"), given.get("revision"))
    where = rows.origin(source)

    # every row is read, also those of another part: a bad row is refused wherever it lands
    problems: list[Problem] = []
    for number, row in enumerate(rows):
        problems.append(_problem(f"{name}/{row_id(row, number)}", row, given, where, number))
    refuse_twins([problem.id for problem in problems], where)
    return _part(problems, part, given.get("held_out", 0), where)


def _problem(
    id_: str, row: Mapping[str, Any], given: RowSettings, where: Origin, number: int
) -> Problem:
    """One row as a problem."""
    # the prompt
    name = given.get("prompt_column", "prompt")
    asked = prompt_text(column(row, name, where, number, "prompt_column"), name, where, number)
    template = given.get("template", "$prompt")
    if "$prompt" not in template:
        raise DataError(f"task.source.template lacks $prompt: {template!r}")
    prompt = string.Template(template).safe_substitute(prompt=asked)

    # what reward functions may ask for; a name that the row lacks is an error
    kept: dict[str, Any] = {}
    names = given.get("columns")
    for key in row if names is None else names:
        kept[key] = kept_value(column(row, key, where, number, "columns"), key, where, number)
    gold = gold_of(row, given, where, number)
    return Problem(id_, prompt, gold, {"kind": "rows", COLUMNS: kept})


def prompt_text(value: Any, name: str, where: Origin, number: int) -> str:
    """The text of a prompt: the field itself, or the one message of the user that it lists.

    Raises:
        DataError: it is neither, or empty.
    """
    # TRL's data sets hold either form
    value = plain(value)
    if not isinstance(value, list):
        return text_of(value, name, where, number)
    is_one_turn = len(value) == 1 and isinstance(value[0], dict) and value[0].get("role") == "user"
    if not is_one_turn:
        raise DataError(
            f"{place_of(where, number)}: {name} lists messages other than one of the user; system "
            "messages and earlier turns are not supported, put their text into the prompt"
        )
    return text_of(value[0].get("content"), f"{name}[0].content", where, number)


def gold_of(row: Mapping[str, Any], given: RowSettings, where: Origin, number: int) -> str:
    """The gold answer of a row as text; empty where no answer column is named.

    Raises:
        DataError: it is empty or no answer, or lacks the words that `answer_after` names.
    """
    name = given.get("answer_column")
    if name is None:
        return ""
    gold = gold_text(column(row, name, where, number, "answer_column"), name, where, number)

    # what follows the last of these words
    mark = given.get("answer_after")
    if mark and gold:
        _, found, gold = gold.rpartition(mark)
        if not found:
            raise DataError(f"{place_of(where, number)}: the answer lacks {mark!r}")
    if not gold.strip():
        raise DataError(
            f"{place_of(where, number)}: {name} holds no answer ({row[name]!r}); mend or "
            "remove the row"
        )
    return gold.strip()


def kept_value(value: Any, name: str, where: Origin, number: int) -> Any:
    """A field that travels with the problem, as plain Python.

    Raises:
        DataError: it is of a type that the files of an evaluation cannot hold.
    """
    value = plain(value)
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        raise DataError(
            f"{place_of(where, number)}: {name} holds a {type(value).__name__}, which is no plain "
            "value; write it as text, or name the columns that are to be kept: "
            "task.source.columns=[...]"
        ) from None
    return value


def plain(value: Any) -> Any:
    """A value of a row as plain Python: arrays of a parquet file become lists."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value


def _part(problems: list[Problem], part: str | None, held_out: int, where: Origin) -> list[Problem]:
    """The problems of one part; which prompts are held out, their hashes decide."""
    if part is None:
        return problems
    if part not in PARTS:
        raise ValueError(f"part must be one of {PARTS} or null, got {part!r}")

    # the prompts with the smallest hashes
    prompts = {problem.prompt for problem in problems}
    if held_out < 0:
        raise DataError(f"task.source.held_out must be 0 or more, got {held_out}")
    if held_out >= len(prompts):
        # a benchmark comes here with a file of its own; one that it shares the task refuses first
        advice = (
            "lower task.source.held_out, or give held-out rows of their own: "
            "task.source.held_out=0 benchmark.source=FILE"
        )
        if part == "heldout":
            advice = (
                "if all rows of this file are held out, task.source.held_out=0 takes them (for "
                "g2rl-eval benchmark.held_out=0)"
            )
        raise DataError(
            f"{where}: {len(prompts)} different prompts, and held_out={held_out} of them cannot "
            f"be held out; {advice}"
        )
    chosen = set(sorted(prompts, key=_hash)[:held_out])

    wanted = part == "heldout"
    return [problem for problem in problems if (problem.prompt in chosen) == wanted]


def _hash(prompt: str) -> bytes:
    """A hash of a prompt, whatever characters it holds."""
    return hashlib.sha256(prompt.encode("utf-8", "replace")).digest()


# who judges


def row_verifier(given: GradeSettings) -> Verifier:
    """The verifier that the settings name, or one around reward functions.

    Raises:
        ValueError: both or neither are named, or a name is unknown.
    """
    # with two judges nobody could tell which one decided
    name, reward = given.get("verifier"), plain(given.get("reward"))
    if (name is None) == (not reward):
        raise ValueError(
            f"task=rows needs one judge: task.source.verifier (one of {', '.join(NAMED_VERIFIERS)})"
            " or task.source.reward=package.module:function (or file.py:function), and null for "
            "the other (for g2rl-eval benchmark.verifier and benchmark.reward); "
            f"got {name!r} and {reward!r}"
        )

    # a verifier of g2rl
    if name is not None:
        if name not in NAMED_VERIFIERS:
            raise ValueError(
                f"task.source.verifier must be one of {', '.join(NAMED_VERIFIERS)}, got {name!r}"
            )
        return verifier_named(VERIFIERS[name])

    # reward functions
    return RewardVerifier(
        reward_functions(reward),
        right_from=given.get("right_from", 1.0),
        failed_reward=given.get("failed_reward", 0.0),
        on_error=given.get("on_error", "stop"),
        messages=given.get("messages", False),
    )


def reward_functions(reward: Any) -> tuple[RewardFunction, ...]:
    """Reward functions with their weights, from the setting `reward`.

    Raises:
        ValueError: it is neither a name nor a list of names and of mappings.
    """
    # a single name is a list of one
    functions: list[RewardFunction] = []
    for entry in reward if isinstance(reward, list) else [reward]:
        if isinstance(entry, str):
            functions.append(RewardFunction(entry))
        elif isinstance(entry, dict) and {"function"} <= set(entry) <= {"function", "weight"}:
            functions.append(RewardFunction(entry["function"], float(entry.get("weight", 1.0))))
        else:
            raise ValueError(
                "task.source.reward must be a name, or a list of names and of "
                f"{{function: NAME, weight: NUMBER}}; got {entry!r}"
            )
    return tuple(functions)


# the task


class RowsTask:
    """Rows as training problems, shuffled anew every epoch.

    Args:
        given: see `RowSettings` and `GradeSettings`.

    Raises:
        DataError, ValueError: as in `row_problems` and `row_verifier`.
    """

    name = "rows"

    def __init__(self, **given: Unpack[Settings]) -> None:
        rows, grading = split_settings(given)
        self.verifier = row_verifier(grading)
        if rows.get("answer_column") is None and not isinstance(self.verifier, RewardVerifier):
            raise ValueError(
                "task.source.verifier needs gold answers: name task.source.answer_column"
            )
        self.problems = row_problems("rows", "train", rows)
        self._prompts = {problem.prompt for problem in self.problems}

    def may_draw(self, problem: Problem) -> bool:
        """Whether a training problem has the same prompt."""
        return problem.prompt in self._prompts

    def batch(self, seed: int, start: int, size: int) -> list[Problem]:
        """Problems number `start` to `start + size` of the stream with this seed."""
        return stream_from_rows(self.problems, seed, start, size)

    def rehearse(self, grader: Grader) -> None:
        """Grade the gold answers of some rows, so that what cannot work is said at once.

        Args:
            grader: of the task's verifier.

        Raises:
            ValueError: a gold answer is not right by the task's own verifier, or a reward function
                does not come back.
            RewardFunctionError: a reward function fails.
        """
        if isinstance(self.verifier, RewardVerifier):
            self._rehearse_functions(self.verifier.functions, grader)
            return

        rehearse_golds(
            self.problems,
            grader,
            "mend the row, choose another task.source.verifier, or say where the answer begins by "
            "task.source.answer_after",
        )

    def _rehearse_functions(self, functions: Sequence[RewardFunction], grader: Grader) -> None:
        """Call the reward functions once, with the gold answer of the first row as the response."""
        # a function that raises or returns nonsense ends this by its own error
        problem = self.problems[0]
        [verdict] = grader.grade([(problem.answer, problem)])
        if verdict.route in ("timeout", "killed"):
            names = ", ".join(function.name for function in functions)
            ending = (
                f"did not return within verify.timeout_seconds={grader.timeout_seconds:g} of CPU "
                f"time, or {grader.wall_seconds:g} seconds by the clock"
            )
            if verdict.route == "killed":
                ending = f"took its worker down; verify.memory_mb={grader.memory_mb} may be too few"
            raise ValueError(f"reward function {names} {ending} (for the gold of {problem.id})")
