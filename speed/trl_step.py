"""A whole GRPO step on the tiny policy against TRL's GRPOTrainer: sample, grade, reference, update.

Both sides have 16 prompts x 16 responses, KL to a reference policy, one optimizer update per step
and float32, with the same model, prompts, verifier and sampling settings. The learning rate is
1e-7, so that lengths do not change. There are two cases: completions of exactly 64 tokens, and
completions as they come (up to 120). Every repeat starts both sides in processes of their own, in
alternating order; the first step of each is warm-up.
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
from typing import Any

from harness import Row, ratio_row, report

PROMPTS, GROUP, FIXED, LONGEST = 16, 16, 64, 120
TARGETS = {"fixed": "<= 0.60", "real": "<= 0.45"}
LABELS = {"fixed": "fixed 64-token completions", "real": "variable-length completions"}


def g2rl_steps(case: str, steps: int) -> list[float]:
    """Seconds of each step of g2rl. Imports stand here, so that no side loads the other's."""
    from builder import make_trainer

    trainer = make_trainer(
        "exploration=none",
        "optimizer.mini_batches=1",
        "optimizer.lr=1e-7",
        f"task.max_response_tokens={FIXED if case == 'fixed' else LONGEST}",
    )
    if case == "fixed":
        trainer.step.engine.stop_ids = []  # type: ignore[attr-defined]
    trainer.step.engine.push_weights()
    seconds = []
    for step in range(1, steps + 1):
        started = time.perf_counter()
        metrics = trainer.step(step)
        seconds.append(time.perf_counter() - started)
    assert case == "real" or metrics["train/length"] == FIXED
    return seconds


def trl_steps(case: str, steps: int, rows: int) -> list[float]:
    """Seconds of each step of TRL with `rows` responses in a micro-batch."""
    import datasets
    import transformers
    import trl

    from g2rl.policy.loading import load
    from g2rl.tasks.countdown import Countdown

    logging.disable(logging.WARNING)
    task, loaded = Countdown(), load("builtin:tiny")
    problems = {p.prompt: p for p in task.batch(0, 0, PROMPTS * steps)}

    def reward(prompts: list[Any], completions: list[Any], **_: Any) -> list[float]:
        pairs = zip(prompts, completions, strict=True)
        return [
            1.0 if task.verifier.grade(c[0]["content"], problems[p[0]["content"]]).correct else -1.0
            for p, c in pairs
        ]

    marks: list[float] = []

    class Clock(transformers.TrainerCallback):
        """Notes how long each step took."""

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            marks.append(time.perf_counter() - self.started)

    messages = [{"prompt": [{"role": "user", "content": text}]} for text in problems]
    with tempfile.TemporaryDirectory() as folder:
        config = trl.GRPOConfig(
            output_dir=folder,
            use_cpu=True,
            bf16=False,
            report_to=[],
            disable_tqdm=True,
            save_strategy="no",
            logging_steps=10_000,
            gradient_checkpointing=False,
            shuffle_dataset=False,
            max_steps=steps,
            per_device_train_batch_size=rows,
            gradient_accumulation_steps=PROMPTS * GROUP // rows,
            num_generations=GROUP,
            max_completion_length=FIXED if case == "fixed" else LONGEST,
            generation_kwargs={"min_new_tokens": FIXED} if case == "fixed" else None,
            temperature=1.0,
            beta=0.001,
            learning_rate=1e-7,
            loss_type="dapo",
            seed=0,
        )
        trainer = trl.GRPOTrainer(
            model=loaded.model,
            reward_funcs=reward,
            args=config,
            processing_class=loaded.tokenizer,
            train_dataset=datasets.Dataset.from_list(messages),
            callbacks=[Clock()],
        )
        trainer.train()
    return marks


def child(case: str, side: str, steps: int) -> float:
    """Median seconds of a step, in a process of its own."""
    command = [sys.executable, __file__, "--side", side, "--case", case, "--steps", str(steps)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return statistics.median(json.loads(printed.splitlines()[-1])[1:])


def compare(case: str, repeats: int, steps: int) -> Row:
    """Time all sides in alternating order; the faster of TRL's two is the peer."""
    sides = ["g2rl", "trl256", "trl64"]  # TRL with one micro-batch, and with four
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for repeat in range(repeats):
        for side in sides if repeat % 2 == 0 else sides[::-1]:
            seconds[side].append(child(case, side, steps))
    best = min(sides[1:], key=lambda side: statistics.median(seconds[side]))
    note = ", ".join(
        f"{side} {statistics.median(values):.2f} s" for side, values in seconds.items()
    )
    peer = f"TRL GRPOTrainer ({best[3:]} rows a micro-batch, its better)"
    return ratio_row(
        f"GRPO step, tiny policy, {LABELS[case]}",
        peer,
        "time",
        seconds["g2rl"],
        seconds[best],
        TARGETS[case],
        note,
    )


def main() -> None:
    """Compare, or time one side in this process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--case", choices=list(TARGETS))
    parser.add_argument(
        "--side", choices=["g2rl", "trl256", "trl64"], help="only this side's seconds, as JSON"
    )
    args = parser.parse_args()
    if args.side == "g2rl":
        print(json.dumps(g2rl_steps(args.case, args.steps)))
    elif args.side:
        print(json.dumps(trl_steps(args.case, args.steps, int(args.side[3:]))))
    else:
        cases = [args.case] if args.case else list(TARGETS)
        report([compare(case, args.repeats, args.steps) for case in cases], args.json)


if __name__ == "__main__":
    main()
