r"""Answers to reasoning-gym tasks, judged by the package's own scorers.

Nine of the package's scorers execute the answer string, and others were never read. So a family is
graded only if it stands in `SAFE`: those scorers were read, and compare strings, numbers or paths.
They still see hostile text, so they run in workers that can be killed.

The answer is the last ``\boxed{}`` after the reasoning, else the last ``<answer>`` tag, without the
LaTeX text commands around it. It is right when the scorer gives full marks; partial credit is not
enough.
"""

from __future__ import annotations

import re
import time
from functools import lru_cache
from typing import Any

from g2rl.hub import missing_package
from g2rl.tasks.grading.extract import MAX_ANSWER, final_text, last_boxed
from g2rl.types import Problem, Verdict

SAFE = {
    "chain_sum": "arithmetic",
    "gcd": "arithmetic",
    "fraction_simplification": "arithmetic",
    "knights_knaves": "logic",
    "zebra_puzzles": "logic",
    "self_reference": "logic",
    "shortest_path": "graphs",
    "largest_island": "graphs",
    "family_relationships": "graphs",
    "base_conversion": "algorithms",
    "word_sorting": "algorithms",
    "rotten_oranges": "algorithms",
}
"""Families whose scorers never evaluate an answer, and the area of each."""
FULL_MARKS = 1.0 - 1e-9  # a scorer may round

_TAG = re.compile(r"<answer>(.{0,2000}?)</answer>", re.DOTALL | re.IGNORECASE)
# LaTeX that may stand around or in an answer of plain text
_TEXT = re.compile(r"\\(?:text|mathrm|textbf|mathbf|texttt)\s?\{([^{}]*)\}")
_SPACE = re.compile(r"\\[ ,;:!]|~|\\quad")


class GymVerifier:
    """Grades ``Problem(..., meta={"family": "gcd", "entry": {...}})`` as made by the benchmark."""

    bounded = False
    packages = ("reasoning-gym",)

    def grade(self, completion: str, problem: Problem) -> Verdict:
        """Judge one completion. If the scorer fails, the answer is wrong (route ``error``)."""
        start = time.perf_counter()
        answer = find_answer(completion)
        if answer is None:
            return Verdict(False, None, "unparsed", time.perf_counter() - start)

        # the scorer may meet text that its author did not think of
        scorer = scorer_of(problem.meta["family"])
        try:
            marks = float(scorer.score_answer(answer, problem.meta["entry"]))
        except MemoryError:
            raise  # the worker's limit; the grader counts it as killed
        except Exception:
            return Verdict(False, answer, "error", time.perf_counter() - start)
        return Verdict(marks >= FULL_MARKS, answer, "scorer", time.perf_counter() - start)

    def key(self, answer: str) -> str:
        """The answer without case and extra spaces."""
        return " ".join(answer.casefold().split())

    def equivalent(self, left: str, right: str) -> bool:
        """Whether two answers read the same, case and spaces aside."""
        return self.key(left) == self.key(right)

    def warm_up(self) -> None:
        """Import the package before the memory limit and the clock of an item apply."""
        scorer_of("gcd")


def find_answer(completion: str) -> str | None:
    """The answer of a completion in plain text, or None."""
    # what the last box holds, else the last tag
    text = final_text(completion)
    answer = last_boxed(text)
    if answer is None:
        tagged = _TAG.findall(text)
        if tagged:
            answer = tagged[-1]
    if answer is None or not answer.strip() or len(answer) > MAX_ANSWER:
        return None

    # the scorers expect plain text
    answer = _SPACE.sub(" ", _TEXT.sub(r"\1", answer))
    return answer.strip().strip("$").strip() or None


@lru_cache(maxsize=64)
def scorer_of(
    family: str, seed: int = 0, size: int = 1, config: tuple[tuple[str, Any], ...] = ()
) -> Any:
    """The package's data set of a family, which holds its scorer.

    Args:
        family: name of the data set.
        seed, size: of the data set.
        config: settings of the family, as pairs of name and value.

    Raises:
        ValueError: the family is not in `SAFE`, or refuses a setting.
        ImportError: the package is missing; the message names the extra to install.
    """
    # a scorer that executes answers would run whatever a model writes
    if family not in SAFE:
        raise ValueError(
            f"reasoning-gym family {family!r} is not offered: its scorer is not known to be safe "
            f"with hostile answers (several execute them). Choose from {', '.join(SAFE)}"
        )
    try:
        import reasoning_gym
    except ImportError as error:
        what = "reasoning_gym as a task or a benchmark"
        raise ImportError(missing_package(what, "reasoning_gym", "reasoning-gym")) from error

    # the package checks its settings by assertions
    try:
        return reasoning_gym.create_dataset(family, seed=seed, size=size, **dict(config))
    except (TypeError, AssertionError, ValueError) as error:
        raise ValueError(
            f"reasoning-gym family {family} refuses its settings {dict(config)}: {error}"
        ) from error
