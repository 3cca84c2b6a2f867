"""A prompt computed once for its group against once for every response: the same model and rows.

Three groups of rows: a few-shot task (prompts of 34 tokens, responses of 6, G = 8) and responses of
the tiny policy's own lengths (prompts of 12 to 14, G = 16), both on the tiny policy; and long
prompts (512 tokens, responses of 64, G = 16) on two layers of Qwen3-1.7B's width with random
weights. There the vocabulary is small, so that the layers are timed: the head computes response
tokens alone, as many on either side. An update is one forward and backward of all rows.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from harness import Row, options, paired_times, peak_bytes, ratio_row, report
from transformers import Qwen3Config, Qwen3ForCausalLM

from g2rl.policy.batching import Sequences
from g2rl.policy.loading import load
from g2rl.policy.packing import form_micro_batch, plan_batches
from g2rl.policy.policy import Policy

AGAINST = "prompts computed for every response"
BUDGET = 16_384


class Case(NamedTuple):
    """Groups of rows on a model, and what sharing is to bring."""

    name: str
    policy: Policy
    sequences: Sequences
    time: str
    memory: str


def rows_of(groups: int, size: int, prompt: int, lengths: list[int], vocabulary: int) -> Sequences:
    """Groups of random tokens; prompts differ by up to a token where lengths do."""
    rng = random.Random(0)
    prompts: list[list[int]] = []
    for number in range(groups):
        length = prompt + (number % 3 - 1 if len(set(lengths)) > 1 else 0)
        prompts += [[rng.randrange(3, vocabulary) for _ in range(length)]] * size
    responses = [[rng.randrange(3, vocabulary) for _ in range(n)] for n in lengths]
    return Sequences(prompts, responses)


def qwen_width() -> Policy:
    """Two layers of Qwen3-1.7B with random weights and 1,000 words."""
    config = Qwen3Config(
        vocab_size=1000,
        hidden_size=2048,
        intermediate_size=6144,
        num_hidden_layers=2,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        attn_implementation="sdpa",
    )
    torch.manual_seed(0)
    return Policy(Qwen3ForCausalLM(config), prefix_sharing="on")


def cases() -> list[Case]:
    """All three, the models made."""
    tiny = Policy(load("builtin:tiny", device="cpu").model, prefix_sharing="on")
    long = qwen_width()
    for policy in (tiny, long):
        policy.check()

    # lengths as the tiny policy's: 31 tokens on average, few of them long
    rng = random.Random(0)
    own = [min(120, max(3, int(rng.gammavariate(3, 10)))) for _ in range(8 * 16)]
    return [
        Case("few-shot rows", tiny, rows_of(16, 8, 34, [6] * 128, 84), "<= 0.30", ""),
        Case("the tiny policy's rows", tiny, rows_of(8, 16, 13, own, 84), "<= 1.00", ""),
        Case("long prompts", long, rows_of(1, 16, 512, [64] * 16, 1000), "<= 0.25", "<= 0.35"),
    ]


def passes(case: Case, sharing: bool) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """A scoring pass and an update over all rows; gradients stay, so that they are no peak."""
    rows = list(range(len(case.sequences)))
    plan = plan_batches(case.sequences, rows, BUDGET, sharing)
    policy = case.policy

    @torch.no_grad()
    def score() -> None:
        for part in plan:
            policy(form_micro_batch(case.sequences, part, policy.device, sharing))

    def update() -> None:
        for part in plan:
            batch = form_micro_batch(case.sequences, part, policy.device, sharing)
            policy(batch).logps_T.sum().backward()

    return score, update


def compared(case: Case, repeats: int) -> list[Row]:
    """Rows of one case."""
    ours, peer = passes(case, True), passes(case, False)
    rows: list[Row] = []
    for place, what in enumerate(("scoring", "update")):
        seconds = paired_times(ours[place], peer[place], repeats)
        rows.append(ratio_row(f"{what}, {case.name}", AGAINST, "time", *seconds, case.time))
    if case.memory:
        held, other = peak_bytes(ours[1]), peak_bytes(peer[1])
        note = f"{held / 2**20:.0f} MiB against {other / 2**20:.0f} MiB above the gradients"
        what = f"update, {case.name}"
        rows.append(ratio_row(what, AGAINST, "peak memory", [held], [other], case.memory, note))
    return rows


def main() -> None:
    """Time and memory of all cases."""
    args = options(__doc__.splitlines()[0], repeats=3)
    rows: list[Row] = []
    for case in cases():
        rows += compared(case, args.repeats)
    report(rows, args.json)


if __name__ == "__main__":
    main()
