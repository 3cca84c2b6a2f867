"""Evaluation: our engine over all problems at once against one `generate` call for each problem.

Both sides sample 16 responses of up to 120 tokens to held-out Countdown problems from the tiny
policy, with the same settings; the peer is transformers. Tokens per second are compared, because
the samples differ. Grading and reports are left out of both sides.
"""

from __future__ import annotations

import statistics
import time

import torch
from harness import Row, options, ratio_row, report
from transformers import GenerationConfig

from g2rl.engines.transformers import TransformersEngine
from g2rl.policy.loading import load
from g2rl.policy.policy import Policy
from g2rl.policy.prompts import encode_prompt
from g2rl.tasks.countdown import held_out_problems
from g2rl.types import SamplingParams

PROBLEMS, SAMPLES, LONGEST = 16, 16, 120


def main() -> None:
    """Time both sides in turns."""
    args = options(__doc__.splitlines()[0], repeats=3)

    # ours
    loaded = load("builtin:tiny")
    prompts = [encode_prompt(loaded.tokenizer, p.prompt, True) for p in held_out_problems(PROBLEMS)]
    engine = TransformersEngine(Policy(loaded.model), loaded.tokenizer, loaded.stop_ids)
    loaded.model.eval()

    # the peer
    config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=LONGEST,
        num_return_sequences=SAMPLES,
        eos_token_id=loaded.stop_ids,
        pad_token_id=loaded.pad_id,
    )
    stops = torch.tensor(loaded.stop_ids)

    def ours(seed: int) -> int:
        keys = [(seed, i) for i in range(PROBLEMS)]
        params = SamplingParams(1.0, max_tokens=LONGEST)
        completions = engine.generate(prompts, keys, SAMPLES, params)
        return sum(len(completion.token_ids) for group in completions for completion in group)

    @torch.no_grad()
    def one_call_a_problem(seed: int) -> int:
        torch.manual_seed(seed)
        tokens = 0
        for prompt in prompts:
            output = loaded.model.generate(torch.tensor([prompt]), generation_config=config)
            rows = output[:, len(prompt) :]

            # count up to the stop token, which counts too
            ended = torch.isin(rows, stops).int().cumsum(1)
            tokens += int((ended == 0).sum() + (ended > 0).any(1).sum())
        return tokens

    rates: dict[str, list[float]] = {"ours": [], "peer": []}
    for repeat in range(-1, args.repeats):  # the first is warm-up
        sides = [("ours", ours), ("peer", one_call_a_problem)]
        for name, run in sides if repeat % 2 == 0 else sides[::-1]:
            started = time.perf_counter()
            tokens = run(repeat + 1)
            if repeat >= 0:
                rates[name].append(tokens / (time.perf_counter() - started))
    note = " against ".join(
        f"{statistics.median(values):.0f} tokens/s" for values in rates.values()
    )
    row: Row = ratio_row(
        "evaluation",
        "one generate call a problem",
        "throughput",
        rates["ours"],
        rates["peer"],
        ">= 4.0",
        note,
    )
    report([row], args.json)


if __name__ == "__main__":
    main()
