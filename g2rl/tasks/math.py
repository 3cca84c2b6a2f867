"""Competition mathematics with a checkable final answer, such as the MATH train split.

An example row: ``{"problem": "What is $2+3$?", "answer": "5"}``, or without an answer column a
``solution`` whose last ``\\boxed{}`` holds it. The prompt is the problem and, on a new line, the
paper's instruction (arXiv 2512.15687): "Please reason step by step, and put your final answer
within \\boxed{}."
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict, Unpack

from g2rl.tasks.grading.extract import boxes
from g2rl.tasks.grading.math import MathVerifier
from g2rl.tasks.rows import (
    DataError,
    column,
    first_column,
    is_local,
    locate,
    read_rows,
    refuse_twins,
    row_id,
    text_of,
)
from g2rl.tasks.task import stream_from_rows
from g2rl.types import Problem

AUTO = "auto"
PAPER_INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."


class Source(TypedDict, total=False):
    """Where questions come from; the keys of conf/task/math.yaml and
    conf/benchmark/math500.yaml."""

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
    """"auto": `problem` where the row has it, else `question`."""
    answer_column: str
    """"auto": `answer` where the row has it, else the last box of `solution_column`."""
    solution_column: str
    instruction: str
    """Second line of the prompt."""


def math_problems(name: str, **given: Unpack[Source]) -> tuple[list[Problem], int]:
    """Read questions and their gold answers; `name` prefixes the problem ids.

    Returns:
        Problems in file order, and the number of rows dropped because their gold is empty.

    Raises:
        DataError: missing file or column, empty data set, or no row with a gold.
    """
    # where the rows come from, and how errors name it
    source = locate(given["source"], given.get("data_dir"), given.get("local_name"))
    where = Path(source).name if is_local(source) else source
    instruction = given.get("instruction", PAPER_INSTRUCTION)
    problems, dropped = [], 0
    rows = read_rows(
        source, given.get("split", "train"), given.get("config"), given.get("revision")
    )
    for number, row in enumerate(rows):
        gold = _gold(row, given, where, number)
        if not gold:
            dropped += 1
            continue

        # the question, in the column that is named or in a usual one
        column_name = given.get("problem_column", "problem")
        names = ("problem", "question") if column_name == AUTO else (column_name,)
        text = text_of(first_column(row, names, where, number), "/".join(names), where, number)

        meta = {"kind": "math"}
        if row.get("subject"):
            meta["group"] = str(row["subject"])
        id_ = f"{name}/{row_id(row, number)}"
        problems.append(Problem(id_, f"{text}\n{instruction}", gold, meta))

    # what is left must be usable
    if not problems:
        raise DataError(f"{where}: every gold answer is empty")
    refuse_twins([problem.id for problem in problems], where)
    return problems, dropped


def _gold(row: Mapping[str, Any], given: Source, where: str, number: int) -> str:
    """The gold answer of a row; "" where it has none."""
    name = given.get("answer_column", AUTO)
    if name == AUTO and "answer" in row:
        name = "answer"

    # the last box of the written solution
    if name == AUTO:
        found, _ = boxes(str(column(row, given.get("solution_column", "solution"), where, number)))
        return found[-1][2].strip() if found else ""

    # a column of answers
    value = column(row, name, where, number)
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # 27.0 -> 27, as in published AMC files
    return str(value).strip()


class MathTask:
    """MATH-style training problems, shuffled anew every epoch; arguments as in `Source`."""

    name = "math"

    def __init__(self, **source: Unpack[Source]) -> None:
        self.problems, self.dropped = math_problems("math/train", **source)
        self._prompts = {problem.prompt for problem in self.problems}
        self.verifier = MathVerifier()

    def may_draw(self, problem: Problem) -> bool:
        return problem.prompt in self._prompts

    def batch(self, seed: int, start: int, size: int) -> list[Problem]:
        return stream_from_rows(self.problems, seed, start, size)
