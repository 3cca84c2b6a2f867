"""Where the time of a training step goes, and how far each stage is from its matrix products.

    python speed/cost_model.py [--repeats 5]          prints the tables of docs/cost.md

The floor of a stage is the floating-point operations of its unavoidable matrix products divided by
the rate at which this machine multiplies matrices of those shapes, measured in the same run. The
tiny policy is timed as it trains; the Qwen3-1.7B shape as one and three layers with random weights
(28 do not fit into minutes on a CPU): half their difference without the head is one layer, and the
rest is embedding, norm and head.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from builder import make_trainer
from harness import machine
from transformers import Qwen3Config, Qwen3ForCausalLM

from g2rl.policy.batching import Sequences, make_micro_batch
from g2rl.policy.policy import Policy

STAGES = ("sample", "score", "update")


def median_seconds(run: Callable[[], object], repeats: int) -> float:
    """Median over some calls, after one that is not counted."""
    run()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def product_rate(rows: int, inner: int, outer: int, repeats: int) -> float:
    """Floating-point operations per second of a (rows, inner) x (inner, outer) product."""
    left, right = torch.randn(rows, inner), torch.randn(outer, inner)
    times = max(1, int(2e9 / (2 * rows * inner * outer)))

    def run() -> None:
        for _ in range(times):
            left @ right.T

    return 2 * rows * inner * outer * times / median_seconds(run, repeats)


def matrix_parameters(model: torch.nn.Module) -> int:
    """Parameters that multiply every token: all matrices but the embedding's look-up table."""
    embedding = model.get_input_embeddings().weight  # type: ignore[operator]
    head = model.get_output_embeddings().weight  # type: ignore[operator]
    count = sum(p.numel() for p in model.parameters() if p.ndim == 2 and p is not embedding)
    if head is embedding:
        count += head.numel()
    return count


def tiny(repeats: int) -> list[str]:
    """Stages of a default step of the tiny policy, as it trains."""
    trainer = make_trainer("exploration=g2rl", "optimizer.lr=1e-9")
    trainer.step(1)  # warm-up
    steps = [trainer.step(step) for step in range(2, repeats + 2)]
    whole = statistics.median(metrics["time/step"] for metrics in steps)
    total = statistics.median(256 * (metrics["train/length"] + 12) for metrics in steps)

    # floors: scoring is policy and reference; half of the update's forwards were kept from scoring
    rate = product_rate(256, 128, 256, repeats)
    forward = 2 * matrix_parameters(trainer.step.scorer.policy.model) * total
    passes = {"sample": 1, "score": 2, "update": 2.5}
    total_floor = sum(passes.values()) * forward / rate

    lines = [
        "| stage | seconds | share | floor of its products | times the floor |",
        "|---|---|---|---|---|",
    ]
    for stage in STAGES:
        seconds = statistics.median(metrics[f"time/{stage}"] for metrics in steps)
        floor = passes[stage] * forward / rate
        lines.append(
            f"| {stage} | {seconds:.2f} | {seconds / whole:.0%} | {floor:.2f} | "
            f"{seconds / floor:.1f} |"
        )
    lines.append(
        f"| whole step | {whole:.2f} | 100 % | {total_floor:.2f} | {whole / total_floor:.1f} |"
    )
    note = f"{total:.0f} tokens per step, products of 256 x 128 x 256 at {rate / 1e9:.0f} GFLOP/s"
    return [*lines, "", f"({note})"]


def qwen_shape(layers: int) -> Policy:
    """Qwen3-1.7B with few layers and random weights."""
    config = Qwen3Config(
        vocab_size=151_936,
        hidden_size=2048,
        intermediate_size=6144,
        num_hidden_layers=layers,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    return Policy(Qwen3ForCausalLM(config))


def timed_passes(layers: int, repeats: int, responses: int, length: int) -> dict[str, float]:
    """Seconds of a forward and of forward and backward, of the layers alone and with the head."""
    policy = qwen_shape(layers)
    ids = torch.randint(151_936, (responses, length)).tolist()
    sequences = Sequences([[1]] * responses, ids)
    batch = make_micro_batch(sequences, list(range(responses)), policy.device)

    @torch.no_grad()
    def scored(features: bool) -> None:
        policy(batch, features=features)

    @torch.no_grad()
    def body() -> None:
        policy.hidden(batch)

    def body_updated() -> None:
        policy.zero_grad(set_to_none=True)
        policy.hidden(batch).sum().backward()

    def updated() -> None:
        policy.zero_grad(set_to_none=True)
        loss = policy(batch, objective=lambda tile, logps, entropies: logps.sum()).loss
        assert loss is not None  # float32 and a large vocabulary: the head is fused
        loss.backward()

    runs = {"body": body, "body updated": body_updated}
    if layers == 1:
        runs |= {
            "score": lambda: scored(False),
            "score with features": lambda: scored(True),
            "update": updated,
        }
    return {name: median_seconds(run, repeats) for name, run in runs.items()}


def qwen(repeats: int, responses: int = 4, length: int = 128) -> list[str]:
    """One layer, from models of one and three; the rest, with the head; and what 28 layers would
    take."""
    one, three = (timed_passes(layers, repeats, responses, length) for layers in (1, 3))
    tokens = responses * length
    rate = product_rate(tokens, 2048, 6144, repeats)
    block = 2048 * (2 * 2048 + 2 * 1024) + 3 * 2048 * 6144  # q, o, k, v and the gated MLP
    head = 2048 * 151_936

    lines = [
        "| pass | one layer | embedding and head | 28 layers, computed | of it head | floor | "
        "times |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, passes, of_layers in (
        ("score", 1, "body"),
        ("score with features", 1, "body"),
        ("update", 3, "body updated"),
    ):
        layer = (three[of_layers] - one[of_layers]) / 2
        rest = one[name] - layer
        whole = 28 * layer + rest
        floor = passes * 2 * tokens * (28 * block + head) / rate
        lines.append(
            f"| {name} | {layer:.2f} s | {rest:.2f} s | {whole:.1f} s | {rest / whole:.0%} | "
            f"{floor:.1f} s | {whole / floor:.2f} |"
        )
    products = f"products of {tokens} x 2048 x 6144 at {rate / 1e9:.0f} GFLOP/s"
    note = f"{responses} x {length} tokens, {products}"
    return [*lines, "", f"({note})"]


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    print(machine(), "\n")
    print("\n".join(tiny(args.repeats)), "\n")
    print("\n".join(qwen(max(1, args.repeats // 2))))


if __name__ == "__main__":
    main()
