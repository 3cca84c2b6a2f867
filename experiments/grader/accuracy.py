r"""Accuracy of the graders on published cases, kind by kind, beside math-verify alone.

    python experiments/grader/accuracy.py FOLDER               # tables of every case file in FOLDER
    python experiments/grader/accuracy.py FOLDER --wrong       # and every disagreement
    python experiments/grader/accuracy.py FOLDER --golds 6000  # golds, also with a digit changed

FOLDER holds `verifier_cases_dev.jsonl`, `verifier_cases_dev2.jsonl` or `mcq_extraction_dev.jsonl`
(any of them), and `math_train.jsonl` for ``--golds``. A case is a line with `kind` ("math" or
"mcq"), `gold`, `prediction`, `expected` (1 if the prediction is right) and perhaps `choices`.

math-verify alone is its `parse` and `verify` with their defaults. Its gold is put into a box when
it
cannot be read bare, which favours it: bare LaTeX is not what its parser expects.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from math_verify import parse, verify

from g2rl.tasks.grading.choice import ChoiceVerifier, read_letter
from g2rl.tasks.grading.grader import Grader
from g2rl.tasks.grading.math import MathVerifier
from g2rl.types import Problem

CASE_FILES = ("verifier_cases_dev.jsonl", "verifier_cases_dev2.jsonl")
LETTER_FILE = "mcq_extraction_dev.jsonl"
GOLD_FILE = "math_train.jsonl"
PEER_GOLDS = 500
"""So many golds are given to math-verify as well."""


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def problem_of(case: dict[str, Any]) -> Problem:
    """The problem that a case was an answer to."""
    meta = {"choices": case["choices"]} if case.get("choices") else {}
    return Problem(case["id"], "", case["gold"], meta)


def verdicts_of(cases: list[dict[str, Any]]) -> dict[str, bool]:
    """Whether g2rl takes each case for right, by the case's id."""
    verdicts: dict[str, bool] = {}
    for kind, verifier in (("math", MathVerifier()), ("mcq", ChoiceVerifier())):
        chosen = [case for case in cases if case["kind"] == kind]
        items = [(case["prediction"], problem_of(case)) for case in chosen]
        with Grader(verifier, workers=2, timeout_seconds=20) as grader:
            for case, verdict in zip(chosen, grader.grade(items), strict=True):
                verdicts[case["id"]] = verdict.correct
    return verdicts


def math_verify_alone(case: dict[str, Any]) -> bool:
    """Whether math-verify by itself takes a case for right, with the better of two readings."""
    try:
        answer = parse(case["prediction"], parsing_timeout=5)
        for gold in (case["gold"], rf"\boxed{{{case['gold']}}}"):
            if verify(parse(gold, parsing_timeout=5), answer, timeout_seconds=5):
                return True
    except Exception as error:  # sympy raises anything; a peer that fails says "wrong"
        print(f"math-verify failed on {case['id']}: {type(error).__name__}")
    return False


def kind_of(case: dict[str, Any]) -> tuple[str, str]:
    """The row of the table in which a case is counted: (kind, group)."""
    meta = case.get("meta") or {}
    if meta.get("group") == "failing kind":
        return case["kind"], str(meta["kind_of_case"])
    return case["kind"], "control" if meta.get("group") else "all"


def print_table(cases: list[dict[str, Any]], peer: bool) -> list[dict[str, Any]]:
    """Print accuracy per kind, and return the cases on which g2rl is wrong."""
    verdicts = verdicts_of(cases)
    counts: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
    wrong = []
    for case in cases:
        ours = verdicts[case["id"]] == bool(case["expected"])
        theirs = (
            peer and case["kind"] == "math" and math_verify_alone(case) == bool(case["expected"])
        )
        for row in (kind_of(case), (case["kind"], "total")):
            counts[row][0] += 1
            counts[row][1] += ours
            counts[row][2] += bool(theirs)
        if not ours:
            wrong.append({**case, "judged": verdicts[case["id"]]})

    print("| kind | cases | g2rl | math-verify alone |")
    print("|---|---|---|---|")
    for (kind, group), (number, ours, theirs) in sorted(counts.items()):
        beside = f"{theirs}" if peer and kind == "math" else ""
        print(f"| {kind}: {group.removeprefix('mcq: ')} | {number} | {ours} | {beside} |")
    return wrong


