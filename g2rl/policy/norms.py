"""An RMSNorm that keeps only its input for the backward, with the same numbers to the last bit.

In transformers a norm is written in operations of torch. Autograd then keeps the input in float32
and the normed input, and runs a dozen operations backward, each of which makes a new tensor.
The norm of this module keeps the input as it came. Its backward computes the normed input again
and writes half of its results into tensors that are there already. It rounds at the same places as
autograd does, so gradients are equal bit by bit, in every dtype.

For Qwen3 in bfloat16 this saves a quarter of what a block keeps for each token (docs/memory.md).
`g2rl.policy.lean_modules` finds out which norms of a model it may replace.
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
        # without gradients there is nothing to keep
        if torch.is_grad_enabled():
            normed: Tensor = _RMSNorm.apply(x, x, self.weight, self.variance_epsilon)
            return normed
        return _normed(x, self.weight, self.variance_epsilon)[0]

    def extra_repr(self) -> str:
        """What stands in brackets behind the name of the module."""
        return f"{tuple(self.weight.shape)}, eps={self.variance_epsilon}"


class _RMSNorm(torch.autograd.Function):
    """The operations of a norm, and those of its backward.

    The input is an argument twice. In float32 it reaches the output by two ways, through the
    product with the scale and through the scale itself, and autograd adds the gradient of each way
    to the residual stream's by itself. Added to each other first, they would round otherwise.
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
        """Gradients of x (in two parts, or their sum and None) and of the weight, as needed."""
        [grad] = grads
        x, weight, scale = ctx.saved_tensors
        wide = x.to(torch.float32)
        direct = through_scale = weight_grad = None

        # of the weight: gradients times normed inputs, over all vectors
        if ctx.needs_input_grad[2]:
            normed = torch.mul(wide, scale).to(x.dtype)
            # the sum below follows the layout, and autograd's product has that of the gradient
            is_alike = normed.stride() == grad.stride()
            weighted = _product(normed, grad) if is_alike else grad * normed
            weight_grad = weighted.sum_to_size(weight.shape).to(weight.dtype)

        # of x; 2 x g is computed as x (2 g), since doubling the one number g of a vector is exact
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
