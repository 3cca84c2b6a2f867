"""Decoding by a decoder's own modules, with and without shared prompts, against its forward.

The engine is the same on all sides and draws the same responses; only who reads the next token
differs (`g2rl.engines.readers`). Four samplings: the tiny policy with responses of its own lengths
and with 64 tokens each (16 prompts of about 10 tokens, G = 16), a few-shot task on it (16 prompts
of about 40 tokens, G = 8, 6 tokens each), and long prompts (512 tokens, G = 16, 16 tokens each) on
two layers of Qwen3-1.7B's width with random weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from harness import Row, options, paired_times, peak_bytes, ratio_row, report
from prefix_sharing import qwen_width

from g2rl.engines import readers
from g2rl.engines.transformers import TransformersEngine
from g2rl.policy.loading import load
from g2rl.policy.policy import Policy
from g2rl.types import SamplingParams

AGAINST = "forwards of transformers with the same cache"


class Case(NamedTuple):
    """A sampling on an engine."""

    name: str
    engine: TransformersEngine
    prompts: list[list[int]]
    samples: int
    tokens: int
    memory: bool = False


def cases() -> list[Case]:
    """All samplings, the models made."""
    loaded = load("builtin:tiny", device="cpu")
    tiny = Policy(loaded.model)
    stopping = TransformersEngine(tiny, loaded.tokenizer, loaded.stop_ids, drift_every=0)
    endless = TransformersEngine(tiny, loaded.tokenizer, [], drift_every=0)
    wide = TransformersEngine(qwen_width(), loaded.tokenizer, [], drift_every=0)

    # problems of the tiny policy's task, and longer prompts made of the same words
    short = [prompt_of(number, 10, 84) for number in range(16)]
    shots = [prompt_of(number, 40, 84) for number in range(16)]
    return [
        Case("the tiny policy, own lengths", stopping, short, 16, 120),
        Case("the tiny policy, 64 tokens each", endless, short, 16, 64),
        Case("few-shot prompts", endless, shots, 8, 6),
        Case("long prompts", wide, [prompt_of(0, 512, 1000)], 16, 16, memory=True),
    ]


def prompt_of(number: int, length: int, vocabulary: int) -> list[int]:
    """Some tokens; prompts of different numbers differ in length by up to one."""
    return [3 + (7 * i + 13 * number) % (vocabulary - 3) for i in range(length + number % 2)]


@contextmanager
def reading(how: str) -> Iterator[None]:
    """Let a way of reading be the one that is taken."""
    is_plain = readers.is_plain
    if how == "module":
        readers.is_plain = lambda decoder: False
    try:
        yield
    finally:
        readers.is_plain = is_plain


def sampling(case: Case, how: str) -> Callable[[], Any]:
    """One call of the engine, with the readers of that name: module, whole or shared."""
    params = SamplingParams(max_tokens=case.tokens)
    keys = [(number,) for number in range(len(case.prompts))]

    def run() -> Any:
        case.engine.policy.shares_prefixes = how == "shared"
        with reading(how):
            return case.engine.generate(case.prompts, keys, case.samples, params)

    return run


def compared(case: Case, repeats: int) -> list[Row]:
    """Rows of one case."""
    peer = sampling(case, "module")
    rows: list[Row] = []
    for how, words in (("whole", "own modules"), ("shared", "own modules, shared prompts")):
        ours = sampling(case, how)
        seconds = paired_times(ours, peer, repeats)
        what = f"sampling by {words}: {case.name}"
        rows.append(ratio_row(what, AGAINST, "time", *seconds, "<= 1.00"))
        if case.memory and how == "shared":
            held, other = peak_bytes(ours), peak_bytes(peer)
            note = f"{held / 2**20:.0f} MiB against {other / 2**20:.0f} MiB above what was resident"
            rows.append(ratio_row(what, AGAINST, "peak memory", [held], [other], "", note))
    return rows


def main() -> None:
    """Time and memory of all cases."""
    args = options(__doc__.splitlines()[0], repeats=5)
    torch.manual_seed(0)
    rows: list[Row] = []
    for case in cases():
        rows += compared(case, args.repeats)
    report(rows, args.json)


if __name__ == "__main__":
    main()
