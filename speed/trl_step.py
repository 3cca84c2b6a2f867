"""A whole GRPO step against TRL's GRPOTrainer: sample, grade, reference, update.

Both sides have the same model, prompts, verifier, sampling settings and batch, one optimizer update
per step, and float32. The learning rate is 1e-7, so that lengths do not change. There are three
cases:

    fixed    the tiny policy, 16 x 16 completions of exactly 64 tokens, KL to a reference policy
    real     the same with completions as they come, up to 120 tokens
    smollm2  a model of SmolLM2-135M's shape with random weights, 16 x 8 completions of 6 tokens
             behind three worked sums (33 tokens), without a reference policy

In the last case the weights do not matter, because every completion has the same length; the words
of its tokenizer are those that the sums need, cut as SmolLM2 cuts them.

Every repeat starts the sides in processes of their own, in alternating order; the first step of
each is warm-up. The figure is CPU time, which others on the machine disturb less than the clock;
the clock's ratio stands beside it. TRL takes the better of two sizes of a micro-batch. With
`--device cuda` both sides compute on the GPU, and the clock is the figure to look at.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from harness import Row, ratio_row, report

WIDTH, LAYERS, VOCABULARY = 576, 30, 49_152
"""SmolLM2-135M's."""
SHARING = ["exploration=none", "optimizer.mini_batches=1", "optimizer.lr=1e-7"]
SHARING += ["model.prefix_sharing=auto"]


class Case(NamedTuple):
    """What both sides compute, and what the ratio is to be."""

    label: str
    target: str
    group: int
    """Responses to each of 16 prompts."""
    longest: int
    """Tokens of a completion at most."""
    is_fixed: bool
    """Whether every completion has so many."""
    kl: float
    sides: tuple[str, ...]
    """Names with the size of a micro-batch: tokens for g2rl, rows for TRL."""
    steps: int = 4
    """Steps of a side in one repeat, the first of them warm-up."""


CASES = {
    "fixed": Case(
        "tiny policy, fixed 64-token completions",
        "<= 0.75",
        16,
        64,
        True,
        0.001,
        ("g2rl4096", "trl64", "trl256"),
    ),
    "real": Case(
        "tiny policy, variable-length completions",
        "<= 0.30",
        16,
        120,
        False,
        0.001,
        ("g2rl4096", "trl64", "trl256"),
    ),
    "smollm2": Case(
        "SmolLM2-135M's shape, few-shot sums",
        "<= 0.35",
        8,
        6,
        True,
        0.0,
        ("g2rl2048", "trl32"),
        steps=2,
    ),
}
PROMPTS = 16

Seconds = list[tuple[float, float]]
"""CPU seconds and seconds by the clock of each step."""


class Clock:
    """Takes the time of steps, and waits for a GPU to do what it was told before."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.seconds: Seconds = []

    def start(self) -> None:
        """A step begins."""
        self._wait()
        self.cpu, self.wall = time.process_time(), time.perf_counter()

    def stop(self) -> None:
        """It has ended."""
        self._wait()
        self.seconds.append((time.process_time() - self.cpu, time.perf_counter() - self.wall))

    def _wait(self) -> None:
        """Let the GPU finish, if there is one."""
        if self.device == "cuda":
            import torch

            torch.cuda.synchronize()


def make_model(folder: Path) -> None:
    """Write a model of SmolLM2-135M's shape with random weights, and a tokenizer for its sums."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=1536,
        num_hidden_layers=LAYERS,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    make_tokenizer(folder)


def make_tokenizer(folder: Path) -> None:
    """Write a tokenizer for worked sums, which cuts them as SmolLM2's does."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    # one token a digit or a sign, with the space before it, as in SmolLM2's own
    signs = [*"0123456789", "+", "="]
    words = ["<unk>", "<s>", "</s>", "\n", *signs, *(f" {sign}" for sign in signs)]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?[0-9+=]|\n"), "isolated")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
    ).save_pretrained(folder)


def g2rl_steps(name: str, steps: int, tokens: int, folder: str, device: str) -> Seconds:
    """Times of g2rl with `tokens` in a micro-batch. Imports stand here, so that no side loads the
    other's."""
    from builder import make_trainer

    # the tiny policy and Countdown are the defaults
    case = CASES[name]
    words = [*SHARING, f"model.micro_batch_tokens={tokens}", f"model.device={device}"]
    if name == "smollm2":
        words += ["model=hf", f"model.source={folder}", "model.chat=false", "task=arithmetic_sum"]
        words += [f"trainer.group_size={case.group}", f"trainer.prompts_per_step={PROMPTS}"]
    words += [f"task.max_response_tokens={case.longest}", f"algorithm.kl_coef={case.kl}"]
    trainer = make_trainer(*words)
    if case.is_fixed:
        trainer.step.engine.stop_ids = []  # type: ignore[attr-defined]
    trainer.step.engine.push_weights()

    clock = Clock(device)
    for step in range(1, steps + 1):
        clock.start()
        metrics = trainer.step(step)
        clock.stop()
    assert not case.is_fixed or metrics["train/length"] == case.longest
    return clock.seconds


