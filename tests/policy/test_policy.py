"""The policy module: mixed precision and activation checkpointing change cost, not results."""

from __future__ import annotations

import copy
import inspect
from typing import get_type_hints

import pytest
import torch

from g2rl.policy.batching import MicroBatch, Sequences, make_micro_batch
from g2rl.policy.loading import LoadedModel, set_checkpointing
from g2rl.policy.policy import ForwardOptions, Policy


@pytest.fixture
def batch() -> MicroBatch:
    sequences = Sequences([[1, 3, 27, 30, 5]] * 3, [[23, 34, 2], [40, 2], [9, 30, 24, 31, 2]])
    return make_micro_batch(sequences, [0, 1, 2], torch.device("cpu"))


def gradients(policy: Policy, batch: MicroBatch) -> list[torch.Tensor]:
    policy.train()
    policy(batch).logps_T.sum().backward()
    return [p.grad for p in policy.parameters() if p.grad is not None]


def test_the_options_of_a_forward_are_those_that_other_scorers_pass_on() -> None:
    signature = inspect.signature(Policy.forward, eval_str=True)
    options = {name: part.annotation for name, part in signature.parameters.items()}
    for name in ("self", "batch", "temperature"):
        del options[name]
    assert options == get_type_hints(ForwardOptions)


def test_bfloat16_compute_stays_close_and_keeps_float32_weights(
    tiny: LoadedModel, batch: MicroBatch
) -> None:
    full = Policy(copy.deepcopy(tiny.model))
    mixed = Policy(copy.deepcopy(tiny.model), compute_dtype="bfloat16")
    a, b = full(batch, features=True), mixed(batch, features=True)
    assert b.logps_T.dtype == torch.float32
    torch.testing.assert_close(a.logps_T, b.logps_T, atol=0.15, rtol=0.05)
    assert not torch.equal(a.logps_T, b.logps_T), "nothing was computed in bfloat16"
    assert a.features_ND is not None
    assert b.features_ND is not None
    assert (torch.cosine_similarity(a.features_ND, b.features_ND) > 0.99).all()
    for p, q in zip(gradients(full, batch), gradients(mixed, batch), strict=True):
        assert q.dtype == torch.float32
        assert torch.cosine_similarity(p.flatten(), q.flatten(), dim=0) > 0.98


def test_checkpointing_gives_the_same_gradients(tiny: LoadedModel, batch: MicroBatch) -> None:
    plain, saving = copy.deepcopy(tiny.model), copy.deepcopy(tiny.model)
    set_checkpointing(saving, True)
    assert any(getattr(module, "gradient_checkpointing", False) for module in saving.modules())
    for p, q in zip(gradients(Policy(plain), batch), gradients(Policy(saving), batch), strict=True):
        torch.testing.assert_close(p, q)
    set_checkpointing(saving, False)
    assert not any(getattr(module, "gradient_checkpointing", False) for module in saving.modules())


def test_an_unknown_compute_dtype_is_refused(tiny: LoadedModel) -> None:
    with pytest.raises(ValueError, match="bfloat16"):
        Policy(tiny.model, compute_dtype="float16")
