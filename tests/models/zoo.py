"""A tiny model with random weights of any type of causal LM that transformers registers."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from g2rl.policy.loading import build

TYPES = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
VOCABULARY = 160
MOST_PARAMETERS = 30_000_000

SIZES: dict[str, Any] = {
    # the usual names, then those of older and of other families
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0,
    "max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 2, "use_cache": True,
    "n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 512, "n_ctx": 512, "d_model": 32,
    "n_layers": 4, "n_heads": 4, "num_layers": 4, "decoder_layers": 4, "encoder_layers": 1,
    "decoder_attention_heads": 4, "encoder_attention_heads": 4, "decoder_ffn_dim": 48,
    "encoder_ffn_dim": 48, "ffn_dim": 48, "word_embed_proj_dim": 32, "rotary_dim": 8,
    "max_seq_len": 512, "d_ff": 48, "d_kv": 8, "num_decoder_layers": 4, "dim_ff": 48, "dim_head": 8,
    # experts
    "moe_intermediate_size": 16, "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4,
    "num_experts_per_tok": 2, "shared_expert_intermediate_size": 16, "moe_num_experts": 4,
    "moe_k": 2, "num_shared_experts": 1, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
    "n_shared_experts": 1, "expert_interval": 1, "norm_topk_prob": True,
    # latent attention
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    # linear attention, state spaces, sliding windows
    "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8,
    "linear_value_head_dim": 8, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8,
    "mamba_n_groups": 1, "mamba_chunk_size": 16, "state_size": 8, "expand": 2, "num_heads": 4,
    "n_groups": 1, "time_step_rank": 4, "ssm_state_size": 8, "mamba_num_heads": 4,
    "mamba_head_dim": 16, "chunk_size": 16, "attention_window_size": 8, "lru_width": 32,
    "sliding_window": 8, "num_attention_groups": 2, "vocab_size_per_layer_input": VOCABULARY,
    "hidden_size_per_layer_input": 8,
}  # fmt: skip
"""Values of configurations by the names that architectures use for them."""

INDEXER = {
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 8,
    "indexer_budget": 16,
    "indexer_compress_ratio": 4,
}
"""What Qwen 4's sparse attention wants."""
DOTS3 = {
    "num_key_value_heads": 4,
    "head_dim": 16,
    "index_topk": 64,
    "index_head_dim": 8,
    "index_n_heads": 2,
    "shared_experts_intermediate_size": 16,
    "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 4,
    "swa_q_lora_rank": 16,
    "swa_kv_lora_rank": 16,
    "swa_head_dim": 16,
    "swa_qk_nope_head_dim": 8,
    "swa_v_head_dim": 8,
}
"""Of dots3's sparse attention, and of its layers that look at a window."""
SPECIAL: dict[str, dict[str, Any]] = {
    "bailing_hybrid": {"layer_group_size": 2},
    "bamba": {"attn_layer_indices": [1, 3]},
    "blt": {"encoder_hash_byte_group_vocab": 500, "max_position_embeddings": 512},
    "cohere_compass_text": {
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 1e4},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        }
    },
    "dbrx": {"attn_config": {"rope_theta": 1e4, "kv_n_heads": 2, "clip_qkv": 8.0}},
    "dots3_note": {
        "text_config": DOTS3,
        "vision_config": {
            "pyramid_num_routed": [2],
            "adapter_in_dim": 32,
            "adapter_out_dim": 32,
            "moe_intermediate_size": 16,
        },
        "audio_config": {
            "adapter_input_size": 32,
            "adapter_out_dim": 32,
            "downsample_hidden_size": 8,
            "feature_size": 16,
        },
    },
    "dots3_note_text": DOTS3,
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma3n": {
        "text_config": {"num_kv_shared_layers": 0, "activation_sparsity_pattern": [0.0] * 4},
        "vision_config": {"architecture": "test_efficientnet", "model_args": None},
    },
    "gemma3n_text": {"num_kv_shared_layers": 0, "activation_sparsity_pattern": [0.0] * 4},
    "gemma4_assistant": {
        "text_config": {
            "hidden_size_per_layer_input": 0,
            "vocab_size_per_layer_input": 0,
            "num_kv_shared_layers": 4,
        }
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "granite": {"logits_scaling": 8.0},
    "granitemoe": {"logits_scaling": 0.25},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"] * 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"head_dim": 16},
    "minicpm3": {"dim_model_base": 16},
    "qwen4_exp": {"text_config": INDEXER},
    "qwen4_exp_text": INDEXER,
    "reformer": {"is_decoder": True, "axial_pos_embds": False, "attn_layers": ["local"] * 4},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"num_hidden_layers": 6, "attn_layer_period": 3, "attn_layer_offset": 1},
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"] * 2},
    "zaya": {"num_experts_per_tok": 1},
}
"""What single types want besides."""
NOT_BUILT = {
    "gemma3n": "timm",
    "gemma4_assistant": "types producing a cache",
    "gemma4_unified_assistant": "types producing a cache",
    "musicgen": "dropout",
    "musicgen_melody": "dropout",
}
"""Types that transformers 5.23 builds of no configuration, or with timm only, and what its errors
name. The drafts of Gemma 4 share the caches of all their layers, which its check of caches refuses.
The causal LM of Musicgen takes the configuration of its decoder, under no type of its own."""
SENSES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4,
    "depth": 1, "image_size": 28, "patch_size": 14, "num_heads": 4, "out_hidden_size": 32,
    "embed_dim": 32,
}  # fmt: skip
"""The parts of a model that see or hear."""


