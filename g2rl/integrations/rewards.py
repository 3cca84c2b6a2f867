"""g2rl's verifiers as reward functions of TRL, and problems as rows of a data set.

The reward functions are plain callables with TRL's signature, so they also serve trainers that are
not g2rl's; TRL itself is not needed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from g2rl.tasks.grading.grader import Grader
from g2rl.tasks.grading.verifier import Verifier, key_of
from g2rl.types import Problem, Verdict

Messages = Sequence[Mapping[str, Any]]
"""A conversation, or the part of it that the policy has said."""


COLUMNS = ("problem_id", "answer", "meta")
"""Columns of a data set that say what a right answer is, beside the prompt."""


class AnswerReader(Protocol):
    """Says which final answer a completion gives, for signals that look at answers."""

    def answers(self, texts: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[str | None]:
        """The final answer of each completion; None where none can be read.

        Args:
            texts: completions.
            rows: the row of the data set that each belongs to.
        """
        ...

    def key(self, answer: str) -> str:
        """A normal form of an answer: equal keys mean equivalent answers."""
        ...


def rows_of(problems: Sequence[Problem], chat: bool = True) -> list[dict[str, Any]]:
    """Problems as rows of a data set for TRL.

    Args:
        problems: of any task of g2rl.
        chat: the prompt is a conversation of one user turn, which goes through the chat template;
            otherwise it is plain text.

    Returns:
        Rows with the columns prompt, problem_id, answer and meta (JSON).
    """
    rows: list[dict[str, Any]] = []
    for problem in problems:
        prompt: Any = problem.prompt
        if chat:
            prompt = [{"role": "user", "content": problem.prompt}]

        # a column holds values of one type, so the verifier's data travel as JSON
        rows.append(
            {
                "prompt": prompt,
                "problem_id": problem.id,
                "answer": problem.answer,
                "meta": json.dumps(dict(problem.meta)),
            }
        )
    return rows


def text_of(completion: str | Messages) -> str:
    """The text of a completion, which TRL gives as text or as messages.

    Parts of a message that are no text, such as images and calls of tools, are left out.
    """
    # a data set of plain texts has completions of plain texts
    if isinstance(completion, str):
        return completion
    parts: list[str] = []
    for message in completion:
        content = message.get("content") or ""
        if isinstance(content, str):
            parts.append(content)
            continue

        # a message in several parts
        for part in content:
            parts.append(part.get("text") or "")
    return "".join(parts)


class VerifierReward:
    """A verifier of g2rl as a reward function of TRL: 1 for a right answer, 0 for a wrong one.

    The data set has to have the columns of `rows_of`. A verifier that is not `bounded` judges in
    worker processes that can be killed, as in g2rl's own runs.

    Args:
        verifier: judges completions.
        workers: number of worker processes.
        timeout_seconds: limit of each completion.
    """

    def __init__(self, verifier: Verifier, workers: int = 2, timeout_seconds: float = 5.0) -> None:
        self.verifier = verifier
        self.grader = Grader(verifier, workers, timeout_seconds)
        self.__name__ = "verifier"  # how TRL's logs call it
        self._last_verdicts: dict[tuple[str, str], Verdict] = {}

    def __call__(
        self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
    ) -> list[float]:
        """Rewards of some completions, 1.0 or 0.0, in their order.

        Args:
            prompts: their prompts, as text or as messages.
            completions: texts, or messages.
            columns: the other columns of the data set, and what else TRL passes.

        Raises:
            KeyError: the data set lacks a column of `rows_of`.
        """
        # the trainer drops columns that it does not know, where it is told to
        missing = [name for name in COLUMNS if name not in columns]
        if missing:
            raise KeyError(
                f"VerifierReward needs the columns {list(COLUMNS)}, there is no {missing}: make "
                "rows with g2rl.integrations.rewards.rows_of, and leave remove_unused_columns off"
            )

        # columns become rows again
        rows: list[dict[str, Any]] = []
        for number, prompt in enumerate(prompts):
            row = {name: columns[name][number] for name in COLUMNS}
            rows.append({"prompt": prompt, **row})

        # in one call, so that the grader's workers share the work
        verdicts = self._grade([text_of(completion) for completion in completions], rows)
        return [1.0 if verdict.correct else 0.0 for verdict in verdicts]

    def answers(self, texts: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[str | None]:
        """The final answer that the verifier reads in each completion, see `AnswerReader`.

        Completions that have just been judged are not judged again.
        """
        keys = [(str(row["problem_id"]), text) for text, row in zip(texts, rows, strict=True)]
        if not all(key in self._last_verdicts for key in keys):
            self._grade(texts, rows)
        return [self._last_verdicts[key].answer for key in keys]

    def key(self, answer: str) -> str:
        """The verifier's normal form of an answer."""
        return key_of(self.verifier, answer)

    def _grade(self, texts: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
        """Verdicts on some completions, which are remembered until the next call."""
        # the problem of each completion, as `rows_of` has written it down
        items: list[tuple[str, Problem]] = []
        for text, row in zip(texts, rows, strict=True):
            problem = Problem(
                id=str(row["problem_id"]),
                prompt=text_of(row["prompt"]),
                answer=str(row["answer"]),
                meta=json.loads(row["meta"]),
            )
            items.append((text, problem))
        verdicts = self.grader.grade(items)

        # those of one call only, so that nothing piles up
        self._last_verdicts = {}
        for (text, problem), verdict in zip(items, verdicts, strict=True):
            self._last_verdicts[problem.id, text] = verdict
        return verdicts
