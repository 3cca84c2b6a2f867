"""Reward functions of a user, good and bad; workers and tests import them."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any, cast

import numpy as np


def length(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    """A graded reward."""
    return [len(completion) / 10 for completion in completions]


def level(completions: list[str], level: list[int]) -> list[float]:
    """Takes one column and no others."""
    return [float(one) for one in level]


def hits(completions: list[Any], answer: list[str], **columns: Any) -> list[bool]:
    return [gold in str(completion) for completion, gold in zip(completions, answer, strict=True)]


def content(completions: list[Any], prompts: list[Any], **columns: Any) -> list[float]:
    """Wants chat messages, as TRL's functions do."""
    assert prompts[0][0]["role"] == "user"
    return [float(len(completion[0]["content"])) for completion in completions]


def logging(completions: list[str], log_extra: Any, log_metric: Any, trainer_state: Any) -> Any:
    log_extra("column", [1])
    log_metric("metric", 1.0)
    assert trainer_state is None
    return np.array([0.5])


async def slow(completions: list[str], **columns: Any) -> list[float]:
    await asyncio.sleep(0)
    return [0.25]


def sometimes(completions: list[str], **columns: Any) -> list[float | None]:
    return [1.0 if "yes" in completion else None for completion in completions]


class Written:
    """What is written as it is told, and cannot be written without."""

    def __init__(self, text: Any) -> None:
        self.text = text

    def __repr__(self) -> str:
        return cast("str", self.text)


def of_a_library(completions: list[str], **columns: Any) -> list[Any]:
    """Numbers of numpy and torch in a list, as metrics of libraries give them."""
    kind = {"float": np.float32, "truth": np.bool_, "array": np.array, "none": lambda _: None}
    return [kind[completion](0.5) for completion in completions]


def obey(completions: list[str], **columns: Any) -> Any:
    """Does what the completion says."""
    word = completions[0]
    if word == "raise":
        raise KeyError("a bug")
    if word == "exit":
        sys.exit(3)
    if word == "hang":
        time.sleep(600)
    if word == "hog":
        return [float(len(bytearray(8 << 30)))]
    returned = {
        "few": [],
        "many": [1.0, 2.0],
        "scalar": 1.0,
        "text": "1",
        "nothing": None,
        "nan": [float("nan")],
        "infinite": [float("inf")],
        "huge": [1e9],
        "word": ["0.5"],
        "list": [[1.0]],
        "none": [None],
        "mapping": {"reward": 1.0},
        "digits": [10**5000],
        "lines": [Written("one\n  two")],
        "unwritable": [Written(None)],
    }
    return returned.get(word, [0.75])


def needs_ids(completions: list[str], completion_ids: list[list[int]]) -> list[float]:
    return [1.0]


not_callable = 3
