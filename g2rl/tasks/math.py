"""Competition mathematics with a checkable final answer, such as the MATH train split.

An example row is ``{"problem": "What is $2+3$?", "answer": "5"}``. Without an answer column, the
last ``\\boxed{}`` of a column ``solution`` holds the answer.

The prompt is the problem and, on a new line, the instruction of the G2RL paper (arXiv 2512.15687):
"Please reason step by step, and put your final answer within \\boxed{}."
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict, Unpack

from g2rl.tasks.grading.extract import boxes
from g2rl.tasks.grading.grader import Grader
from g2rl.tasks.grading.math import MathVerifier
from g2rl.tasks.places import Origin
from g2rl.tasks.rehearsal import rehearse_golds
from g2rl.tasks.rows import (
    DataError,
    column,
    first_column,
    gold_text,
    locate,
    read_rows,
    refuse_twins,
    row_id,
    text_of,
)
from g2rl.tasks.task import stream_from_rows
from g2rl.types import Problem

AUTO = "auto"  # as the name of a column: look for one of the usual names
GSM8K_MARK = "####"
"""What stands before the gold in the answers of GSM8K."""
MOST_FAILING = 0.5
"""Share of golds that may be wrong by their own verifier; published data sets hold a few."""
PAPER_INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."


class Source(TypedDict, total=False):
    """Where questions come from: keys of conf/task/math.yaml and conf/benchmark/math500.yaml."""

    source: str
    """Hub id or local file, see `g2rl.tasks.rows`."""
    data_dir: str | None
    """Folder of local copies; when given, `local_name` in it is read instead of `source`."""
    local_name: str | None
    """File name, or a pattern of one file."""
    split: str
    config: str | None
    revision: str | None
    problem_column: str
    """"auto": `problem` if the row has it, else `question`."""
    answer_column: str
    """"auto": `answer` if the row has it, else the last box of `solution_column`."""
    solution_column: str
    instruction: str | None
    """Second line of the prompt; "" for the problem alone, as beside a system prompt that holds the
    instruction (`model.system_prompt`); None for that of the paper."""


def math_problems(name: str, **given: Unpack[Source]) -> tuple[list[Problem], int]:
    """Read questions and their gold answers.

    Args:
        name: the beginning of each problem's id.
        given: where the questions come from; only `source` is needed.

    Returns:
        Problems in file order, and the number of rows dropped because their gold is empty.

    Raises:
        DataError: a file or a column is missing, the data set is empty, or no row has a gold.
    """
    # where the rows come from, and how errors name it
    source = locate(given["source"], given.get("data_dir"), given.get("local_name"))
    split = given.get("split", "train")
    rows = read_rows(source, split, given.get("config"), given.get("revision"))
    where = rows.origin(source)

    problems, dropped = [], 0
    for number, row in enumerate(rows):
        gold = _gold(row, given, where, number)
        if not gold:
            dropped += 1
            continue

        # the question, in the named column or in a usual one
        names: tuple[str, ...] = (given.get("problem_column", "problem"),)
        if names == (AUTO,):
            names = ("problem", "question")
        text = text_of(
            first_column(row, names, where, number, "problem_column"),
            "/".join(names),
            where,
            number,
        )

        # a subject groups the results
        meta = {"kind": "math"}
        if row.get("subject"):
            meta["group"] = str(row["subject"])
        id_ = f"{name}/{row_id(row, number)}"
        problems.append(Problem(id_, with_instruction(text, given), gold, meta))

    # something must be left, and be told apart by its ids
    if not problems:
        raise DataError(f"{where}: every gold answer is empty")
    refuse_twins([problem.id for problem in problems], where)
    return problems, dropped


def with_instruction(text: str, given: Source) -> str:
    """A question with the instruction of its source on a line below, if there is one."""
    instruction = given.get("instruction")

    # nothing said means the paper's; an empty one means none
    if instruction is None:
        instruction = PAPER_INSTRUCTION
    return f"{text}\n{instruction}" if instruction else text


def _gold(row: Mapping[str, Any], given: Source, where: Origin, number: int) -> str:
    """The gold answer of a row, or an empty string if it has none."""
    name = given.get("answer_column", AUTO)
    if name == AUTO and "answer" in row:
        name = "answer"

    # without a column of answers, the last box of the written solution
    if name == AUTO:
        solution_column = given.get("solution_column", "solution")
        solution = str(column(row, solution_column, where, number, "solution_column"))
        found_boxes, _ = boxes(solution)
        return found_boxes[-1].content.strip() if found_boxes else ""

    # with one, its value as text; GSM8K writes it behind a solution
    gold = gold_text(column(row, name, where, number, "answer_column"), name, where, number)
    return gold.rpartition(GSM8K_MARK)[2].strip()


class MathTask:
    """MATH-style training problems, shuffled anew every epoch.

    Args:
        boxed_only: an answer outside a box counts as none.
        source: where the problems come from. `dropped` counts the rows whose gold is missing.
    """

    name = "math"

    def __init__(self, boxed_only: bool = False, **source: Unpack[Source]) -> None:
        self.problems, self.dropped = math_problems("math/train", **source)
        self._prompts = {problem.prompt for problem in self.problems}
        self.verifier = MathVerifier(boxed_only)

    def may_draw(self, problem: Problem) -> bool:
        """Whether a training problem has the same prompt."""
        return problem.prompt in self._prompts

    def batch(self, seed: int, start: int, size: int) -> list[Problem]:
        """Problems number `start` to `start + size` of the stream with this seed."""
        return stream_from_rows(self.problems, seed, start, size)

    def rehearse(self, grader: Grader) -> None:
        """Grade some gold answers against themselves.

        Raises:
            ValueError: most of them are wrong by the task's own verifier.
        """
        advice = "name the column that holds final answers: task.source.answer_column"
        rehearse_golds(self.problems, grader, advice, MOST_FAILING)
