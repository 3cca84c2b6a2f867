"""Where the time of a step goes at Qwen3-1.7B's shapes, by `g2rl-train profile=true`.

    python speed/qwen_profile.py [--layers 2] [--responses 16] [--tokens 64]

The model has the width, the heads and the vocabulary of Qwen3-1.7B and a few of its 28 layers, so
that its head weighs more than there: with two layers it is three quarters of the parameters and not
a fifth. Weights do not matter, because every response has as many tokens. The responses answer four
few-shot sums; one on-policy update a step, plain GRPO's loss with G2RL's signal, no reference.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from cost_model import qwen_shape
from harness import machine
from trl_step import make_tokenizer

PROMPTS = 4


def make_model(folder: Path, layers: int) -> None:
    """Write a model of Qwen3-1.7B's width with random weights."""
    qwen_shape(layers).model.save_pretrained(folder)
    make_tokenizer(folder)


def main() -> None:
    """Train two steps, of which the second is traced, and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--responses", type=int, default=16, help="of the whole step")
    parser.add_argument("--tokens", type=int, default=64, help="of every response")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_model(folder / "model", args.layers)
        words = ["profile=true", "exploration=g2rl", "model=hf", f"model.source={folder / 'model'}"]
        words += ["model.chat=false", "model.prefix_sharing=auto", "task=arithmetic_sum"]
        words += [f"task.max_response_tokens={args.tokens}", f"trainer.prompts_per_step={PROMPTS}"]
        words += [f"trainer.group_size={args.responses // PROMPTS}", "optimizer.mini_batches=1"]
        words += ["algorithm.kl_coef=0", "trainer.steps=2", "trainer.eval_every=0"]
        words += ["trainer.probe_problems=0", "trainer.checkpoint_every=9", "tracking=local"]
        words += ["benchmark.limit=2", "benchmark.samples=2", "trainer.tables_every=0"]
        words += [f"hydra.run.dir={folder / 'run'}"]
        command = [sys.executable, "-m", "g2rl.cli.train", *words]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

        # the table that the run has written
        print(f"{machine()}; {args.layers} layers, {args.responses} x {args.tokens} tokens\n")
        print((folder / "run" / "profile" / "stages.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
