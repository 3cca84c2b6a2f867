"""Measurements on a few tokens that show whether a model's numbers will be right.

g2rl takes log-probabilities and gradient features from the last hidden states and the head, pads
micro-batches on the right without a mask, and scores in evaluation mode what training mode learns
from. Each of these is right for most architectures and silently wrong for some. Names do not tell
which, so this module measures, before the first rollout, and refuses what it finds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

from g2rl.policy.anatomy import UnsupportedModelError, text_config

TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4}
"""Largest relative difference of two computations of the same numbers, by dtype."""
ROUGH_TOLERANCE = 2e-2
"""The same for bfloat16 and other narrow dtypes, of which one rounding is 0.4 %."""
LARGE_LOGIT = 1e4
"""To this size the logits are scaled up, so that a cap shows that does nothing at the start."""

CAP_KEY = re.compile(r"(?=.*cap)(?=.*(logit|soft))(?!.*(attn|attention|router|gate|mlp|conf_))")
"""Keys of a configuration that set a soft cap of the final logits."""
SCALE_KEY = re.compile(r"(?=.*(logit|lm_head|output_mult))(?!.*(attn|attention|router|cap|keep))")
"""Keys of a configuration that may hold a factor of the final logits."""
LOSS_KEYS = ("output_router_logits", "z_loss_coefficient")
"""Keys of a configuration that add a loss to that of the tokens."""
FAILURES = (
    AttributeError,
    RuntimeError,
    TypeError,
    ValueError,
    LookupError,
    AssertionError,
    NotImplementedError,
)
"""What an architecture raises that does not understand how it is called."""


@dataclass(slots=True, frozen=True)
class LogitShape:
    """What a model does to the output of its head: z = cap tanh(scale (W h + b) / cap)."""

    scale: float = 1.0
    """Factor of the logits (Cohere, Granite)."""
    cap: float | None = None
    """Soft cap of the logits (Gemma 2); None leaves them as they are."""

    def __call__(self, logits: Tensor) -> Tensor:
        """The model's logits from the output of its head; the same tensor if nothing is done."""
        # in this order: Muse scales its logits before it caps them
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.cap is not None:
            logits = self.cap * torch.tanh(logits / self.cap)
        return logits


def tolerance_of(tensor: Tensor) -> float:
    """Largest relative difference that rounding explains, in the dtype of the tensor."""
    return TOLERANCE.get(tensor.dtype, ROUGH_TOLERANCE)


def relative_gap(expected: Tensor, found: Tensor) -> float:
    """Largest difference of two tensors, as a share of the largest expected number."""
    # float64 adds no rounding of its own
    expected, found = expected.double(), found.double()
    return float((expected - found).abs().max() / expected.abs().max().clamp_min(1e-12))


def probe_ids(first: int, count: int, vocabulary: int, device: torch.device) -> Tensor:
    """Token ids (1, count) that follow one another from `first`; any tokens would do."""
    ids = torch.arange(first, first + count, device=device) % vocabulary
    return ids.unsqueeze(0)


def logit_keys(config: Any, pattern: re.Pattern[str]) -> dict[str, float]:
    """Settings of the language model whose name fits a pattern and whose value is a number."""
    # true and false are numbers in Python, and 0 switches a setting off
    found: dict[str, float] = {}
    for name, value in text_config(config).to_dict().items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if is_number and value and pattern.match(name):
            found[name] = float(value)
    return found


