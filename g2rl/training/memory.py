"""How many bytes a training job needs on one GPU: formulas over shapes, lengths and dtypes.
docs/memory.md.

Activations follow the way of Korthikanti et al. 2022 (arXiv 2205.05198, section 4: list what each
operation of a transformer block saves for its backward), redone for what transformers computes
today: RMSNorm in float32, grouped queries, fused attention that saves no (L, L) matrix (arXiv
2205.14135), a gated MLP. They are exact for what autograd saves
(`tests/training/test_memory_plan.py` counts it); working memory of kernels and the allocator's
fragmentation are not in them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

FLOAT = 4  # bytes of float32: master weights under mixed precision, norms, gradients of the head
ADAM_MOMENTS = 2
SAMPLER_BYTES = (
    28  # per logit while a token is drawn: float32 logits and probabilities, float64 mass and sum
)
PREFETCH = 2  # blocks whose gathered weights are there at once under sharding


@dataclass(slots=True, frozen=True)
class Shape:
    """A causal LM in numbers; `g2rl.training.memory_plan.shape_of` reads them off a
    configuration."""

    layers: int
    width: int
    """D, of the hidden states."""
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    """Width of the MLP."""
    vocabulary: int
    parameters: int
    """All of them, adapters included."""
    trained: int
    block: int
    """Parameters of the largest block."""
    qk_norm: bool = False
    lean_norms: bool = False
    """Whether norms keep nothing but their input, see `g2rl.policy.norms`."""
    lean_mlps: bool = False
    """Whether MLPs keep no activation, see `g2rl.policy.gated_mlp`."""
    gated: bool = True
    lora: bool = False
    lora_head: bool = False
    lora_ranks: int = 0
    """Sum of the ranks of one block's adapters."""

    @property
    def queries(self) -> int:
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def head(self) -> int:
        """Weights of the LM head, V D."""
        return self.vocabulary * self.width

    @property
    def outside(self) -> int:
        """Parameters outside the blocks: embedding, head, last norm."""
        return max(self.parameters - self.layers * self.block, 0)


