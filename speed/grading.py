"""Throughput of the grading pool as a ratio to one in-process math-verify call after the other.

    python speed/grading.py path/to/math500.jsonl [--workers 2]

Two kinds of completions for each gold: the gold itself in a box (decided by string or exact
number), and the gold rewritten so that strings differ (`gold + 0`), which only mathematics can
decide. The peer is math_verify.parse + verify in one process, without the pool's wall-clock and
memory limits.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable

from math_verify import parse, verify

from g2rl.tasks.grading.grader import Grader
from g2rl.tasks.grading.math import MathVerifier
from g2rl.tasks.math import math_problems
from g2rl.types import Problem

Items = list[tuple[str, Problem]]


def in_process(items: Items) -> int:
    """How many completions math-verify alone accepts."""
    accepted = 0
    for text, problem in items:
        gold = parse(f"\\boxed{{{problem.answer}}}", parsing_timeout=None)
        answer = parse(text, parsing_timeout=None)
        accepted += bool(verify(gold, answer, timeout_seconds=None))
    return accepted


def clocked(grade: Callable[[Items], int], items: Items) -> tuple[float, int]:
    """Seconds that grading takes, and how many completions it accepts."""
    started = time.perf_counter()
    accepted = grade(items)
    return time.perf_counter() - started, accepted


def main() -> None:
    """Grade both kinds of completions on both sides."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()

    problems, _ = math_problems("math500", source=args.file)
    kinds = {
        "the gold itself": [(f"\\boxed{{{p.answer}}}", p) for p in problems],
        "gold + 0": [(f"\\boxed{{{p.answer} + 0}}", p) for p in problems],
    }
    machine = f"{platform.machine()}, Python {platform.python_version()}"
    print(f"{machine}, {args.workers} workers, {len(problems)} golds")

    with Grader(MathVerifier(), workers=args.workers) as grader:

        def pool(items: Items) -> int:
            return sum(verdict.correct for verdict in grader.grade(items))

        in_process(kinds["gold + 0"][:5])  # both sides import sympy before the clock starts
        for name, items in kinds.items():
            ours, accepted = clocked(pool, items)
            theirs, peer = clocked(in_process, items)
            print(
                f"{name}: pool {ours:.2f} s ({accepted} accepted), in-process math-verify "
                f"{theirs:.2f} s ({peer} accepted), throughput ratio {theirs / ours:.1f}x"
            )


if __name__ == "__main__":
    main()
