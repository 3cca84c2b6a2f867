"""What a module and the one that stands for it compute, to be compared bit by bit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def run(module: Any, x: Tensor, grad: Tensor, mixed: bool = False) -> list[Tensor]:
    """Output and gradients of the input and of all weights; the input comes from an operation, as
    in a model."""
    x = x.clone().requires_grad_()
    module.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        output = module(x * 1)
    output.backward(grad.to(output.dtype))
    assert x.grad is not None
    return [output.detach(), x.grad, *(weight.grad.clone() for weight in module.parameters())]


def assert_same(expected: list[Tensor], found: list[Tensor]) -> None:
    """Equal in dtype and in every bit."""
    for one, other in zip(expected, found, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
