"""The policy: a causal language model that samples, is scored and is trained.

In reading order:

    anatomy     the parts of a causal LM, whatever its architecture calls them
    chat        chat templates: how a turn ends, which day it is, control tokens in a text
    loading     find, build or load a model and its tokenizer
    prompts     a problem's text as token ids
    checks      what a few tokens show of a model, and what is refused
    norms, gated_mlp, lean_modules
                norms and MLPs that keep less for the backward, and which of a model they replace
    policy      the model and its head as one module: log-probs, entropies, features
    lm_head     the tiled head behind it (a package with a public face)
    batching    micro-batches of similar length, padded
    prefix_layout, prefix_attention
                tokens of which every prompt stands once, and attention over them
    packing     micro-batches of such tokens, and when they are worth it
    prefix_sharing
                which models allow it
    scoring     log-probs, entropies and features of whole rollouts
    reference   the frozen policy of the KL term, under LoRA without a copy
    lora        low-rank adapters
    sharding    weights divided among processes by FSDP2
    weights     how weights are walked: names, ties, blocks

It knows nothing of tasks, signals, engines and runs.
"""