@dataclass(slots=True, frozen=True)
class Job:
    """What a run asks of one GPU; lengths in tokens, P G responses per step over all GPUs."""

    prompts: int
    group_size: int
    prompt_tokens: int
    response_tokens: int
    micro_batch_tokens: int
    score_tokens: int
    max_rows: int
    tile_bytes: int
    eval_rows: int = 0
    eval_tokens: int = 0
    gpus: int = 1
    sharded: bool = False
    """Weights, gradients and optimizer state are divided by the GPUs (FSDP); otherwise each has
    all."""
    weight_bytes: int = FLOAT
    autocast: bool = False
    """bfloat16 compute on float32 weights."""
    checkpointing: bool = False
    reference: bool = True
    features: bool = True
    offload_reference: bool = False
    offload_optimizer: bool = False
    vllm_bytes: int | None = None
    """Memory of an engine of its own; None: the training model samples (if it is sharded, a whole
    copy)."""
    vllm_sleeps: bool = True
    """It gives its memory back between samplings."""
    encoder_bytes: int = 0
    """Weights of an encoder of its own on the device; 0 without one."""
    encoder_forward: int = 0
    """What its largest forward takes besides."""
    offload_encoder: bool = False
    past_weights: int = 0
    """Copies of trained weights of past steps that lie on the device (`trainer.lag`); none on a
    GPU, because they are kept in host memory."""

    @property
    def shards(self) -> int:
        return self.gpus if self.sharded else 1

    @property
    def compute_bytes(self) -> int:
        return 2 if self.autocast else self.weight_bytes

    @property
    def responses(self) -> int:
        """Responses on one GPU: whole groups stay together."""
        return -(-self.prompts // self.gpus) * self.group_size

    @property
    def row(self) -> int:
        """Tokens of the longest row."""
        return self.prompt_tokens + self.response_tokens

    def micro_batch(self, budget: int) -> int:
        """Padded tokens of the largest micro-batch under a budget; a longer row has one of its
        own."""
        return max(min(budget, self.responses * self.row), self.row)


def saved_by_block(shape: Shape, job: Job) -> int:
    """Bytes per token that one block saves for its backward."""
    # bytes of what is computed with, and of the residual stream
    narrow = job.compute_bytes
    stream = (
        FLOAT if job.autocast else job.weight_bytes
    )  # of the residual stream and what the norms return
    inputs = 5 if job.autocast else 2  # of q, k, v, gate, up: each casts its own under autocast

    # what each operation saves, per token
    norms = 2 * _saved_by_norm(shape, shape.width, stream)
    linear = inputs * shape.width * narrow
    heads_width = shape.queries + shape.keys
    qk_norms = _saved_by_norm(shape, heads_width, narrow) if shape.qk_norm else 0
    attention = 2 * heads_width * narrow  # q, output, k, v
    gated_kept = 3 if shape.lean_mlps else 4  # gate, up, their product, and the activation
    mlp = (gated_kept if shape.gated else 2) * shape.intermediate * narrow
    row_scalars = 2 + shape.heads + (shape.heads + shape.kv_heads if shape.qk_norm else 0)
    return (
        norms
        + linear
        + qk_norms
        + attention
        + mlp
        + FLOAT * row_scalars
        + shape.lora_ranks * narrow
    )


def _saved_by_norm(shape: Shape, width: int, number_bytes: int) -> int:
    """Bytes per token that a norm of some width saves, without its scalars.

    Args:
        width: numbers of a token that pass through it.
        number_bytes: of one such number.
    """
    # a lean norm saves its input; a plain one saves the input in float32 and the normed input
    return width * (number_bytes if shape.lean_norms else FLOAT + number_bytes)


def activations(shape: Shape, job: Job, tokens: int) -> int:
    """Bytes saved by the backbone for a backward over `tokens` tokens, embedding to last norm.

    With checkpointing: the input of every block, and all that one block saves while it is
        recomputed.
    """
    stream = FLOAT if job.autocast else job.weight_bytes

    # the backbone: blocks, then the last norm
    block = saved_by_block(shape, job)
    last_norm = _saved_by_norm(shape, shape.width, stream) + FLOAT
    if job.checkpointing:
        return tokens * (shape.layers * shape.width * stream + block + last_norm)
    return tokens * (shape.layers * block + last_norm)


def kv_cache(shape: Shape, job: Job, rows: int, tokens: int) -> int:
    """Bytes of the keys and values of `rows` sequences of `tokens` tokens.

    In float32 under autocast: the rotary embedding returns float32 keys, and the cache takes their
        dtype.
    """
    width = FLOAT if job.autocast else job.weight_bytes
    return 2 * shape.layers * shape.keys * rows * tokens * width


def parameter_bytes(shape: Shape, job: Job) -> int:
    """The weights; adapters are float32 whatever the base is."""
    # adapters are float32 whatever the base is
    adapters = shape.trained * FLOAT if shape.lora else 0
    base = shape.parameters - shape.trained if shape.lora else shape.parameters
    return (base * job.weight_bytes + adapters) // job.shards


def optimizer_bytes(shape: Shape, job: Job) -> int:
    """The two moments of AdamW, in the dtype of the weights (adapters are float32)."""
    return ADAM_MOMENTS * gradient_bytes(shape, job)


def gradient_bytes(shape: Shape, job: Job) -> int:
    return shape.trained * (FLOAT if shape.lora else job.weight_bytes) // job.shards


def compute_copy(shape: Shape, job: Job) -> int:
    """Weights as they are computed with: bfloat16 copies, and under sharding what is gathered at
    once."""
    # gathered blocks, and what is outside them
    if job.sharded:
        return (shape.outside + min(PREFETCH, shape.layers) * shape.block) * job.compute_bytes
    return shape.parameters * job.compute_bytes if job.autocast else 0


def head_work(shape: Shape, job: Job, backward: bool) -> int:
    """The head's weight in the compute dtype, merged if it has an adapter, and its gradient's
    buffers."""
    narrow = job.compute_bytes

    # the head in the compute dtype, and merged
    copies = (narrow if job.autocast else 0) + (FLOAT if shape.lora_head else 0)
    if backward and (shape.lora_head or not shape.lora):
        copies += FLOAT + narrow  # the sum over tiles and the product of one
    return shape.head * copies


def sampling(shape: Shape, job: Job) -> dict[str, int]:
    if job.vllm_bytes is not None:
        return {"vllm": job.vllm_bytes} if job.vllm_sleeps else {}

    # the larger of training and evaluation
    rows = min(job.max_rows, job.responses)
    cache = kv_cache(shape, job, rows, job.row)
    eval_rows = min(job.max_rows, job.eval_rows)
    other = kv_cache(shape, job, eval_rows, job.prompt_tokens + job.eval_tokens)
    return {
        "compute copy": 0 if job.sharded else compute_copy(shape, job),
        "KV cache": max(cache, other),
        "logits": max(rows, eval_rows) * shape.vocabulary * SAMPLER_BYTES,
    }


def scoring(shape: Shape, job: Job) -> dict[str, int]:
    # one micro-batch without gradients
    tokens = job.micro_batch(job.score_tokens)
    found = {
        "compute copy": compute_copy(shape, job),
        "activations": tokens * (saved_by_block(shape, job) + shape.width * job.compute_bytes),
        "head": head_work(shape, job, backward=False),
        "tile": job.tile_bytes * 3 // 2,
    }
    if job.features:  # one (V,) sum per response of a micro-batch
        found["features"] = min(job.responses, tokens) * shape.vocabulary * FLOAT
    if job.reference and not shape.lora and job.offload_reference:
        found["reference"] = parameter_bytes(shape, job)
    return found


def update(shape: Shape, job: Job) -> dict[str, int]:
    # one micro-batch with gradients
    tokens = job.micro_batch(job.micro_batch_tokens)
    # gradients that pass through a block while it is in the backward: of its MLP, and of the
    # residual stream
    flowing = 2 * shape.intermediate * job.compute_bytes + 3 * shape.width * FLOAT
    hidden = shape.width * job.compute_bytes  # what the head keeps
    gathered = PREFETCH * shape.block * FLOAT if job.sharded else 0
    return {
        "compute copy": compute_copy(shape, job),
        "gradients": gradient_bytes(shape, job) + gathered,
        "activations": activations(shape, job, tokens) + tokens * (flowing + hidden),
        "head": head_work(shape, job, backward=True),
        "tile": job.tile_bytes * 3 // 2,
    }


def optimizer_step(shape: Shape, job: Job) -> dict[str, int]:
    """AdamW over all parameters at once holds one temporary of their size (torch's foreach)."""
    # gradients, and a temporary as large
    held = gradient_bytes(shape, job)
    return {"gradients": held} if job.offload_optimizer else {"gradients": held, "temporary": held}


def always(shape: Shape, job: Job) -> dict[str, int]:
    """What stays from the first update to the end."""
    found = {"parameters": parameter_bytes(shape, job)}

    if job.encoder_bytes and not job.offload_encoder:
        found["encoder"] = job.encoder_bytes
    if job.past_weights:
        found["past weights"] = job.past_weights * gradient_bytes(shape, job)

    # what may lie in host memory instead
    if not job.offload_optimizer:
        found["optimizer"] = optimizer_bytes(shape, job)
    if job.reference and not shape.lora and not job.offload_reference:
        found["reference"] = parameter_bytes(shape, job)
    if (
        job.vllm_bytes is None and job.sharded
    ):  # ranks do not decode in step: each has a sampler of its own
        found["sampler"] = shape.parameters * job.compute_bytes
    if job.vllm_bytes is not None and not job.vllm_sleeps:
        found["vllm"] = job.vllm_bytes
    return found


def encoding(shape: Shape, job: Job) -> dict[str, int]:
    """An encoder of its own, which embeds the responses before the update."""
    found = {"encoder forward": job.encoder_forward}
    if job.offload_encoder:
        found["encoder"] = job.encoder_bytes
    return found


PHASES = {
    "sampling": sampling,
    "scoring": scoring,
    "update": update,
    "optimizer step": optimizer_step,
}


@dataclass(slots=True, frozen=True)
class Estimate:
    """Bytes on one GPU: what is always there, and what each phase adds."""

    always: dict[str, int]
    phases: dict[str, dict[str, int]]

    def total(self, phase: str) -> int:
        return sum(chain(self.always.values(), self.phases[phase].values()))

    @property
    def peak(self) -> tuple[str, int]:
        """The phase that needs most, and how much."""
        name = max(self.phases, key=self.total)
        return name, self.total(name)

    def largest(self) -> list[str]:
        """Components of the peak phase, the largest first."""
        parts = self.always | self.phases[self.peak[0]]
        return sorted(parts, key=lambda name: -parts[name])


def estimate(shape: Shape, job: Job) -> Estimate:
    """Bytes that a job needs on one GPU."""
    phases = {name: phase(shape, job) for name, phase in PHASES.items()}
    if job.encoder_bytes:
        phases["encoding"] = encoding(shape, job)
    return Estimate(always(shape, job), phases)
