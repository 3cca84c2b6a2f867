"""Competition mathematics with a checkable final answer, such as the MATH train split.

An example row: ``{"problem": "What is $2+3$?", "answer": "5"}``, or without an answer column a
``solution`` whose last ``\\boxed{}`` holds it. The prompt is the problem and, on a new line, the paper's
instruction (arXiv 2512.15687): "Please reason step by step, and put your final answer within \\boxed{}."
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from g2rl.data import column, is_local, read_rows
from g2rl.tasks.base import stream_from_rows
from g2rl.types import Problem
from g2rl.verify.extract import boxes
from g2rl.verify.math import MathVerifier

AUTO = "auto"
PAPER_INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."


def math_problems(
    source: str,
    *,
    name: str,
    data_dir: str | None = None,
    local_name: str | None = None,
    split: str = "train",
    config: str | None = None,
    revision: str | None = None,
    problem_column: str = "problem",
    answer_column: str = AUTO,
    solution_column: str = "solution",
    instruction: str = PAPER_INSTRUCTION,
) -> tuple[list[Problem], int]:
    """Read problems and their gold answers.

    Args:
        answer_column: "auto" takes `answer` where the row has it, else the last box of `solution_column`.
        data_dir, local_name: a folder of local copies and the file's name in it; with a folder given the
            local copy is read instead of `source`.

    Returns:
        Problems in file order and the number of rows dropped because their gold is empty.

    Raises:
        DataError: missing column, empty data set, or no row with a gold.
    """
    if data_dir is not None and local_name is not None:
        source = str(Path(data_dir) / local_name)
    where = Path(source).name if is_local(source) else source
    problems, dropped = [], 0
    for number, row in enumerate(read_rows(source, split, config, revision)):
        gold = _gold(row, answer_column, solution_column, where, number)
        if not gold:
            dropped += 1
            continue
        text = str(column(row, problem_column, where, number))
        problems.append(Problem(f"{name}/{row.get('id', number)}", f"{text}\n{instruction}", gold, {"kind": "math"}))
    if not problems:
        raise ValueError(f"{where}: every gold answer is empty")
    return problems, dropped


def _gold(row: dict[str, Any], answer_column: str, solution_column: str, where: str, number: int) -> str:
    if answer_column == AUTO and "answer" in row:
        answer_column = "answer"
    if answer_column == AUTO:
        found, _ = boxes(str(column(row, solution_column, where, number)))
        return found[-1][2].strip() if found else ""
    value = column(row, answer_column, where, number)
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # 27.0 -> 27, as in published AMC files
    return str(value).strip()


class MathTask:
    """MATH-style training problems, shuffled anew every epoch.

    Args:
        source: hub id or local file, see `g2rl.data`.
        instruction: second line of the prompt.
    """

    name = "math"

    def __init__(
        self,
        source: str,
        data_dir: str | None = None,
        local_name: str | None = None,
        split: str = "train",
        config: str | None = None,
        revision: str | None = None,
        problem_column: str = "problem",
        answer_column: str = AUTO,
        solution_column: str = "solution",
        instruction: str = PAPER_INSTRUCTION,
    ) -> None:
        self.problems, self.dropped = math_problems(
            source, name="math/train", data_dir=data_dir, local_name=local_name, split=split, config=config, revision=revision,
            problem_column=problem_column, answer_column=answer_column,
            solution_column=solution_column, instruction=instruction,
        )  # fmt: skip
        self.verifier = MathVerifier()

    def batch(self, seed: int, start: int, size: int) -> list[Problem]:
        return stream_from_rows(self.problems, seed, start, size)
