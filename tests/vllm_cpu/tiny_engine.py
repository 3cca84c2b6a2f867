"""Models and engines for the tests with the real vLLM on a CPU: `make test-vllm`."""

from __future__ import annotations

import torch
from transformers import Qwen3ForCausalLM

from g2rl.engines.vllm import VllmEngine
from g2rl.policy.policy import Policy
from g2rl.tasks.countdown_policy import build_config, build_tokenizer

STOPS = [2]
SETTINGS = {
    "kv_cache_mb": 256,
    "enforce_eager": True,
    "block_size": 32,
    "max_rows": 64,
    "drift_every": 1,
}


def scramble(policy: Policy, seed: int) -> None:
    """Other weights, whose next-token distributions are far from uniform and far from the last
    ones."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.15, generator=generator)


def make_policy(tied: bool, compute_dtype: str | None = None) -> Policy:
    """Qwen3 layout, head_dim 32, vocabulary 84, random weights."""
    config = build_config(len(build_tokenizer()))
    config.tie_word_embeddings = tied
    policy = Policy(Qwen3ForCausalLM(config), compute_dtype=compute_dtype)
    scramble(policy, 0)
    return policy


def make_engine(policy: Policy, **changes: object) -> VllmEngine:
    return VllmEngine(policy, build_tokenizer(), STOPS, **{**SETTINGS, **changes})  # type: ignore[arg-type]
