"""RMSNorm that keeps its input alone for the backward, with the same numbers to the last bit.

Written out in operations of torch, as transformers has it, a norm keeps its input in float32 and
what it has normed, and its backward is a dozen operations with as many results. Here the backward
computes the normed input again, and has the rest in eight operations, of which half write into
memory that is there. Each rounds what the operation of autograd rounds that it stands for, so
gradients are equal bit by bit, in every dtype.

For Qwen3 in bfloat16 that is a quarter of what a block keeps for each token (docs/memory.md).
`g2rl.policy.lean_modules` tries which norms it may stand for.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class LeanRMSNorm(nn.Module):
    """A norm of transformers, y = w x / sqrt(mean(x²) + eps), with a backward of its own.

    Zhang and Sennrich 2019 (arXiv 1910.07467, Eq. 4). The mean is taken in float32, and what is
    normed has the dtype of x again before it is multiplied by the weight w.

    Args:
        norm: the norm to stand for, whose weight becomes this one's.
    """

    def __init__(self, norm: Any) -> None:
        super().__init__()

        # under the names of transformers, so that a state dict stays the same
        self.weight: nn.Parameter = norm.weight
        self.variance_epsilon: float = norm.variance_epsilon
        self.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        """The normed vectors, shaped as `x` (..., D)."""
        # what asks for no gradient is spared the wrapping
        if torch.is_grad_enabled():
            normed: Tensor = _RMSNorm.apply(x, x, self.weight, self.variance_epsilon)
            return normed
        return _normed(x, self.weight, self.variance_epsilon)[0]

    def extra_repr(self) -> str:
        """What stands in brackets behind the name of the module."""
        return f"{tuple(self.weight.shape)}, eps={self.variance_epsilon}"


class _RMSNorm(torch.autograd.Function):
    """The operations of a norm, and those of its backward.

    The input comes twice, because in float32 autograd adds two gradients to what a residual stream
    has gathered: that through the product with the scale, then that through the scale. Their sum
    would round otherwise.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, _same_x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        """(..., D) and (D,) to (..., D)."""
        output, scale = _normed(x, weight, epsilon)
        ctx.save_for_backward(x, weight, scale)
        return output

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        """Gradients of x, in two parts or in one, and of the weight, where they are asked for."""
        [grad] = grads
        x, weight, scale = ctx.saved_tensors
        wide = x.to(torch.float32)
        direct = through_scale = weight_grad = None

        # of the weight: gradients times normed inputs, over all vectors
        if ctx.needs_input_grad[2]:
            normed = torch.mul(wide, scale).to(x.dtype)
            is_alike = normed.stride() == grad.stride()  # or sums would be taken in another order
            weighted = _product(normed, grad) if is_alike else grad * normed
            weight_grad = weighted.sum_to_size(weight.shape).to(weight.dtype)

        # of x; the scale's gradient is one number a vector, and doubling that rounds nothing
        if ctx.needs_input_grad[0]:
            normed_grad = (grad * weight).to(x.dtype).to(torch.float32)
            product = normed_grad * wide
            scale_grad = product.sum(-1, keepdim=True)
            square_grad = scale_grad.mul_(-0.5).mul_(scale.pow(3)).div_(x.shape[-1])
            through_scale = torch.mul(wide, square_grad.mul_(2), out=product)
            direct = normed_grad.mul_(scale)

            # an input of another dtype was copied, and the copy gathered both
            if x.dtype != torch.float32:
                direct, through_scale = direct.add_(through_scale).to(x.dtype), None
        return direct, through_scale, weight_grad, None


def _normed(x: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Normed vectors (..., D), and the scale that each was multiplied by (..., 1)."""
    # one over the root of the mean of squares
    wide = x.to(torch.float32)
    squares = wide.pow(2)
    scale = squares.mean(-1, keepdim=True).add_(epsilon).rsqrt_()

    # the squares are not needed any more
    normed = torch.mul(wide, scale, out=squares).to(x.dtype)
    return _product(normed, weight), scale


def _product(values: Tensor, other: Tensor) -> Tensor:
    """The product of both, in the memory of the first where their dtypes allow it."""
    # a product of two dtypes has the wider one
    if torch.promote_types(values.dtype, other.dtype) == values.dtype:
        return values.mul_(other)
    return values * other
