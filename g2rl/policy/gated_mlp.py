"""A gated MLP that keeps no activation for its backward, with the same numbers to the last bit.

For y = W_down (silu(g) * u), with g = W_gate x and u = W_up x, autograd keeps four tensors: g,
silu(g), u and their product. The MLP of this module does not keep silu(g). Its backward computes
silu(g) again, by the same operation on the same numbers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class LeanGatedMLP(nn.Module):
    """An MLP of transformers, W_down (silu(W_gate x) * W_up x), with a backward of its own.

    Shazeer 2020 (arXiv 2002.05202, Eq. 6).

    Args:
        mlp: the MLP to stand for, whose layers become this one's, adapters included.
    """

    def __init__(self, mlp: Any) -> None:
        super().__init__()

        # under the names of transformers, so that a state dict stays the same
        self.gate_proj: nn.Module = mlp.gate_proj
        self.up_proj: nn.Module = mlp.up_proj
        self.down_proj: nn.Module = mlp.down_proj
        self.act_fn: nn.Module = mlp.act_fn
        self.train(mlp.training)

    def forward(self, x: Tensor) -> Tensor:
        """The output of the MLP, shaped as `x` (..., D)."""
        # layers are called as modules, so that adapters and hooks of theirs act
        product: Tensor = _GatedProduct.apply(self.gate_proj(x), self.up_proj(x))
        output: Tensor = self.down_proj(product)
        return output


class _GatedProduct(torch.autograd.Function):
    """silu(gate) * up, of which gate and up are kept."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        """(..., F) and (..., F) to (..., F)."""
        ctx.save_for_backward(gate, up)
        activation = nn.functional.silu(gate)

        # nothing else needs the activation, so the product is written into its memory
        return activation.mul_(up) if activation.dtype == up.dtype else activation * up

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of gate and up."""
        [grad] = grads
        gate, up = ctx.saved_tensors

        # the activation once more, by the operation of the forward
        up_grad = (grad * nn.functional.silu(gate)).to(up.dtype)
        activation_grad = (grad * up).to(gate.dtype)
        return torch.ops.aten.silu_backward(activation_grad, gate), up_grad
