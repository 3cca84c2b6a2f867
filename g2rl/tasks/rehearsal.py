"""Gold answers graded against themselves, before anything is trained on them.

A gold that its own verifier calls wrong can never be reached: every response to its problem has the
lowest reward, and nobody is told why.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from g2rl.tasks.grading.grader import Grader
from g2rl.types import Problem, Verdict

log = logging.getLogger(__name__)

REHEARSED = 32
"""Problems whose gold answers are graded, spread evenly over all of them."""


def rehearse_golds(
    problems: Sequence[Problem], grader: Grader, advice: str, tolerated: float = 0.0
) -> None:
    """Grade some gold answers as if they were responses.

    Args:
        problems: of the task; `REHEARSED` of them are taken, evenly spread.
        grader: of the task's verifier.
        advice: what helps, for the message.
        tolerated: share of them that may fail; it is warned of.

    Raises:
        ValueError: more of them than that are not right by their own verifier; the message names
            the first.
    """
    # evenly spread, because files may be sorted
    stride = max(len(problems) // REHEARSED, 1)
    chosen = list(problems)[::stride][:REHEARSED]

    # in a box, which every verifier reads
    items = [(f"\\boxed{{{problem.answer}}}", problem) for problem in chosen]
    failed: list[tuple[Problem, Verdict]] = []
    for verdict, problem in zip(grader.grade(items), chosen, strict=True):
        if not verdict.correct:
            failed.append((problem, verdict))
    if not failed:
        return

    problem, verdict = failed[0]
    message = (
        f"{problem.id}: the gold answer {problem.answer[:80]!r} is not right by its own verifier "
        f"({verdict.route}), so no response to it could be ({len(failed)} of {len(chosen)} golds "
        f"that were tried); {advice}"
    )
    if len(failed) > tolerated * len(chosen):
        raise ValueError(message)
    log.warning(message)
