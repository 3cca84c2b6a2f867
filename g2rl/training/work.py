"""How much a run computes: tokens and floating-point operations, counted forward by forward.

Operations are those of matrix products, by formula: 2 for each weight of a matrix that a token
passes, 4 H d for each pair of a query and a key that it may see (all H heads of width d), and for a
backward twice as many, less where weights are frozen, more where activations or logits are computed
again. Padding is counted as computed. Left out are elementwise operations, the thin products that
sum the residuals of features, stacked experts, and the attention of packed rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from g2rl.engines.engine import Engine, Key, SamplerMemory
from g2rl.policy.anatomy import decoder_of, text_config
from g2rl.policy.batching import MicroBatch
from g2rl.policy.lm_head import HeadOutput
from g2rl.policy.policy import Policy
from g2rl.types import Completion, SamplingParams


@dataclass(slots=True)
class Work:
    """What some forwards and backwards came to."""

    flop: float = 0.0
    computed_tokens: int = 0
    """Token places that a forward of the model went through, padding included."""
    real_tokens: int = 0
    """Those of them that hold a token of a prompt or a response."""

    def add(self, other: Work) -> None:
        """Add the work of other forwards."""
        self.flop += other.flop
        self.computed_tokens += other.computed_tokens
        self.real_tokens += other.real_tokens


@dataclass(slots=True, frozen=True)
class ModelSize:
    """A causal LM in the numbers that decide its matrix products."""

    matrices: int
    """Weights of the decoder's matrices, the look-up tables left out."""
    trained_matrices: int
    head: int
    """Weights of the output head, V D."""
    head_trains: bool
    attention: int
    """Layers times heads times width of a head; 0 where the configuration does not say."""
    recomputes: bool
    """Whether activations are computed again in the backward (gradient checkpointing)."""
    largest: tuple[int, int]
    """(out, in) of the decoder's largest matrix."""

    @classmethod
    def of(cls, model: Any) -> ModelSize:
        """Read the numbers off a model of transformers, whole or divided among processes."""
        # a look-up multiplies nothing; a tied head is counted as head
        matrices: list[nn.Parameter] = []
        for module in decoder_of(model).modules():
            if not isinstance(module, nn.Embedding):
                own = module.parameters(recurse=False)
                matrices += [weight for weight in own if weight.ndim == 2]
        largest = max(matrices, key=lambda weight: weight.numel())
        trained = [weight for weight in matrices if weight.requires_grad]

        # the widths of attention, where the configuration has the usual names
        config = text_config(model.config)
        layers = getattr(config, "num_hidden_layers", 0)
        heads = getattr(config, "num_attention_heads", 0)
        width = getattr(config, "head_dim", None) or config.hidden_size // max(heads, 1)

        head = model.get_output_embeddings().weight
        return cls(
            matrices=sum(weight.numel() for weight in matrices),
            trained_matrices=sum(weight.numel() for weight in trained),
            head=head.numel(),
            head_trains=head.requires_grad,
            attention=layers * heads * width,
            recomputes=any(getattr(m, "gradient_checkpointing", False) for m in model.modules()),
            largest=(largest.shape[0], largest.shape[1]),
        )

    def forward(self, tokens: int, pairs: int) -> float:
        """Operations of the decoder for some tokens, with their pairs of query and key."""
        return 2.0 * self.matrices * tokens + 4.0 * self.attention * pairs

    def backward(self, tokens: int, pairs: int) -> float:
        """Operations of the backward of that forward."""
        # gradients of activations always, those of weights where they train
        products = 2.0 * (self.matrices + self.trained_matrices) * tokens
        flop = products + 8.0 * self.attention * pairs
        return flop + self.forward(tokens, pairs) if self.recomputes else flop

    def head_passes(self, differentiated: bool, fused: bool) -> tuple[int, int]:
        """Products with the head in a forward and in its backward, in units of 2 T V D.

        Args:
            differentiated: a backward will follow.
            fused: the head differentiates its loss in the forward.
        """
        if not differentiated:
            return 1, 0
        gradients = 1 + self.head_trains
        # a head that is not fused computes its logits again
        return (1 + gradients, 0) if fused else (1, 1 + gradients)


