"""Grade a file of cases from the command line: ``g2rl-grade CASES.jsonl --out VERDICTS.jsonl``.

A case is one JSON object a line: ``{"kind": "math", "gold": "1/2", "prediction": "...
\\\\boxed{0.5}"}``; kind ``mcq`` may add ``"choices": ["text of A", ...]``. The verdicts come in the
same order, one a line: ``{"correct": true, "answer": "0.5", "route": "number", "seconds": 0.0004}``
(with the case's id if it has one). All cases are checked before any is graded, and the output
appears complete or not at all.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from g2rl.cli.config.words import as_flags
from g2rl.cli.one_line import errors_in_one_line
from g2rl.runs.columns import Column, FileSchema
from g2rl.runs.files import atomic_path
from g2rl.runs.lock import one_process_in
from g2rl.tasks.grading.choice import ChoiceVerifier
from g2rl.tasks.grading.grader import Grader
from g2rl.tasks.grading.math import MathVerifier
from g2rl.tasks.grading.verifier import Verifier
from g2rl.tasks.places import at_line, not_utf8, why_no
from g2rl.types import Problem, Verdict

VERIFIERS: dict[str, type[Verifier]] = {"math": MathVerifier, "mcq": ChoiceVerifier}

UNUSABLE = 2
"""Exit code where the input, the options or the place for the output cannot be used."""

VERDICTS = FileSchema(
    "VERDICTS.jsonl",
    "g2rl grade CASES.jsonl --out VERDICTS.jsonl",
    "one case, in the order of the cases",
    (
        Column("id", "text", "that of the case", when="the case has one"),
        Column("correct", "bool", "the verdict"),
        Column("answer", "text", "what was read in the prediction", nullable="nothing was read"),
        Column("route", "text", "the rule that decided, or why none did"),
        Column("seconds", "float", "time that grading took", "seconds"),
    ),
)


class CaseError(ValueError):
    """A row that cannot be graded; the message names the line and what to mend."""


def read_cases(path: Path) -> list[dict[str, Any]]:
    """The cases of a JSONL file.

    Raises:
        CaseError: naming the line of the first bad row, counted from 1.
    """
    absent = why_no("file", path)
    if absent:
        raise CaseError(f"{absent}; name one of cases")

    # the json module would take other encodings for what they are not
    told = not_utf8(path)
    if told is not None:
        raise CaseError(told)

    cases = []
    # only "\n" ends a line: model output may hold other characters that Python takes for line ends.
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue

        # a case that can be read, and graded
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise CaseError(
                f"{at_line(path, number)}: not JSON ({error}); write one object a line"
            ) from None
        problem = _fault(row)
        if problem:
            raise CaseError(f"{at_line(path, number)}: {problem}")
        cases.append(row)
    return cases


def _fault(row: Any) -> str | None:
    """What to mend in a row; None when it is fine."""
    if not isinstance(row, dict):
        return f"holds a JSON {type(row).__name__}; write an object with kind, gold and prediction"

    # what every case needs
    for field in ("kind", "gold", "prediction"):
        if field not in row:
            return f'has no "{field}"; add it'
        if not isinstance(row[field], str):
            return f'"{field}" is a {type(row[field]).__name__}; write it as a string'
    if row["kind"] not in VERIFIERS:
        return f'kind "{row["kind"]}" is unknown; use one of {", ".join(VERIFIERS)}'
    if not row["gold"].strip():
        return '"gold" is empty; nothing can be right, so leave the row out'

    # options of a multiple-choice question
    choices = choices_in(row)
    if choices is None:
        return None
    is_list_of_text = isinstance(choices, list) and all(isinstance(c, str) for c in choices)
    if not is_list_of_text or not 2 <= len(choices) <= 26:
        return '"choices" must be a list of 2 to 26 strings'
    return None


def choices_in(row: dict[str, Any]) -> Any:
    """The row's options, given directly or under "meta"; None when there are none."""
    if "choices" in row:
        return row["choices"]
    meta = row.get("meta")
    return meta.get("choices") if isinstance(meta, dict) else None


def grade_cases(
    cases: Sequence[dict[str, Any]], workers: int = 2, timeout_seconds: float = 5.0
) -> list[Verdict]:
    """Verdicts in the order of the cases; `timeout_seconds` bounds each."""
    # by their places among the cases, because each kind has a grader of its own
    verdicts: dict[int, Verdict] = {}
    for kind, verifier in VERIFIERS.items():
        places = [place for place, case in enumerate(cases) if case["kind"] == kind]
        if not places:
            continue
        items = [(cases[place]["prediction"], _problem(cases[place])) for place in places]
        with Grader(verifier(), workers, timeout_seconds) as grader:
            verdicts.update(zip(places, grader.grade(items), strict=True))
    return [verdicts[place] for place in range(len(cases))]


def _problem(case: dict[str, Any]) -> Problem:
    """What a verifier needs to know: the gold answer and the options."""
    choices = choices_in(case)
    meta = {} if choices is None else {"choices": choices}
    return Problem(str(case.get("id", "")), "", case["gold"], meta)


def write_verdicts(
    path: Path, cases: Sequence[dict[str, Any]], verdicts: Sequence[Verdict]
) -> None:
    """Write one JSON object a line; the file is complete or absent."""
    with atomic_path(path) as aside, aside.open("w", encoding="utf-8") as file:
        for case, verdict in zip(cases, verdicts, strict=True):
            row: dict[str, Any] = {"id": case["id"]} if "id" in case else {}
            row["correct"] = verdict.correct
            row["answer"] = verdict.answer
            row["route"] = verdict.route
            row["seconds"] = round(verdict.seconds, 6)
            file.write(json.dumps(row) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Console entry: 0 when every case was graded; ends with 2 where something is unusable."""
    parser = argparse.ArgumentParser(
        prog="g2rl-grade", description="Grade predictions against golds."
    )
    parser.add_argument(
        "cases", type=Path, help="JSONL with kind (math, mcq), gold, prediction[, choices]"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="JSONL of verdicts, in the same order"
    )
    parser.add_argument("--workers", type=int, default=2, help="grading processes (default 2)")
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds per case (default 5)")
    words = sys.argv[1:] if argv is None else list(argv)
    options = parser.parse_args(as_flags(words, ("out", "workers", "timeout")))

    # refuse before anything runs
    if options.workers < 1:
        parser.error(f"--workers must be at least 1, got {options.workers}")
    if not options.timeout > 0:
        parser.error(f"--timeout must be above 0, got {options.timeout:g}")
    if options.out.is_dir():
        parser.error(f"--out {options.out} is a folder, and the name of a file is wanted")

    # grade and write
    place = options.out.parent
    with errors_in_one_line(RuntimeError, code=UNUSABLE):
        cases = read_cases(options.cases)
        with one_process_in(place, "g2rl-grade", "--out in another folder", True):
            verdicts = grade_cases(cases, options.workers, options.timeout)
            write_verdicts(options.out, cases, verdicts)
    if not cases:
        print(f"g2rl-grade: {options.cases} holds no case", file=sys.stderr)
    right = sum(verdict.correct for verdict in verdicts)
    print(f"g2rl-grade: {right} of {len(verdicts)} right, written to {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
