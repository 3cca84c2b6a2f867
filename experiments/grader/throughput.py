r"""Seconds to grade 500 completions of 30,000 characters, of which 30 % are hostile.

    PYTHONPATH=. python experiments/grader/throughput.py FOLDER/math500.jsonl [--workers 2]

Run it from the root of the repository: the hostile completions are those of the tests. Half of the
good ones repeat their gold, half are the gold plus 0, which only mathematics can decide. Nothing
may be lost: every good completion has to be right, every hostile one wrong.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import time
from collections import Counter
from pathlib import Path

from g2rl.tasks.grading.grader import Grader
from g2rl.tasks.grading.math import MathVerifier
from g2rl.tasks.grading.normalize import as_words, read_answer
from g2rl.tasks.grading.structure import parse
from g2rl.types import Problem
from tests.tasks.grading.hostile import ARITHMETIC, hostile_completions

LENGTH = 30_000
FILLER = "so we have $x^2+1$ and then therefore (a+b) \\frac{1}{2} equals 12, wait " * 600


def completions(golds: list[str], count: int) -> list[tuple[str, Problem, bool]]:
    """(completion, problem, whether it is good), the same for every run."""
    rng = random.Random(0)
    hostile = hostile_completions("/nonexistent/canary")
    made = []
    for number in range(count):
        gold = golds[number % len(golds)]
        is_good = rng.random() >= 0.3
        if not is_good:
            bomb = rf"\boxed{{{rng.choice(ARITHMETIC)}}}"
            end = rng.choice(hostile)[-2000:] if rng.random() < 0.5 else bomb
        else:
            end = rf"\boxed{{{gold}{' + 0' if rng.random() < 0.5 else ''}}}"
        made.append((FILLER[: LENGTH - len(end)] + end, Problem(str(number), "", gold), is_good))
    return made


def is_expression(gold: str) -> bool:
    """Whether "gold + 0" means the gold: not for words, tuples and matrices."""
    text, unit, _ = read_answer(gold)
    return not unit and parse(text).kind == "leaf" and as_words(text) is None and "text" not in text


def main() -> None:
    """Grade them, and print the time and the verdicts by route."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()

    rows = [json.loads(line) for line in args.file.read_text(encoding="utf-8").splitlines()]
    golds = [row["answer"] for row in rows if is_expression(row["answer"])]
    cases = completions(golds, 500)
    with Grader(MathVerifier(), workers=args.workers) as grader:
        started = time.perf_counter()
        verdicts = grader.grade([(text, problem) for text, problem, _ in cases])
        seconds = time.perf_counter() - started

    # what the clock says, and what the processors had to do
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    here = resource.getrusage(resource.RUSAGE_SELF)
    cpu = used.ru_utime + used.ru_stime + here.ru_utime + here.ru_stime
    print(f"{len(cases)} completions in {seconds:.1f} s; CPU time of all processes {cpu:.1f} s")
    counts = Counter(
        (is_good, verdict.correct) for (_, _, is_good), verdict in zip(cases, verdicts, strict=True)
    )
    print(f"good and right {counts[True, True]}, good and lost {counts[True, False]}")
    print(f"hostile and right {counts[False, True]}, hostile and wrong {counts[False, False]}")
    print(dict(Counter(verdict.route for verdict in verdicts)))


if __name__ == "__main__":
    main()