def trl_steps(name: str, steps: int, rows: int, folder: str, device: str) -> Seconds:
    """Times of TRL with `rows` responses in a micro-batch."""
    import datasets
    import transformers
    import trl

    from g2rl.integrations.rewards import VerifierReward, rows_of
    from g2rl.policy.loading import load
    from g2rl.tasks.arithmetic import Arithmetic
    from g2rl.tasks.countdown import Countdown

    logging.disable(logging.WARNING)
    case, is_tiny = CASES[name], name != "smollm2"
    task: Any = Countdown() if is_tiny else Arithmetic("sum")
    loaded = load("builtin:tiny" if is_tiny else folder, device=device)
    problems = rows_of(task.batch(0, 0, PROMPTS * steps), chat=is_tiny)
    clock = Clock(device)

    class Steps(transformers.TrainerCallback):
        """Notes how long each step took."""

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            clock.start()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.stop()

    with tempfile.TemporaryDirectory() as output:
        config = trl.GRPOConfig(
            output_dir=output,
            use_cpu=device == "cpu",
            bf16=False,
            report_to=[],
            disable_tqdm=True,
            save_strategy="no",
            logging_steps=10_000,
            gradient_checkpointing=False,
            shuffle_dataset=False,
            max_steps=steps,
            per_device_train_batch_size=rows,
            gradient_accumulation_steps=PROMPTS * case.group // rows,
            num_generations=case.group,
            max_completion_length=case.longest,
            generation_kwargs={"min_new_tokens": case.longest} if case.is_fixed else None,
            temperature=1.0,
            beta=case.kl,
            learning_rate=1e-7,
            loss_type="dapo",
            seed=0,
        )
        trainer = trl.GRPOTrainer(
            model=loaded.model,
            reward_funcs=VerifierReward(task.verifier),
            args=config,
            processing_class=loaded.tokenizer,
            train_dataset=datasets.Dataset.from_list(problems),
            callbacks=[Steps()],
        )
        trainer.train()
    return clock.seconds


def child(name: str, side: str, steps: int, folder: Path, device: str) -> tuple[float, float]:
    """Median CPU seconds and seconds by the clock of a step, in a process of its own."""
    words = ["--side", side, "--case", name, "--steps", str(steps), "--folder", str(folder)]
    command = [sys.executable, __file__, *words, "--device", device]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    cpu, wall = zip(*json.loads(printed.splitlines()[-1])[1:], strict=True)
    return statistics.median(cpu), statistics.median(wall)


def compare(name: str, repeats: int, steps: int, folder: Path, device: str) -> list[Row]:
    """Time all sides in alternating order; the better of TRL's is the peer."""
    case = CASES[name]
    taken: dict[str, Seconds] = {side: [] for side in case.sides}
    for repeat in range(repeats):
        for side in case.sides if repeat % 2 == 0 else case.sides[::-1]:
            taken[side].append(child(name, side, steps, folder, device))
            print(f"{name} {side}: %.2f CPU s, %.2f s by the clock" % taken[side][-1], flush=True)

    def cpu_of(side: str) -> float:
        return statistics.median(cpu for cpu, _ in taken[side])

    [ours] = [side for side in case.sides if side.startswith("g2rl")]
    best = min((side for side in case.sides if side.startswith("trl")), key=cpu_of)
    what = f"GRPO step, {case.label} ({ours[4:]} tokens a micro-batch)"
    peer = f"TRL GRPOTrainer ({best[3:]} rows a micro-batch)"

    # the goals were set for CPUs
    quantities = (("CPU time", case.target if device == "cpu" else ""), ("clock", ""))
    rows: list[Row] = []
    for place, (quantity, target) in enumerate(quantities):
        ours_seconds = [pair[place] for pair in taken[ours]]
        peer_seconds = [pair[place] for pair in taken[best]]
        medians = [
            f"{side} {statistics.median(pair[place] for pair in pairs):.2f} s"
            for side, pairs in taken.items()
        ]
        row = (what, peer, quantity, ours_seconds, peer_seconds, target, ", ".join(medians))
        rows.append(ratio_row(*row))
    return rows


def main() -> None:
    """Compare, or time one side in this process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, help="of a side in a repeat; default: the case's own")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--case", choices=list(CASES))
    parser.add_argument("--side", help="only this side's seconds, as JSON, such as g2rl4096")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--folder", help="of the model of the case smollm2, for --side")
    args = parser.parse_args()

    # one side
    if args.side:
        side = g2rl_steps if args.side.startswith("g2rl") else trl_steps
        size = int(args.side.removeprefix("g2rl").removeprefix("trl"))
        steps = args.steps or CASES[args.case].steps
        print(json.dumps(side(args.case, steps, size, args.folder, args.device)))
        return

    # all of them
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in [args.case] if args.case else list(CASES):
            if name == "smollm2":
                make_model(Path(folder))
            steps = args.steps or CASES[name].steps
            rows += compare(name, args.repeats, steps, Path(folder), args.device)
    report(rows, args.json)


if __name__ == "__main__":
    main()
