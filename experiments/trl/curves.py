"""The same signals inside TRL and in g2rl's own loop: training and held-out accuracy.

    python experiments/trl/curves.py --signal g2rl --seed 0 --where trl    # or g2rl; minutes
    python experiments/trl/curves.py --table

The settings are the same as far as both have them: 8 problems x 8 responses a step, one update a
step, mean over tokens, no KL term, AdamW with the same numbers. Every run leaves one line in
`runs/trl_curves.jsonl`; `--table` prints them as a table.
"""

from __future__ import annotations

import argparse
import json
import os
from importlib.resources import files
from pathlib import Path
from typing import Any

os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

RESULTS = Path("runs/trl_curves.jsonl")
PROMPTS, GROUP, LEARNING_RATE, MAX_TOKENS = 8, 8, 2e-4, 60
PROBLEMS, SAMPLES = 128, 8


def inside_trl(signal: str, seed: int, steps: int) -> dict[str, Any]:
    """Train inside TRL, and evaluate as g2rl does."""
    from datasets import Dataset
    from trl import GRPOConfig

    from g2rl.engines.transformers import TransformersEngine
    from g2rl.evaluation.evaluate import evaluate
    from g2rl.integrations.rewards import VerifierReward, rows_of
    from g2rl.integrations.trl import ExplorationGRPOTrainer
    from g2rl.policy.loading import load
    from g2rl.policy.policy import Policy
    from g2rl.tasks.benchmarks.countdown import countdown_benchmark
    from g2rl.tasks.countdown import Countdown
    from g2rl.tasks.grading.grader import Grader

    # the problems of g2rl's own loop, in its order
    task = Countdown()
    reward = VerifierReward(task.verifier)
    trainer = ExplorationGRPOTrainer(
        signal=signal,
        model=str(files("g2rl") / "assets" / "tiny"),
        reward_funcs=reward,
        train_dataset=Dataset.from_list(rows_of(task.batch(seed, 0, steps * PROMPTS))),
        args=GRPOConfig(
            output_dir=f"runs/trl_curves/{signal}-{seed}",
            seed=seed,
            max_steps=steps,
            shuffle_dataset=False,
            per_device_train_batch_size=PROMPTS * GROUP,
            num_generations=GROUP,
            max_completion_length=MAX_TOKENS,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            adam_beta2=0.95,
            gradient_checkpointing=False,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            bf16=False,
            use_cpu=True,
            disable_tqdm=True,
        ),
    )
    trainer.train()

    # held-out problems, sampled and graded as in g2rl
    loaded = load("builtin:tiny")
    loaded.model.load_state_dict(trainer.model.state_dict())
    engine = TransformersEngine(Policy(loaded.model), loaded.tokenizer, loaded.stop_ids)
    engine.push_weights()
    benchmark = countdown_benchmark(PROBLEMS, samples=SAMPLES, ks=[1, 8])
    grader = Grader(task.verifier)
    result = evaluate(benchmark, engine, grader, loaded.tokenizer, chat=True, seed=seed)
    rows = [row for row in trainer.state.log_history if "rewards/verifier/mean" in row]
    return {
        "accuracy": [row["rewards/verifier/mean"] for row in rows],
        "entropy": [row["entropy"] for row in rows],
        "pass@1": result.metrics["pass@1"],
        "pass@8": result.metrics["pass@8"],
    }


def own_loop(signal: str, seed: int, steps: int) -> dict[str, Any]:
    """Train in g2rl's own loop, by the command."""
    import subprocess
    import sys

    folder = Path(f"runs/trl_curves/own-{signal}-{seed}")
    settings = [
        f"exploration={signal}",
        f"seed={seed}",
        f"hydra.run.dir={folder}",
        "tracking=local",
        f"trainer.steps={steps}",
        f"trainer.prompts_per_step={PROMPTS}",
        f"trainer.group_size={GROUP}",
        "trainer.eval_every=0",
        "trainer.checkpoint_every=1000",
        "trainer.tables_every=0",
        "trainer.probe_problems=0",
        "optimizer.mini_batches=1",
        f"optimizer.lr={LEARNING_RATE}",
        "algorithm.kl_coef=0",
        f"task.max_response_tokens={MAX_TOKENS}",
        f"benchmark.problems={PROBLEMS}",
        "benchmark.max_tokens=120",
        f"benchmark.samples={SAMPLES}",
        "benchmark.ks=[1,8]",
    ]
    subprocess.run([sys.executable, "-m", "g2rl.cli.train", *settings], check=True)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps_of_run = [row for row in rows if "train/accuracy" in row]

    # of the evaluation after the last step
    last: dict[str, float] = {}
    for row in rows:
        for name, value in row.items():
            if name.startswith("eval/") and "pass@" in name and "/ci" not in name:
                last[name.removeprefix("eval/countdown/")] = value
    return {
        "accuracy": [row["train/accuracy"] for row in steps_of_run],
        "entropy": [row.get("train/entropy") for row in steps_of_run],
        **last,
    }


def main() -> None:
    """Run one arm, or print what the arms have left."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--signal", default="g2rl")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--where", choices=["trl", "g2rl"], default="trl")
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    if asked.table:
        for line in RESULTS.read_text().splitlines():
            row = json.loads(line)
            print(
                row["where"], row["signal"], row["seed"], {k: v for k, v in row.items() if "@" in k}
            )
        return

    run = inside_trl if asked.where == "trl" else own_loop
    row = run(asked.signal, asked.seed, asked.steps)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps({**vars(asked), **row}) + "\n")


if __name__ == "__main__":
    main()
