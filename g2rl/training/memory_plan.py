"""The memory plan of a run, before any weight is loaded: does it fit, and which setting helps if
not.

`speed/memory_table.py` prints the table of docs/memory.md from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from g2rl.policy.anatomy import text_config
from g2rl.policy.gated_mlp import LeanGatedMLP
from g2rl.policy.lean_modules import with_lean_modules
from g2rl.policy.loading import build
from g2rl.policy.lora import LoraSettings, target_modules
from g2rl.policy.norms import LeanRMSNorm
from g2rl.policy.weights import decoder_blocks
from g2rl.training.memory import Estimate, Job, Shape, estimate

GIB = 1 << 30
MIXED = "differs between layers"
NEEDED_SIZES = (
    "num_hidden_layers",
    "hidden_size",
    "num_attention_heads",
    "intermediate_size",
)
"""What a configuration has to say for a plan."""
TIGHT = 0.9  # of the device; kernels' working memory and fragmentation want the rest
KNOBS = {
    "parameters": "parallel=fsdp on more GPUs",
    "optimizer": "model.lora.r=16, parallel=fsdp on more GPUs, or the optimizer's CPU offload",
    "gradients": "model.lora.r=16, or parallel=fsdp on more GPUs",
    "temporary": "model.lora.r=16, or parallel=fsdp on more GPUs",
    "reference": "the reference's CPU offload, model.lora.r=16, or algorithm.kl_coef=0",
    "compute copy": "parallel=fsdp on more GPUs",
    "past weights": "trainer.lag",
    "encoder": "another encoder, or where it has them encoder.offload=true, encoder.dtype=bfloat16",
    "encoder forward": "encoder.token_budget, where the encoder has it",
    "sampler": "engine=vllm, or model.compute_dtype=bfloat16",
    "KV cache": "engine.max_rows={max_rows}, task.max_response_tokens, or engine=vllm",
    "logits": "engine.max_rows={max_rows}",
    "activations": (
        "{checkpointing}optimizer.micro_batch_tokens={micro_batch_tokens}, or "
        "task.max_response_tokens"
    ),
    "head": "parallel=fsdp on more GPUs, for what stays beside it",
    "tile": "model.tile_mb",
    "features": "trainer.score_tokens",
    "vllm": "engine.gpu_memory_utilization",
}


class PlanError(ValueError):
    """The run cannot fit into the memory of its device."""


def shape_of(config: Any, lora: LoraSettings | None = None) -> Shape:
    """Numbers of the model that a configuration describes; it is built without memory (meta
    device).

    Raises:
        ValueError: an architecture whose blocks are not understood, or that cannot be built.
    """
    with torch.device("meta"):
        model = build(config)

    # what a plan has to know, of the language model alone
    outer, config = config, text_config(config)
    blocks = decoder_blocks(model)
    sizes = [_size(config, name) for name in NEEDED_SIZES]
    optional = [_size(config, name) for name in ("num_key_value_heads", "head_dim")]
    if blocks is None or not all(isinstance(size, int) for size in sizes) or MIXED in optional:
        raise ValueError(
            f"no memory plan for model type {outer.model_type}; plan=off goes on without"
        )

    # sizes
    names = {name.rsplit(".", 1)[-1] for name, _ in blocks[0].named_modules()}
    parameters = sum(p.numel() for p in model.parameters())
    lean_norms, lean_mlps = _lean_parts(model)
    adapters, ranks, on_head = _adapters(model, blocks, lora)
    return Shape(
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        heads=config.num_attention_heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or config.num_attention_heads,
        head_dim=getattr(config, "head_dim", None)
        or config.hidden_size // config.num_attention_heads,
        intermediate=config.intermediate_size,
        vocabulary=model.get_output_embeddings().weight.shape[0],
        parameters=parameters + adapters,
        trained=adapters if lora else parameters,
        block=max(sum(p.numel() for p in block.parameters()) for block in blocks),
        qk_norm="q_norm" in names,
        lean_norms=lean_norms,
        lean_mlps=lean_mlps,
        gated="gate_proj" in names,
        lora=lora is not None,
        lora_head=on_head,
        lora_ranks=ranks,
    )


def _lean_parts(model: nn.Module) -> tuple[bool, bool]:
    """Replace parts of a model as a policy does, and tell whether it were all norms, all MLPs."""
    with_lean_modules(model)

    # norms and MLPs that were not replaced may be of any class, so their names tell what they are
    norms: list[nn.Module] = []
    mlps: list[nn.Module] = []
    for module in model.modules():
        name = type(module).__name__.lower()
        if name.endswith("norm"):
            norms.append(module)
        elif "mlp" in name or hasattr(module, "act_fn"):
            mlps.append(module)

    # a single one that was not replaced keeps more, so the plan counts all of them as plain
    are_lean_norms = all(isinstance(norm, LeanRMSNorm) for norm in norms)
    are_lean_mlps = all(isinstance(mlp, LeanGatedMLP) for mlp in mlps)
    return bool(norms) and are_lean_norms, bool(mlps) and are_lean_mlps


def _size(config: Any, name: str) -> Any:
    """A size of the model; None if it has none of that name, `MIXED` if layers differ in it."""
    # transformers refuses to name one value for all layers (Gemma 4)
    try:
        return getattr(config, name, None)
    except RuntimeError:
        return MIXED


def _adapters(
    model: Any, blocks: nn.ModuleList, lora: LoraSettings | None
) -> tuple[int, int, bool]:
    """Parameters of all adapters, ranks of one block, and whether the head has one."""
    if lora is None:
        return 0, 0, False
    chosen = set(target_modules(model, lora))

    # layers that get an adapter
    head = model.get_output_embeddings()
    adapted = [
        module
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and (path.rsplit(".", 1)[-1] in chosen or (module is head and lora.include_head))
    ]

    # inside one block, and on the head
    inside = set(blocks[0].modules())
    size = sum(lora.r * (module.in_features + module.out_features) for module in adapted)
    return size, lora.r * sum(module in inside for module in adapted), head in adapted


def device_memory(device: torch.device) -> int:
    """Bytes of a GPU, or those that are free in the machine's memory."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    with open("/proc/meminfo", encoding="ascii") as lines:
        facts = dict(line.split(":", 1) for line in lines)
    return int(facts["MemAvailable"].split()[0]) << 10