@torch.no_grad()
def measure_logits(model: Any, decoder: nn.Module) -> LogitShape:
    """Find out what the model does to the output of its head.

    The logits of a short input are compared with the head applied to the last hidden states, once
    as they are and once with hidden states so large that any cap shows. The configuration's keys
    give the exact numbers.

    Args:
        model: a causal LM in evaluation mode.
        decoder: the model without its head.

    Raises:
        UnsupportedModelError: the logits are neither scaled nor capped outputs of the head.
    """
    # hidden states, the head's outputs and the model's logits of a short input
    head = model.get_output_embeddings()
    name = type(model).__name__
    ids_BL = probe_ids(1, 8, head.weight.shape[0], head.weight.device)
    try:
        hidden = decoder(input_ids=ids_BL, use_cache=False).last_hidden_state
        raw = head(hidden)
        plain = model(input_ids=ids_BL, use_cache=False).logits
    except FAILURES as error:
        raise UnsupportedModelError(
            f"{name} cannot be scored from token ids alone ({type(error).__name__}: {error}); "
            "train another architecture"
        ) from error

    # a model may mask logits out, but its head never makes such numbers of sound weights
    if not torch.isfinite(raw).all():
        raise UnsupportedModelError(
            f"the outputs of the head of {name} are not finite: some of its weights are NaN or "
            "infinite, or overflow; mend the checkpoint"
        )

    # all logits, and those of hidden states that are blown up
    factor = LARGE_LOGIT / float(raw.abs().max().float().clamp_min(1e-6))
    with _inputs_scaled(head, factor):
        large = model(input_ids=ids_BL, use_cache=False).logits
    large_raw = head(hidden * factor)

    # what explains both
    shape = _shape_that_fits(model.config, raw, plain, large_raw, large)
    if shape is None:
        gap = math.nan if plain.shape != raw.shape else relative_gap(plain, raw)
        raise UnsupportedModelError(
            f"the logits of {name} are not its head applied to its last hidden state, neither "
            f"scaled nor soft-capped by a key of its configuration (relative difference {gap:.3g}, "
            "or more once logits grow): log-probs and gradient features would be wrong; train "
            "another architecture"
        )
    return shape


