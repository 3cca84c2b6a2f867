"""Run by torchrun: every rank samples its share of the prompts and writes what it drew.

python -m torch.distributed.run --nproc-per-node 2 -m tests.vllm_cpu.ranks FOLDER TENSOR_PARALLEL
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch.distributed as dist

from g2rl.types import SamplingParams
from tests.vllm_cpu.tiny_engine import make_engine, make_policy, scramble


def main(folder: Path, tensor_parallel: int) -> None:
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    drawn = sample(rank, world, tensor_parallel)
    (folder / f"rank{rank}.json").write_text(json.dumps(drawn))
    if dist.is_initialized():  # shutting vLLM down has done it already
        dist.destroy_process_group()


def sample(rank: int = 0, world: int = 1, tensor_parallel: int = 1) -> list[list[list[object]]]:
    """Two rounds, a push before each; of each response its tokens and log-probs."""
    rng = np.random.default_rng(2)
    prompts = [rng.integers(3, 84, n).tolist() for n in (9, 70, 33, 40, 5, 64)]
    mine = range(rank, len(prompts), world)
    policy = make_policy(tied=True)
    engine = make_engine(policy, tensor_parallel=tensor_parallel)
    drawn = []
    try:
        for seed in (1, 2):
            scramble(policy, seed)
            engine.push_weights()
            told: list[int] = []
            keys = [(seed, p) for p in mine]
            params = SamplingParams(0.9, max_tokens=20)
            groups = engine.generate(
                [prompts[p] for p in mine], keys, 4, params, on_progress=told.append
            )
            assert sum(told) == 4 * len(mine)
            drawn.append([[[c.token_ids, c.logps] for c in group] for group in groups])
    finally:
        engine.close()
    return drawn


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