@dataclass(slots=True, frozen=True)
class Plan:
    """An estimate beside the memory there is."""

    shape: Shape
    job: Job
    memory: int
    """Bytes of the device."""

    @property
    def estimate(self) -> Estimate:
        return estimate(self.shape, self.job)

    @property
    def fits(self) -> bool:
        return self.estimate.peak[1] <= self.memory

    def lines(self) -> list[str]:
        """The plan as a small table."""
        found, job = self.estimate, self.job
        how = "sharded over" if job.sharded else "each of"

        # the heading says for which devices, and that nothing was measured
        rows = [
            f"memory plan, GiB ({how} {job.gpus} device{'s' * (job.gpus > 1)} with "
            f"{self.memory / GIB:.1f};",
            "computed from the configuration, not measured: docs/memory.md)",
            f"  {'always':<15}{sum(found.always.values()) / GIB:>8.1f}   {_parts(found.always)}",
        ]
        for name, parts in found.phases.items():
            rows.append(f"  {name:<15}{found.total(name) / GIB:>8.1f}   always + {_parts(parts)}")
        return rows

    def warning(self) -> str | None:
        """A remark when it fits with little to spare."""
        # tight means over this share
        name, peak = self.estimate.peak
        if not TIGHT * self.memory < peak <= self.memory:
            return None
        filled = f"{peak / GIB:.1f} of {self.memory / GIB:.1f} GiB"
        return f"memory is tight: {filled} in {name}; {self.advice()}"

    def refuse(self) -> None:
        """Stop a run that cannot fit.

        Raises:
            PlanError: with the phase, its largest components and the settings that make them
                smaller.
        """
        if self.fits:
            return

        # the phase that needs most decides
        name, peak = self.estimate.peak
        raise PlanError(
            f"{name} needs about {peak / GIB:.1f} GiB and the device has {self.memory / GIB:.1f}: "
            f"{self.advice()}; plan=off goes on all the same"
        )

    def advice(self) -> str:
        """The two largest components of the peak phase, each with its knobs."""
        # the two largest
        found = self.estimate
        parts = found.always | found.phases[found.peak[0]]
        said = [
            f"{name} {parts[name] / GIB:.1f} (smaller with {self.knob(name)})"
            for name in found.largest()[:2]
        ]
        return "largest are " + " and ".join(said)

    def knob(self, component: str) -> str:
        """The settings that make a component smaller."""
        return KNOBS[component].format(
            max_rows=self.halved("max_rows"),
            micro_batch_tokens=self.halved("micro_batch_tokens"),
            checkpointing="" if self.job.checkpointing else "model.gradient_checkpointing=true, ",
        )

    def halved(self, name: str) -> int:
        """A setting, halved until the run fits; a quarter of it where that alone does not help."""
        # halve until it fits
        value: int = getattr(self.job, name)
        trial = value // 2
        while trial > 0:
            changed: dict[str, Any] = {name: trial}
            if replace(self, job=replace(self.job, **changed)).fits:
                return trial
            trial //= 2
        return max(value // 4, 1)


def _parts(parts: Mapping[str, int]) -> str:
    return (
        ", ".join(f"{name} {size / GIB:.1f}" for name, size in parts.items() if size >= GIB // 20)
        or "less than 0.05"
    )
