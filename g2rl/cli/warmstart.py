"""Make the tiny policy again from nothing: supervised training on written Countdown traces.

    python -m g2rl.cli.warmstart --out my_tiny            # about ten minutes on one core

The loss is on the completion only. A batch holds traces of similar length, so that little is
padded. The weights are rounded to bfloat16 (0.9 MB). The result ships in `g2rl/assets/tiny`; its
measured behaviour is in `experiments/embedded_default/README.md`. Held-out problems never appear in
a trace.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from g2rl.tasks.countdown_policy import build_config, build_tokenizer
from g2rl.tasks.countdown_traces import trace

HELD_OUT = 512
IGNORED = -100
BUCKET_BATCHES = 32
TYPICAL_TOKENS = 30  # of a trace; only sets the scale of the loss


def batches(
    tokenizer: PreTrainedTokenizerFast, size: int, total: int, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield `total` pairs (input_ids, labels), each (size, L), rows of similar length."""
    rng = np.random.default_rng(seed)
    index = 0
    for first in range(0, total, BUCKET_BATCHES):
        # a bucket of traces, sorted by length
        rows = []
        for _ in range(size * BUCKET_BATCHES):
            prompt, text = trace(seed, index, HELD_OUT)
            index += 1
            prompt_ids = tokenizer.encode(f"<bos> {prompt}")
            rows.append((prompt_ids, tokenizer.encode(f"{text} <eos>")))
        rows.sort(key=lambda row: len(row[0]) + len(row[1]))

        # its batches in any order; the last bucket gives only what is left of the total
        for b in rng.permutation(BUCKET_BATCHES)[: total - first]:
            yield collate(rows[b * size : (b + 1) * size])


def collate(rows: list[tuple[list[int], list[int]]]) -> tuple[Tensor, Tensor]:
    """Pad pairs (prompt ids, completion ids) on the right to two tensors (rows, L).

    Inputs are whole traces; labels are IGNORED on the prompt and on the padding.
    """
    length = max(len(p) + len(c) for p, c in rows)
    inputs = torch.zeros(len(rows), length, dtype=torch.long)
    labels = torch.full((len(rows), length), IGNORED)
    for i, (prompt, completion) in enumerate(rows):
        end = len(prompt) + len(completion)
        inputs[i, :end] = torch.tensor(prompt + completion)
        labels[i, len(prompt) : end] = inputs[i, len(prompt) : end]
    return inputs, labels


def learning_rate(step: int, total: int, peak: float, warmup: int) -> float:
    """Linear warm-up over `warmup` steps, then linear decay to zero at step `total`."""
    return peak * min((step + 1) / warmup, (total - step) / max(total - warmup, 1))


def warm_start(
    steps: int, batch: int, peak: float, seed: int
) -> tuple[Qwen3ForCausalLM, PreTrainedTokenizerFast]:
    """Train a fresh tiny policy; prints the mean loss every hundred steps."""
    # a fresh policy
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    model = Qwen3ForCausalLM(build_config(len(tokenizer))).float()
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, betas=(0.9, 0.95), weight_decay=0.01)
    started, losses = time.time(), []

    for step, (inputs, labels) in enumerate(batches(tokenizer, batch, steps, seed)):
        # forward
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, peak, warmup=50)
        logits = model(input_ids=inputs).logits[:, :-1]
        # a sum over a constant, not a mean: batches hold traces of one length, and a mean would
        # give the tokens of short styles more weight than those of long ones
        total = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum"
        )
        loss = total / (batch * TYPICAL_TOKENS)

        # update
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

        # tell
        losses.append(loss.item())
        if (step + 1) % 100 == 0:
            seconds = time.time() - started
            print(
                f"step {step + 1}/{steps} loss {np.mean(losses[-100:]):.4f} {seconds:.0f} s",
                flush=True,
            )
    return model, tokenizer


def main(argv: list[str] | None = None) -> int:
    """Command line of `python -m g2rl.cli.warmstart`."""
    parser = argparse.ArgumentParser(
        prog="python -m g2rl.cli.warmstart", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for the Hugging Face-format policy"
    )
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--batch", type=int, default=96, help="traces a step")
    parser.add_argument("--lr", type=float, default=3e-3, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(argv)

    # train, and write in Hugging Face format
    model, tokenizer = warm_start(args.steps, args.batch, args.lr, args.seed)
    model.to(torch.bfloat16).save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    print(f"wrote {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
