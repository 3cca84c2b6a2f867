"""Parts of a model that are replaced by such as compute the same and keep less for the backward.

Of what a block of Qwen3 keeps in bfloat16, a third need not be kept (`norms`, `gated_mlp`;
docs/memory.md counts it). Whether a part computes what its replacement
does is tried, because neither the name of a class nor its looks tell: both run forward and
backward on a few random vectors, and have to agree bit by bit. What does not stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn

from g2rl.policy.checks import FAILURES
from g2rl.policy.gated_mlp import LeanGatedMLP
from g2rl.policy.norms import LeanRMSNorm

TRIAL_SHAPE = (2, 5)
"""Of the vectors that a part and its replacement are tried on."""
TRIAL_WIDTHS = {"hidden_size": 24, "intermediate_size": 40}
"""Of an MLP that is tried; how wide it is changes no operation."""
LAYERS = ("gate_proj", "up_proj", "down_proj")
"""Of a gated MLP, in transformers' words."""


def with_lean_modules(model: nn.Module) -> int:
    """Let norms and MLPs of a model keep less for their backward; it is changed in place.

    Names and values of weights stay as they are. What has hooks, or a forward of its own, stays.

    Args:
        model: of transformers, on any device.

    Returns:
        How many modules were replaced.
    """
    # a module may stand in several places
    replaced: dict[nn.Module, nn.Module] = {}
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            lean = replaced.get(child) or replacement_of(child)
            if lean is not None:
                replaced[child] = lean
                setattr(module, name, lean)
    return len(replaced)


def replacement_of(module: nn.Module) -> nn.Module | None:
    """What computes the same as a module and keeps less; None where nothing is known to."""
    is_altered = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
    if is_altered or "forward" in vars(module):
        return None
    if is_plain_norm(module):
        return LeanRMSNorm(module)
    return LeanGatedMLP(module) if is_plain_mlp(module) else None


def is_plain_norm(module: Any) -> bool:
    """Whether a module is a norm that `LeanRMSNorm` repeats bit by bit.

    Candidates look like Llama's norm, with a weight and a `variance_epsilon`.
    """
    kind: Any = type(module)
    if not kind.__name__.endswith("RMSNorm") or kind is LeanRMSNorm:
        return False
    weight, epsilon = getattr(module, "weight", None), getattr(module, "variance_epsilon", None)
    tensors = [*module.parameters(), *module.buffers()]
    if len(tensors) != 1 or tensors[0] is not weight or weight.dim() != 1:
        return False
    return isinstance(epsilon, float) and _is_repeated_norm(
        kind, kind.forward, len(weight), weight.dtype, epsilon
    )


def is_plain_mlp(module: Any) -> bool:
    """Whether a module is an MLP that `LeanGatedMLP` repeats bit by bit.

    Candidates look like Llama's MLP, with three layers, perhaps with adapters, and an activation.
    """
    kind: Any = type(module)
    config = getattr(module, "config", None)
    children = dict(module.named_children())
    if not kind.__name__.endswith("MLP") or kind is LeanGatedMLP or config is None:
        return False
    if children.keys() != {*LAYERS, "act_fn"} or [*module.parameters(recurse=False)]:
        return False

    # an activation without weights is told by its class
    activation = children["act_fn"]
    if [*activation.parameters()] or not isinstance(getattr(config, "hidden_act", None), str):
        return False
    dtype = next(module.gate_proj.parameters()).dtype
    classes: tuple[Any, Any] = (type(config), type(activation))
    return _is_repeated_mlp(kind, kind.forward, config.hidden_act, classes, dtype)


@cache
def _is_repeated_norm(
    kind: Any, forward: object, width: int, dtype: torch.dtype, epsilon: float
) -> bool:
    """Try a norm with random weights.

    Args:
        kind: class of the norm.
        forward: of the class, which a library may replace later; then it is tried again.
        width: D.
        dtype: of the weight.
        epsilon: of the norm.
    """
    # a class that is built otherwise is another norm
    return _is_repeated(lambda: kind(width, eps=epsilon), LeanRMSNorm, width, dtype)


@cache
def _is_repeated_mlp(
    kind: Any,
    forward: object,
    activation_name: str,
    classes: tuple[Any, Any],
    dtype: torch.dtype,
) -> bool:
    """Try a small MLP with random weights.

    Args:
        kind: class of the MLP.
        forward: of the class, which a library may replace later; then it is tried again.
        activation_name: in its configuration.
        classes: of the configuration and of the activation.
        dtype: of the weights.
    """
    config_class, activation_class = classes

    def build() -> nn.Module:
        config = config_class(hidden_act=activation_name)
        for name, width in TRIAL_WIDTHS.items():
            setattr(config, name, width)
        mlp = kind(config)
        if type(mlp.act_fn) is not activation_class:
            raise ValueError("somebody has exchanged the activation")
        return cast("nn.Module", mlp)

    return _is_repeated(build, LeanGatedMLP, TRIAL_WIDTHS["hidden_size"], dtype)


def _is_repeated(
    build: Callable[[], nn.Module],
    lean_class: Callable[[nn.Module], nn.Module],
    width: int,
    dtype: torch.dtype,
) -> bool:
    """Try a module and its replacement on the CPU, on vectors in the dtype of its weights and as
    mixed precision has them."""
    # one that is built or called otherwise is another module
    try:
        # new layers draw weights, which may not move the random numbers of a run
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            module = build().to(dtype)
        return _agree(module, lean_class(module), width, dtype)
    except FAILURES:
        return False


def _agree(module: nn.Module, lean: nn.Module, width: int, dtype: torch.dtype) -> bool:
    """Whether two modules that share weights have equal outputs and gradients."""
    # the weights are random, and so are the vectors
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))

    # mixed precision is for weights in float32, and makes vectors of either dtype
    cases = [(dtype, False)]
    if dtype == torch.float32:
        cases += [(torch.float32, True), (torch.bfloat16, True)]
    for input_dtype, is_mixed in cases:
        x, grad = torch.randn(2, *TRIAL_SHAPE, width, generator=generator).to(input_dtype)
        theirs = _output_and_gradients(module, x, grad, is_mixed)
        ours = _output_and_gradients(lean, x, grad, is_mixed)
        for expected, found in zip(theirs, ours, strict=True):
            if expected.dtype != found.dtype or not torch.equal(expected, found):
                return False
    return True


def _output_and_gradients(
    module: nn.Module, x: Tensor, grad: Tensor, is_mixed: bool
) -> list[Tensor]:
    """A module's output, and the gradients of its input and weights, perhaps under autocast."""
    x = x.clone().requires_grad_()
    with torch.enable_grad(), torch.autocast("cpu", torch.bfloat16, enabled=is_mixed):
        output = module(x)
    gradients = torch.autograd.grad(output, [x, *module.parameters()], grad.to(output.dtype))
    return [output.detach(), *gradients]
