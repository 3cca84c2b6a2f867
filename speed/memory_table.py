"""The table of docs/memory.md: what the paper's runs need on one card, by model, adapters and
number of GPUs.

    python speed/memory_table.py
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from transformers import Qwen3Config

from g2rl.analysis.tables import markdown
from g2rl.policy.lora import LoraSettings
from g2rl.training.memory import FLOAT, Job, estimate
from g2rl.training.memory_plan import TIGHT, Plan, shape_of

# the published shapes of Qwen3-1.7B-Base and Qwen3-4B-Base: what they share, and what they do not
QWEN3 = {
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151_936,
    "tie_word_embeddings": True,
}
MODELS = {
    "Qwen3-1.7B": {
        "hidden_size": 2048,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "intermediate_size": 6144,
    },
    "Qwen3-4B": {
        "hidden_size": 2560,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "intermediate_size": 9728,
    },
}
RESPONSE_TOKENS = {"Qwen3-1.7B": 8192, "Qwen3-4B": 12_288}
CARD = 80 * 10**9
COLUMNS = (
    "model",
    "trains",
    "GPUs",
    "always",
    "scoring",
    "update",
    "optimizer step",
    "rows",
    "fits",
)
NUMBERS = COLUMNS[2:8]
"""The columns whose cells stand at the right."""


def paper_job(response_tokens: int, gpus: int) -> Job:
    """The settings of conf/experiment/paper_1_7b and paper_4b."""
    return Job(
        prompts=16,
        group_size=16,
        prompt_tokens=1024,
        response_tokens=response_tokens,
        gpus=gpus,
        sharded=gpus > 1,
        micro_batch_tokens=32_768,
        score_tokens=32_768,
        max_rows=1,
        tile_bytes=512 << 20,
        weight_bytes=FLOAT,
        autocast=True,
        checkpointing=True,
    )


def table() -> str:
    """Markdown: 1.7B and 4B on 1, 4 and 8 GPUs of 80 GB with the paper's lengths; GB are 10^9
    bytes."""
    rows = [list(COLUMNS)]
    for name, sizes in MODELS.items():
        for lora in (None, LoraSettings(r=32)):
            shape = shape_of(Qwen3Config(**QWEN3, **sizes), lora)
            for gpus in (1, 4, 8):
                job = paper_job(RESPONSE_TOKENS[name], gpus)
                rows.append(cells_of(name, Plan(shape, job, CARD)))
    return markdown(rows, right_aligned=NUMBERS) + "\n"


def cells_of(name: str, plan: Plan) -> list[str]:
    """One row: a model on some GPUs."""
    # bytes in each phase
    memory = plan.estimate
    sizes = [sum(memory.always.values())]
    for phase in ("scoring", "update", "optimizer step"):
        sizes.append(memory.total(phase))

    # whether it fits
    verdict = "no"
    if plan.fits:
        verdict = "tight" if plan.warning() else "yes"
    rows_sampled = largest_rows(plan) if plan.fits else 0

    trains = "LoRA r=32" if plan.shape.lora else "all"
    gigabytes = [f"{size / 1e9:.1f}" for size in sizes]
    return [name, trains, str(plan.job.gpus), *gigabytes, str(rows_sampled), verdict]


def largest_rows(plan: Plan) -> int:
    """The largest engine.max_rows whose sampling stays under TIGHT of the device; 0 when none
    does."""
    rows = 0
    for trial in range(1, plan.job.responses + 1):
        memory = estimate(plan.shape, replace(plan.job, max_rows=trial))
        if memory.total("sampling") > TIGHT * plan.memory:
            break
        rows = trial
    return rows


def main() -> None:
    """Print the table."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    print(table(), end="")


if __name__ == "__main__":
    main()