def print_letters(rows: list[dict[str, Any]]) -> None:
    """Print how often our letter is the one that the official script of MMLU-Pro reads."""
    same = unread = 0
    for row in rows:
        letter, _ = read_letter(row["text"], [""] * row["n_choices"])
        same += letter == row["official_pred"]
        unread += letter is None
    print(f"letters: {same} of {len(rows)} as the official script, {unread} unread")


def mutated(gold: str, rng: random.Random) -> str | None:
    """A gold with one digit changed, or None if it has no digit."""
    digits = [match.start() for match in re.finditer(r"\d", gold)]
    if not digits:
        return None
    place = rng.choice(digits)
    other = rng.choice([digit for digit in "0123456789" if digit != gold[place]])
    return gold[:place] + other + gold[place + 1 :]


def peer_accepts(gold: str, answer: str) -> bool:
    """Whether math-verify takes a boxed answer for right, with the better of two readings."""
    case = {"id": gold, "gold": gold, "prediction": rf"\boxed{{{answer}}}"}
    return math_verify_alone(case)


def print_golds(golds: list[str], limit: int, show: bool) -> None:
    """Print how many golds are right against themselves, and with one digit changed."""
    rng = random.Random(0)
    rng.shuffle(golds)
    pairs: list[tuple[str, str]] = []
    for gold in golds:
        other = mutated(gold, rng)
        if other is not None and len(pairs) < limit:
            pairs.append((gold, other))

    with Grader(MathVerifier(), workers=2, timeout_seconds=20) as grader:
        themselves = [(rf"\boxed{{{gold}}}", Problem("", "", gold)) for gold in golds]
        right = sum(verdict.correct for verdict in grader.grade(themselves))
        print(f"golds against themselves: {right} of {len(golds)} right")

        started = time.perf_counter()
        items = [(rf"\boxed{{{other}}}", Problem("", "", gold)) for gold, other in pairs]
        verdicts = grader.grade(items)
        taken = [pair for pair, verdict in zip(pairs, verdicts, strict=True) if verdict.correct]
        seconds = time.perf_counter() - started
        print(f"one digit changed: {len(taken)} of {len(pairs)} judged right ({seconds:.0f} s)")
        # the peer takes too long for all of them
        sample = pairs[:PEER_GOLDS]
        themselves_right = sum(peer_accepts(gold, gold) for gold, _ in sample)
        mutated_right = sum(peer_accepts(gold, other) for gold, other in sample)
        print(
            f"math-verify alone on the first {len(sample)}: {themselves_right} golds right against "
            f"themselves, {mutated_right} judged right with one digit changed"
        )
        if show:
            for pair in taken:
                print("  ", *pair, sep="   ")


def print_wrong(wrong: Iterable[dict[str, Any]]) -> None:
    """Print each case on which g2rl and its label disagree."""
    for case in wrong:
        print(f"- {case['id']} {case['kind']}: {kind_of(case)[1]}, expected {case['expected']}:")
        print(f"  gold {case['gold']!r}, prediction {case['prediction'][-200:]!r}")


def main() -> None:
    """Print the tables of all files that the folder holds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--wrong", action="store_true", help="list every disagreement")
    parser.add_argument("--golds", type=int, default=0, help="mutated golds to try")
    parser.add_argument("--no-peer", action="store_true", help="leave math-verify alone out")
    args = parser.parse_args()

    if args.golds:
        golds = [row["answer"] for row in read(args.folder / GOLD_FILE) if row["answer"]]
        print_golds(golds, args.golds, args.wrong)
        return
    for name in CASE_FILES:
        if (args.folder / name).exists():
            print(f"\n{name}\n")
            wrong = print_table(read(args.folder / name), not args.no_peer)
            if args.wrong:
                print_wrong(wrong)
    if (args.folder / LETTER_FILE).exists():
        print_letters(read(args.folder / LETTER_FILE))


if __name__ == "__main__":
    main()