def fields_of(kind: type) -> set[str]:
    """Names that a class of configurations takes."""
    names: set[str] = set(getattr(kind, "attribute_map", {}))
    for ancestor in kind.__mro__:
        names |= set(getattr(ancestor, "__annotations__", {}))
        if "__init__" in vars(ancestor):
            names |= set(inspect.signature(vars(ancestor)["__init__"]).parameters)
    return names


def among(kind: type, values: dict[str, Any]) -> dict[str, Any]:
    """Those of the values that a class of configurations takes."""
    names = fields_of(kind)
    return {name: value for name, value in values.items() if name in names}


def tiny_config(model_type: str, **changes: Any) -> Any:
    """A configuration of that type with a few thousand parameters.

    Args:
        model_type: as transformers registers it.
        changes: values that replace the usual ones.
    """
    kind = CONFIG_MAPPING[model_type]
    special = SPECIAL.get(model_type, {})
    values = {**among(kind, SIZES), **parts_of(kind, special), **changes}

    # latent attention has as many key heads as others
    if "kv_lora_rank" in fields_of(kind) and "num_key_value_heads" in values:
        values["num_key_value_heads"] = SIZES["num_attention_heads"]
    for name, value in special.items():
        values.setdefault(name, value)
        if not isinstance(value, dict) or name == "rope_parameters":
            values[name] = value
    return kind(**{**values, **changes})


def parts_of(kind: type, special: dict[str, Any]) -> dict[str, Any]:
    """Values of the nested configurations of a class, by the name of the part."""
    specifications = {
        **getattr(kind, "sub_configs", {}),
        **getattr(kind, "sub_configs_defaults", {}),
    }
    parts: dict[str, Any] = {}
    for name, specification in specifications.items():
        # transformers names the class of a part, or its model type
        part = getattr(specification, "config_class", specification)
        part_type = getattr(specification, "model_type", None) or getattr(part, "model_type", None)
        if part is AutoConfig:
            part = CONFIG_MAPPING[part_type] if part_type else None
        if part is None:
            continue
        sees = not ("text" in name or name in ("decoder", "global_config"))
        sizes = SENSES if sees else SIZES
        values = {**among(part, sizes), **parts_of(part, {}), **special.get(name, {})}
        parts[name] = {"model_type": part_type, **values} if part_type else values
    return parts


def tiny_model(model_type: str, **changes: Any) -> Any:
    """A model of that type in float32 and evaluation mode, the same in every process.

    Raises:
        UnsupportedModelError: transformers cannot build it.
        MemoryError: it is not tiny.
    """
    config = tiny_config(model_type, **changes)
    with torch.device("meta"):
        size = sum(p.numel() for p in build(config).parameters())
    if size > MOST_PARAMETERS:
        raise MemoryError(f"{size} parameters")

    # some have no fused attention
    torch.manual_seed(0)
    try:
        model: Any = build(config, attn_implementation="sdpa", dtype=torch.float32)
    except ValueError:
        model = build(config, attn_implementation="eager", dtype=torch.float32)

    # what a fresh model says is nearly uniform, whatever it reads
    for parameter in model.parameters():
        if parameter.ndim >= 2 and 0 < parameter.std() < 0.2:
            parameter.data.mul_(4)
    return model.eval()