def causal_pairs(rows: int, length: int, past: int = 0) -> int:
    """Pairs of a query and a key that it may see: `length` new tokens behind `past` old ones."""
    return rows * (length * past + length * (length + 1) // 2)


class WorkMeter:
    """Counts what policies and engine compute, by hooks on their modules; changes no number.

    Args:
        on_forward: called at the beginning of every forward.
    """

    def __init__(self, on_forward: Callable[[], None] | None = None) -> None:
        self.on_forward = on_forward or (lambda: None)
        self._work = Work()
        self._in_policy = False
        self._hooks: list[RemovableHandle] = []

    def take(self) -> Work:
        """What has been computed since the last call."""
        work, self._work = self._work, Work()
        return work

    def add(self, work: Work) -> None:
        """Count work that no hook has seen."""
        self._work.add(work)

    def watch_policy(self, policy: Policy) -> None:
        """Count every forward of a policy, and its backward when that comes."""
        size = ModelSize.of(policy.model)

        def before(_: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            self.on_forward()
            self._in_policy = True

        def after(
            _: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any], output: HeadOutput
        ) -> None:
            self._in_policy = False
            batch: MicroBatch = args[0] if args else keywords["batch"]
            self._count(size, batch, output)

        self._hooks.append(policy.register_forward_pre_hook(before, with_kwargs=True))
        self._hooks.append(policy.register_forward_hook(after, with_kwargs=True))

    def watch_decoding(self, model: Any) -> None:
        """Count the forwards of a model that an engine decodes with."""
        size = ModelSize.of(model)

        def decoder_runs(_: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            # a policy's forward runs through the same module
            if self._in_policy or "input_ids" not in keywords:
                return
            self.on_forward()
            rows, length = keywords["input_ids"].shape
            mask = keywords.get("attention_mask")
            past = 0 if mask is None else mask.shape[1] - length
            flop = size.forward(rows * length, causal_pairs(rows, length, past))
            self._work.add(Work(flop, rows * length))

        def head_runs(_: nn.Module, args: tuple[Any, ...]) -> None:
            self._work.flop += 2.0 * size.head * (args[0].numel() // args[0].shape[-1])

        decoder, head = decoder_of(model), model.get_output_embeddings()
        self._hooks.append(decoder.register_forward_pre_hook(decoder_runs, with_kwargs=True))
        self._hooks.append(head.register_forward_pre_hook(head_runs))

    def close(self) -> None:
        """Take the hooks away."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _count(self, size: ModelSize, batch: MicroBatch, output: HeadOutput) -> None:
        """Count a policy's forward, and its backward as soon as a gradient arrives."""
        # packed rows attend in blocks of their own, which are not counted
        rows, length = batch.input_ids_BL.shape
        tokens, scored = rows * length, batch.targets_T.numel()
        pairs = causal_pairs(rows, length) if batch.layout is None else 0

        # the head's products come with the forward, or with the backward
        differentiable = output.logps_T if output.loss is None else output.loss
        head_unit = 2.0 * size.head * scored
        now, later = size.head_passes(differentiable.requires_grad, output.loss is not None)
        flop = size.forward(tokens, pairs) + now * head_unit
        if output.features_ND is not None:
            flop += 2.0 * size.head * output.features_ND.shape[0]
        self._work.add(Work(flop, tokens, batch.real_tokens))

        if differentiable.requires_grad:
            backward = size.backward(tokens, pairs) + later * head_unit

            def gradient_arrives(_: Tensor) -> None:
                self._work.flop += backward

            differentiable.register_hook(gradient_arrives)


class CountedEngine:
    """An engine whose real tokens are counted; it draws what the engine inside draws.

    Args:
        engine: draws.
        meter: counts.
        size: of the policy, for an engine whose own model no hook can see (vLLM): there the
            operations are those of the real tokens, and padding is not known.
    """

    def __init__(self, engine: Engine, meter: WorkMeter, size: ModelSize) -> None:
        self.engine, self.meter, self.size = engine, meter, size
        self.reports_logps = engine.reports_logps
        model = getattr(engine, "model", None)
        self.is_visible = isinstance(model, nn.Module)
        if self.is_visible:
            meter.watch_decoding(model)

    @staticmethod
    def sampler_memory(settings: Mapping[str, Any]) -> SamplerMemory:
        """See `Engine.sampler_memory`; memory is planned by the class of the engine inside."""
        raise NotImplementedError("the memory plan asks the class of the engine inside")

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        keys: Sequence[Key],
        samples: int,
        params: SamplingParams,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        """See `Engine.generate`."""
        groups = self.engine.generate(prompts, keys, samples, params, on_progress)
        self.meter.add(self._work_of(prompts, groups))
        return groups

    def _work_of(
        self, prompts: Sequence[Sequence[int]], groups: Sequence[Sequence[Completion]]
    ) -> Work:
        """Real tokens that were read: a prompt once, and of a response all but the last token."""
        tokens = pairs = scored = 0
        for prompt, group in zip(prompts, groups, strict=True):
            past = len(prompt) - 1
            tokens += past
            pairs += causal_pairs(1, past)
            for completion in group:
                length = len(completion.token_ids)
                tokens += length
                scored += length
                pairs += causal_pairs(1, length, past)
        if self.is_visible:
            return Work(real_tokens=tokens)
        flop = self.size.forward(tokens, pairs) + 2.0 * self.size.head * scored
        return Work(flop, tokens, tokens)

    def push_weights(self) -> None:
        """See `Engine.push_weights`."""
        self.engine.push_weights()

    def metrics(self) -> dict[str, float]:
        """See `Engine.metrics`."""
        return self.engine.metrics()

    def close(self) -> None:
        """See `Engine.close`."""
        self.engine.close()


PRODUCT_ROWS = 2048
"""Rows of the products whose rate is measured: about a micro-batch of a small model."""


def product_rate(size: ModelSize, dtype: torch.dtype, device: torch.device) -> float:
    """Operations per second at which the device multiplies `PRODUCT_ROWS` rows by the model's
    largest matrix, the median of five measurements.

    No random number is drawn, so that a run may go on as if nothing had been measured.
    """
    outer, inner = size.largest
    left = torch.full((PRODUCT_ROWS, inner), 0.5, dtype=dtype, device=device)
    right = torch.full((outer, inner), 0.5, dtype=dtype, device=device)
    flop = 2.0 * PRODUCT_ROWS * inner * outer
    times = max(1, int(1e9 / flop))

    # the first measurement warms up
    rates: list[float] = []
    for _ in range(6):
        started = _now(device)
        for _ in range(times):
            left @ right.T
        rates.append(flop * times / (_now(device) - started))
    return sorted(rates[1:])[2]


def _now(device: torch.device) -> float:
    """Seconds of a clock, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