@contextmanager
def _inputs_scaled(head: nn.Module, factor: float) -> Iterator[None]:
    """While the context lasts, a head multiplies its inputs by a factor."""

    # the head's other inputs, if it has any, are passed on
    def scale(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (inputs[0] * factor, *inputs[1:])

    hook = head.register_forward_pre_hook(scale)
    try:
        yield
    finally:
        hook.remove()


def _shape_that_fits(
    config: Any, raw: Tensor, plain: Tensor, large_raw: Tensor, large: Tensor
) -> LogitShape | None:
    """The scale and the cap under which the head's outputs are the model's logits, or None."""
    # a vocabulary that is cut, or logits that are masked out
    if raw.shape != plain.shape or not torch.isfinite(large).all():
        return None

    # the factor that fits best where no cap has an effect yet, and exact ones of the configuration
    fitted = float((raw.double() * plain.double()).sum() / raw.double().square().sum())
    scales = [1.0]
    for value in logit_keys(config, SCALE_KEY).values():
        scales += [value, 1.0 / value]
    if raw.dtype in TOLERANCE:
        scales.append(fitted)

    # the first pair under which small and large logits agree
    caps: list[float | None] = [None, *logit_keys(config, CAP_KEY).values()]
    for cap in caps:
        for scale in scales:
            shape = LogitShape(scale, cap)
            fits_small = relative_gap(plain, shape(raw.float())) < tolerance_of(plain)
            fits_large = relative_gap(large, shape(large_raw.float())) < tolerance_of(large)
            if fits_small and fits_large:
                return shape
    return None


def check_class(model: Any) -> None:
    """Make sure that what a run exports can be loaded as a causal LM again.

    Raises:
        UnsupportedModelError: transformers knows no causal LM for the model's own configuration,
            which is that of a part of a larger model.
    """
    # an outer configuration may have led here, but the model keeps its own alone
    if type(model.config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        return
    raise UnsupportedModelError(
        f"{type(model).__name__} is a part of a larger model: transformers would write its "
        f"{type(model.config).__name__} and then find no causal LM for it, so that neither an "
        "export nor engine=vllm could load it; train a text model"
    )


def check_losses(model: Any) -> None:
    """Refuse a model whose configuration asks for a loss of its own beside that of the tokens.

    transformers adds such losses where it computes the loss itself, which it does not do here.

    Raises:
        UnsupportedModelError: naming the key of the configuration.
    """
    # the balance of a mixture's experts, and a penalty on the size of logits
    settings = text_config(model.config).to_dict()
    asked = [name for name in LOSS_KEYS if settings.get(name)]
    if asked:
        off = "false" if settings[asked[0]] is True else "0"
        raise UnsupportedModelError(
            f"the configuration of {type(model).__name__} asks for a loss of the model's own "
            f"({asked[0]}={settings[asked[0]]}: router balance or size of logits), which the loss "
            f"of g2rl has no place for; model.overrides.{asked[0]}={off} trains without it"
        )


@torch.no_grad()
def check_padding(model: Any, decoder: nn.Module) -> None:
    """Make sure that hidden states depend on the tokens before them in their own row alone.

    Micro-batches are padded on the right without an attention mask, which is exact for a causal
    model and only for such a one.

    Args:
        model: a causal LM in evaluation mode.
        decoder: the model without its head.

    Raises:
        UnsupportedModelError: what follows a token, or a neighbour in the batch, changes it.
    """
    head = model.get_output_embeddings()
    vocabulary, device = head.weight.shape[0], head.weight.device

    # one row by itself, and beside a longer one, where it is padded
    alone_BL = probe_ids(3, 9, vocabulary, device)
    neighbour_BL = probe_ids(5, 21, vocabulary, device)
    padded_BL = torch.nn.functional.pad(alone_BL, (0, 12))
    both_BL = torch.cat([neighbour_BL, padded_BL])
    alone = decoder(input_ids=alone_BL, use_cache=False).last_hidden_state[0]
    beside = decoder(input_ids=both_BL, use_cache=False).last_hidden_state[1, :9]

    # kernels for other shapes may round differently; `not <` also catches what is not a number
    gap = relative_gap(alone, beside)
    if not gap < 10 * tolerance_of(alone):
        raise UnsupportedModelError(
            f"the hidden states of {type(model).__name__} change by {gap:.3g} when padding follows "
            "or other rows stand beside: it is not causal (or, of a BERT, not yet: "
            "model.overrides.is_decoder=true), or its experts depend on the batch. g2rl pads "
            "micro-batches; train a causal decoder"
        )


@torch.no_grad()
def modes_differ(forward: Callable[[], Tensor], train: Callable[[bool], Any]) -> bool:
    """Whether a forward in training mode yields other numbers than one in evaluation mode.

    Args:
        forward: computes the numbers of a fixed input.
        train: switches to training mode, or back.
    """
    # the generators of a run must not notice
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        train(False)
        calm, again = forward(), forward()
        train(True)
        noisy = forward()
        with _rare_events():
            noisiest = forward()
        train(False)

    # two forwards in one mode may differ in the last bits on a GPU
    floor = 10 * relative_gap(calm, again)
    return any(relative_gap(calm, one) > floor for one in (noisy, noisiest))


@contextmanager
def _rare_events() -> Iterator[None]:
    """While the context lasts, what happens with a small probability happens.

    A layer that is skipped now and then (layer drop, stochastic depth) is skipped when `torch.rand`
    draws less than the rate. One forward would show a rate of 5 % in one of twenty trials.
    """
    draw = torch.rand

    # a constant number for every draw, of the shape and kind that was asked for
    def lowest(*arguments: Any, **options: Any) -> Tensor:
        return draw(*arguments, **options).zero_()

    torch.rand = lowest
    try:
        yield
    finally:
        torch.rand = draw


def noise_keys(config: Mapping[str, Any]) -> list[str]:
    """Keys of a configuration that may switch the noise of training mode on, for messages."""
    # attention_dropout, resid_pdrop, router_jitter_noise, ..., in nested parts too
    found: list[str] = []
    for name, value in config.items():
        if isinstance(value, Mapping):
            found += noise_keys(value)
        elif isinstance(value, float) and value > 0 and re.search("drop|jitter|noise", name):
            found.append(name)
    return found
