"""A model that another trainer owns, scored as g2rl scores its own policy.

Features, entropies and hidden states need the weights of the head beside the hidden states. Under
FSDP, DeepSpeed and PEFT both are there, whole, only while the model's own forward runs. So the
forward of the model is extended: called with a head pass, it runs that pass in place of its own
work; called without one, it does what it did before.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Unpack

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from g2rl.policy.batching import MicroBatch
from g2rl.policy.lm_head import HeadOutput
from g2rl.policy.policy import ForwardOptions, Policy

Gatherer = Callable[[Tensor, Tensor | None], AbstractContextManager[Any]]
"""Makes a context in which weight and bias of the head are whole, as DeepSpeed's ZeRO-3 needs."""


def add_head_pass(model: Any) -> None:
    """Let `model(input_ids=..., head_pass=run)` return `run()`, from inside the model's forward.

    Args:
        model: a causal LM of transformers, without the wrappers of PEFT or of a trainer.
    """
    # what other libraries have made of the forward stays under this one
    before = model.forward

    # transformers' generate checks its arguments against the signature of the class
    @functools.wraps(type(model).forward)
    def forward(
        self: Any, *args: Any, head_pass: Callable[[], HeadOutput] | None = None, **kwargs: Any
    ) -> Any:
        if head_pass is None:
            return before(*args, **kwargs)
        return head_pass()

    model.forward = types.MethodType(forward, model)


@contextmanager
def whole_head(head: Any) -> Iterator[None]:
    """Give the head whole weights where FSDP2 keeps them divided, and the divided ones back."""
    # parameters that are whole already stay as they are
    divided: dict[str, Any] = {}
    for name, parameter in head.named_parameters(recurse=False):
        if isinstance(parameter, DTensor):
            divided[name] = parameter

    # under the same name, where linear layers and g2rl look
    for name, parameter in divided.items():
        head._parameters[name] = nn.Parameter(parameter.full_tensor(), requires_grad=False)
    try:
        yield
    finally:
        head._parameters.update(divided)


class HostedPolicy:
    """What `g2rl.policy.scoring.score` scores with, around a model that a trainer owns.

    Args:
        model: the causal LM itself.
        call: the model as the trainer calls it, with all of its wrappers.
        device: where the trainer computes.
        compute_dtype: "bfloat16" where the trainer computes so with float32 weights; None computes
            in the dtype of the weights.
        gather_head: for weights that DeepSpeed has divided; None for none.

    Raises:
        TypeError: the output head is not linear.
    """

    shares_prefixes = False
    """The trainer's own forward pads rows."""

    def __init__(
        self,
        model: Any,
        call: Callable[[], Any],
        device: torch.device,
        *,
        compute_dtype: str | None = None,
        gather_head: Gatherer | None = None,
    ) -> None:
        # the model is another trainer's, so nothing in it is replaced
        self.policy = Policy(model, compute_dtype=compute_dtype, lean_modules=False)
        self.call, self.device = call, device
        self.gather_head = gather_head
        add_head_pass(model)

    @property
    def training(self) -> bool:
        """Whether the model is in training mode."""
        return self.policy.model.training

    @training.setter
    def training(self, mode: bool) -> None:
        self.train(mode)

    def train(self, mode: bool = True) -> None:
        """Switch to training mode, or back."""
        self.call().train(mode)

    def eval(self) -> None:
        """Switch to evaluation mode: no dropout, no gradient checkpointing."""
        self.train(False)

    def modules(self) -> Iterator[nn.Module]:
        """The modules of the wrapped model, of which FSDP2 may have divided some."""
        return self.call().modules()

    def __call__(
        self, batch: MicroBatch, temperature: float = 1.0, **options: Unpack[ForwardOptions]
    ) -> HeadOutput:
        """Score the response tokens of a micro-batch, see `g2rl.policy.policy.Policy.forward`."""
        # the head may have been replaced since, by an adapter or by sharding
        head = self.policy.model.get_output_embeddings()

        def run() -> HeadOutput:
            """The pass of g2rl's own policy; the trainer's mixed precision is not the head's."""
            gathered: AbstractContextManager[Any] = nullcontext()
            if self.gather_head is not None:
                gathered = self.gather_head(head.weight, head.bias)
            with torch.autocast(self.device.type, enabled=False), whole_head(head), gathered:
                return self.policy(batch, temperature, **options)

        return self.call()(input_ids=batch.input_ids_BL, head_pass=run)
