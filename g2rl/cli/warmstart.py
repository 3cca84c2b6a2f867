"""Make a policy that ships with g2rl again from nothing: supervised training on demonstrations.

    python -m g2rl.cli.warmstart --out my_tiny                    # Countdown: ten minutes on a core
    python -m g2rl.cli.warmstart --task detour --out my_detour    # another task

The loss is on the completion only. A batch holds demonstrations of similar length, so that little
is padded. The weights are rounded to bfloat16 (0.9 MB at most). The results ship in `g2rl/assets`;
their measured behaviour is in `experiments/embedded_default/README.md` and
`experiments/lab/README.md`. Held-out problems never appear in a demonstration.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from g2rl.runs.lock import one_process_in
from g2rl.tasks.recipes import RECIPES, Recipe
from g2rl.tasks.word_policy import small_qwen3, word_tokenizer

IGNORED = -100
BUCKET_BATCHES = 32

TokenRow = tuple[list[int], list[int]]
"""Token ids that are given, and token ids that are learned."""


def batches(tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield a pair (input_ids, labels) for every step, each (batch, L), rows of similar length."""
    rng = np.random.default_rng(recipe.seed)
    index = 0
    for first in range(0, recipe.steps, BUCKET_BATCHES):
        # a bucket of demonstrations, sorted by length
        rows: list[TokenRow] = []
        for _ in range(recipe.batch * BUCKET_BATCHES):
            rows.append(encoded(tokenizer, recipe, index))
            index += 1
        rows.sort(key=lambda row: len(row[0]) + len(row[1]))

        # its batches in any order; the last bucket gives only what is left of the total
        for b in rng.permutation(BUCKET_BATCHES)[: recipe.steps - first]:
            yield collate(rows[b * recipe.batch : (b + 1) * recipe.batch])


def encoded(tokenizer: PreTrainedTokenizerFast, recipe: Recipe, index: int) -> TokenRow:
    """Demonstration number `index` as tokens."""
    shown = recipe.demonstrate(recipe.seed, index)
    words = f"{shown.completion} <eos>".split()
    given = " ".join(["<bos>", shown.prompt, *words[: shown.given]])
    return tokenizer.encode(given), tokenizer.encode(" ".join(words[shown.given :]))


def collate(rows: list[TokenRow]) -> tuple[Tensor, Tensor]:
    """Pad pairs (given ids, learned ids) on the right to two tensors (rows, L).

    Inputs are whole demonstrations; labels are IGNORED on what is given and on the padding.
    """
    length = max(len(p) + len(c) for p, c in rows)
    inputs = torch.zeros(len(rows), length, dtype=torch.long)
    labels = torch.full((len(rows), length), IGNORED)
    for i, (given, learned) in enumerate(rows):
        end = len(given) + len(learned)
        inputs[i, :end] = torch.tensor(given + learned)
        labels[i, len(given) : end] = inputs[i, len(given) : end]
    return inputs, labels


def learning_rate(step: int, total: int, peak: float, warmup: int) -> float:
    """Linear warm-up over `warmup` steps, then linear decay to zero at step `total`."""
    return peak * min((step + 1) / warmup, (total - step) / max(total - warmup, 1))


def warm_start(recipe: Recipe) -> tuple[Qwen3ForCausalLM, PreTrainedTokenizerFast]:
    """Train a fresh policy by a recipe; prints the mean loss every hundred steps."""
    # a fresh policy
    torch.manual_seed(recipe.seed)
    tokenizer = word_tokenizer(recipe.words)
    config = small_qwen3(len(tokenizer), recipe.width, recipe.inner_width)
    model = Qwen3ForCausalLM(config).float()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.lr, betas=(0.9, 0.95), weight_decay=0.01
    )
    started, losses = time.time(), []

    for step, (inputs, labels) in enumerate(batches(tokenizer, recipe)):
        # forward
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, recipe.steps, recipe.lr, warmup=50)
        logits = model(input_ids=inputs).logits[:, :-1]
        # a sum over a constant, not a mean: batches hold traces of one length, and a mean would
        # give the tokens of short styles more weight than those of long ones
        total = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum"
        )
        loss = total / (recipe.batch * recipe.typical_tokens)

        # update
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

        # tell
        losses.append(loss.item())
        if (step + 1) % 100 == 0:
            mean, seconds = np.mean(losses[-100:]), time.time() - started
            print(f"step {step + 1}/{recipe.steps} loss {mean:.4f} {seconds:.0f} s", flush=True)
    return model, tokenizer


def main(argv: list[str] | None = None) -> int:
    """Command line of `python -m g2rl.cli.warmstart`."""
    parser = argparse.ArgumentParser(
        prog="python -m g2rl.cli.warmstart", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for the Hugging Face-format policy"
    )
    parser.add_argument(
        "--task", choices=sorted(RECIPES), default="countdown", help="(default: countdown)"
    )

    # what is not given is as the shipped policy was made
    parser.add_argument("--steps", type=int)
    parser.add_argument("--batch", type=int, help="demonstrations a step")
    parser.add_argument("--lr", type=float, help="peak learning rate")
    parser.add_argument("--seed", type=int)
    args = parser.parse_args(argv)
    typed = {name: getattr(args, name) for name in ("steps", "batch", "lr", "seed")}
    changes = {name: value for name, value in typed.items() if value is not None}
    recipe = dataclasses.replace(RECIPES[args.task], **changes)

    # train, and write in Hugging Face format
    with one_process_in(args.out, "python -m g2rl.cli.warmstart", "--out FOLDER"):
        model, tokenizer = warm_start(recipe)
        model.to(torch.bfloat16).save_pretrained(args.out)
        tokenizer.save_pretrained(args.out)
    print(f"wrote {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
