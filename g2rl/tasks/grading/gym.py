r"""Answers to reasoning-gym tasks, judged by the package's own scorers, of which only some may be
used.

Nine of the package's scorers execute the answer string, others were never read; so a family is
graded only if it stands in `SAFE`, whose scorers were read and compare strings, numbers or paths.
They still see hostile text, so they run in killable workers.

Policy: the answer is the last ``\boxed{}`` after the reasoning, else the last ``<answer>`` tag;
LaTeX text commands around it are removed. It is right when the scorer gives full marks; partial
credit is wrong.
"""

from __future__ import annotations

import re
import time
from functools import lru_cache
from typing import Any

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
"""Families whose scorers never evaluate, and their area."""
FULL_MARKS = 1.0 - 1e-9

_TAG = re.compile(r"<answer>(.{0,2000}?)</answer>", re.DOTALL | re.IGNORECASE)
_TEXT = re.compile(r"\\(?:text|mathrm|textbf|mathbf|texttt)\s?\{([^{}]*)\}")
_SPACE = re.compile(r"\\[ ,;:!]|~|\\quad")


class GymVerifier:
    """Grades ``Problem(..., meta={"family": "gcd", "entry": {...}})`` as made by the benchmark."""

    bounded = False

    def grade(self, completion: str, problem: Problem) -> Verdict:
        """Judge one completion; any failure of the scorer makes the answer wrong (route
        ``error``)."""
        start = time.perf_counter()

        # no answer
        answer = find_answer(completion)
        if answer is None:
            return Verdict(False, None, "unparsed", time.perf_counter() - start)

        # the package's own word
        scorer = scorer_of(problem.meta["family"])
        try:
            marks = float(scorer.score_answer(answer, problem.meta["entry"]))
        except MemoryError:
            raise  # the pool's limit, counted as killed
        except Exception:  # a scorer met text that its author did not think of
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
    # a box, else a tag
    text = final_text(completion)
    found = last_boxed(text)
    if found is None:
        tags = _TAG.findall(text)
        found = tags[-1] if tags else None
    if found is None or not found.strip() or len(found) > MAX_ANSWER:
        return None

    # without LaTeX around it
    plain = _SPACE.sub(" ", _TEXT.sub(r"\1", found)).strip().strip("$").strip()
    return plain or None


@lru_cache(maxsize=64)
def scorer_of(family: str, seed: int = 0, size: int = 1) -> Any:
    """The package's data set of a family, which holds its scorer.

    Raises:
        ValueError: for a family not in `SAFE`. ImportError: naming the extra to install.
    """
    # only scorers that were read
    if family not in SAFE:
        raise ValueError(
            f"reasoning-gym family {family!r} is not offered: its scorer is not known to be safe "
            f"with hostile answers (several execute them). Choose from {', '.join(SAFE)}"
        )
    try:
        import reasoning_gym
    except ImportError as error:
        raise ImportError(
            f"benchmark=reasoning_gym needs reasoning-gym ({error}): pip install "
            "'g2rl[reasoning-gym]'"
        ) from error
    return reasoning_gym.create_dataset(family, seed=seed, size=size)
