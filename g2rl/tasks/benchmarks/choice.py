"""Multiple-choice benchmarks read from the hub or a local file: GPQA-Diamond and MMLU-Pro.

An example row lists the options and the letter of the right one,

    {"question": "Which is prime?", "options": ["4", "7", "N/A"], "answer": "B", "category": "math"}

or names the right and the wrong ones, which are then shuffled by a hash of the row's own question:

    {"Question": "Which is prime?", "Correct Answer": "7", "Incorrect Answer 1": "4", ...}

Options "N/A" are padding and are dropped. The prompt lists the options as "A. ...", "B. ..." and so
on, and asks for a letter in the box. An answer without a readable letter is wrong.
"""

from __future__ import annotations

import hashlib
import string
from collections.abc import Mapping, Sequence
from typing import Any

from g2rl.tasks.benchmarks.benchmark import Benchmark
from g2rl.tasks.grading.choice import ChoiceVerifier
from g2rl.tasks.places import Origin, place_of
from g2rl.tasks.rows import (
    DataError,
    column,
    first_column,
    locate,
    read_rows,
    row_id,
    text_of,
)
from g2rl.types import Problem, SamplingParams

INSTRUCTION = "Please reason step by step, and put the letter of the right option within \\boxed{}."
# names of columns in published files; the first that a row has is taken
QUESTIONS = ("problem", "question", "Question")
OPTIONS = ("choices", "options")
GROUPS = ("subject", "category", "Subdomain")
# columns of the second form of rows, and the padding of the first
CORRECT, INCORRECT = "Correct Answer", "Incorrect Answer "
PADDING = "N/A"


def choice_benchmark(
    name: str,
    source: str,
    data_dir: str | None = None,
    local_name: str | None = None,
    split: str = "test",
    config: str | None = None,
    revision: str | None = None,
    shuffle_seed: int | None = None,
    limit: int | None = None,
    samples: int = 16,
    ks: Sequence[int] | None = None,
    temperature: float = 0.8,
    top_p: float = 1.0,
    top_k: int = 0,
    max_tokens: int = 8192,
    instruction: str = INSTRUCTION,
) -> Benchmark:
    """A multiple-choice benchmark.

    Args:
        name: of the benchmark, and the beginning of each problem's id.
        source, split, config, revision: on the hub, see `g2rl.tasks.rows.read_rows`.
        data_dir, local_name: a folder of local copies and the file in it, see
            `g2rl.tasks.rows.locate`.
        shuffle_seed: None keeps the order of the file. Rows of the second form need a seed, because
            their right option would always be A.
        limit: keeps the first rows only.
        samples, ks: as in `Benchmark`.
        temperature, top_p, top_k, max_tokens: as in `SamplingParams`.
        instruction: last line of the prompt.

    Raises:
        DataError: a file or a column is missing, or a row has fewer than two options or a gold that
            is none of them.
    """
    # where the rows come from, and how errors name it
    place = locate(source, data_dir, local_name)
    rows = read_rows(place, split, config, revision)
    where = rows.origin(place)

    problems: list[Problem] = []
    for number, row in enumerate(rows[:limit]):
        id_ = f"{name}/{row_id(row, number)}"
        problems.append(choice_problem(id_, row, instruction, shuffle_seed, where, number))

    params = SamplingParams(temperature, top_p, top_k, max_tokens)
    return Benchmark(name, problems, ChoiceVerifier(), samples=samples, ks=ks, params=params)


def choice_problem(
    id_: str,
    row: Mapping[str, Any],
    instruction: str,
    shuffle_seed: int | None,
    where: Origin,
    number: int,
) -> Problem:
    """One row as a problem.

    Args:
        id_: of the problem.
        row: in one of the two forms.
        instruction: last line of the prompt.
        shuffle_seed: as in `choice_benchmark`.
        where, number: the file and the place of the row in it, for messages.

    Raises:
        DataError: as in `choice_benchmark`.
    """
    question = first_column(row, QUESTIONS, where, number)
    question = text_of(question, "question", where, number).strip()

    # the options, shuffled together with the index of the right one
    options, right = _options(row, shuffle_seed, where, number)
    if shuffle_seed is not None:
        order = shuffled(len(options), question, shuffle_seed)
        options = [options[place] for place in order]
        right = order.index(right)

    # the prompt lists them by letter
    lines: list[str] = []
    for letter, option in zip(string.ascii_uppercase, options, strict=False):
        lines.append(f"{letter}. {option}")
    prompt = "\n".join([question, "", *lines, "", instruction])

    # a subject groups the results
    meta: dict[str, Any] = {"kind": "mcq", "choices": options}
    for name in GROUPS:
        if row.get(name):
            meta["group"] = str(row[name])
            break
    return Problem(id_, prompt, string.ascii_uppercase[right], meta)


def _options(
    row: Mapping[str, Any], shuffle_seed: int | None, where: Origin, number: int
) -> tuple[list[str], int]:
    """The options of a row in either of the published forms, and the index of the right one."""
    # the second form: the right option stands first
    if CORRECT in row:
        if shuffle_seed is None:
            raise DataError(
                f"{place_of(where, number)}: the right option stands first; set shuffle_seed"
            )
        names = [CORRECT, *(f"{INCORRECT}{i}" for i in (1, 2, 3))]
        options = [str(column(row, name, where, number)).strip() for name in names]
        right = 0

    # the first form: leave the padding out
    else:
        listed = [str(option).strip() for option in first_column(row, OPTIONS, where, number)]
        right_listed = _right_option(column(row, "answer", where, number), listed, where, number)
        places = [place for place, option in enumerate(listed) if option != PADDING]
        options = [listed[place] for place in places]
        right = places.index(right_listed)

    # options are named by letters, of which there are 26
    if not 2 <= len(options) <= len(string.ascii_uppercase):
        raise DataError(
            f"{place_of(where, number)}: {len(options)} options; a question needs 2 to 26"
        )
    return options, right


def _right_option(gold: Any, options: Sequence[str], where: Origin, number: int) -> int:
    """Index of the option that a gold names by its letter, or by its number from 0."""
    letter = str(gold).strip().upper()
    index = -1
    if isinstance(gold, int):
        index = gold
    elif len(letter) == 1 and not letter.isdigit():
        index = string.ascii_uppercase.find(letter)
    if not 0 <= index < len(options) or options[index] == PADDING:
        raise DataError(
            f"{place_of(where, number)}: answer {gold!r} names none of its {len(options)} options"
        )
    return index


def shuffled(count: int, question: str, seed: int) -> list[int]:
    """A permutation of `count` options that depends on the question and the seed alone.

    Options are sorted by a hash. Unlike a random generator, that gives the same order in every
    version of every library.
    """
    hashes: list[bytes] = []
    for option in range(count):
        text = f"{seed}\n{option}\n{question}"
        hashes.append(hashlib.sha256(text.encode("utf-8", "replace")).digest())
    return sorted(range(count), key=hashes.__getitem__)
