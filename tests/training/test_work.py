"""Operations and tokens by formula, against a count of the products that were made."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from g2rl.engines.transformers import TransformersEngine
from g2rl.policy.batching import Sequences, make_micro_batch
from g2rl.policy.loading import LoadedModel
from g2rl.policy.packing import pack
from g2rl.policy.policy import Policy
from g2rl.training import work
from g2rl.training.work import CountedEngine, ModelSize, WorkMeter, causal_pairs
from g2rl.types import SamplingParams

SEQUENCES = Sequences([[1, 3, 27, 30, 5]] * 3, [[23, 34, 2], [40, 2], [9, 30, 24, 31, 2]])
REAL, PLACES = 25, 30
PRODUCTS = ("mm", "addmm")


class Products(TorchDispatchMode):
    """Counts the operations of the matrix products that torch makes, by their shapes."""

    def __init__(self, names: tuple[str, ...] = (*PRODUCTS, "addmm_")) -> None:
        super().__init__()
        self.names, self.flop = names, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._overloadpacket.__name__ in self.names:
            left, right = [x for x in args if isinstance(x, torch.Tensor)][-2:]
            self.flop += 2 * left.shape[0] * left.shape[1] * right.shape[1]
        return func(*args, **(kwargs or {}))


@pytest.fixture
def policy(tiny: LoadedModel) -> Policy:
    return Policy(copy.deepcopy(tiny.model))


@pytest.fixture
def without_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention is counted by other rules on both sides, so it is left out of a comparison."""
    of = ModelSize.of
    monkeypatch.setattr(
        work.ModelSize, "of", lambda model: dataclasses.replace(of(model), attention=0)
    )


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_forward_and_its_backward_equal_the_products_that_torch_counts(
    policy: Policy, without_attention: None, checkpointing: bool, frozen: bool
) -> None:
    if checkpointing:
        policy.model.gradient_checkpointing_enable()
    if frozen:  # as under LoRA: gradients pass through weights that do not train
        for name, weight in policy.model.named_parameters():
            weight.requires_grad_("norm" in name)
    meter = WorkMeter()
    meter.watch_policy(policy)
    batch = make_micro_batch(SEQUENCES, [0, 1, 2], policy.device)
    policy.train()
    with Products() as counter:
        policy(batch).logps_T.sum().backward()
    found = meter.take()
    if checkpointing:  # torch recomputes no block to its end, which the formula does not know
        assert counter.flop < found.flop < 1.2 * counter.flop
    else:
        assert found.flop == counter.flop
    assert (found.computed_tokens, found.real_tokens) == (PLACES, REAL)


def test_a_forward_alone_and_one_with_features(policy: Policy, without_attention: None) -> None:
    meter = WorkMeter()
    meter.watch_policy(policy)
    batch = make_micro_batch(SEQUENCES, [0, 1, 2], policy.device)
    for features in (False, True):
        # the thin product that sums residuals is left out of the formula
        with torch.no_grad(), Products(PRODUCTS) as counter:
            policy(batch, features=features)
        assert meter.take().flop == counter.flop


def test_the_attention_of_padded_rows_is_the_lower_half(policy: Policy) -> None:
    size = ModelSize.of(policy.model)
    config = policy.model.config
    assert size.attention == config.num_hidden_layers * config.num_attention_heads * config.head_dim
    assert causal_pairs(1, 4) == 1 + 2 + 3 + 4
    assert causal_pairs(2, 1, past=7) == 2 * 8
    assert size.forward(0, 5) == 4 * size.attention * 5


def test_packed_rows_have_no_padding(tiny: LoadedModel) -> None:
    policy = Policy(copy.deepcopy(tiny.model), prefix_sharing="on")
    policy.check()
    meter = WorkMeter()
    meter.watch_policy(policy)
    policy(pack(SEQUENCES, [0, 1, 2], policy.device))
    found = meter.take()
    assert found.computed_tokens == found.real_tokens == 5 + 2 + 1 + 4


def test_an_engine_draws_the_same_and_its_tokens_are_counted(
    policy: Policy, tiny: LoadedModel, without_attention: None
) -> None:
    params = SamplingParams(temperature=1.0, max_tokens=12)
    prompts, keys = [[1, 3, 27, 30, 5], [1, 3, 5]], [(0,), (1,)]
    plain = TransformersEngine(policy, tiny.tokenizer, tiny.stop_ids, drift_every=0)
    expected = plain.generate(prompts, keys, 3, params)

    meter = WorkMeter()
    engine = CountedEngine(plain, meter, ModelSize.of(policy.model))
    with Products() as counter:
        assert engine.generate(prompts, keys, 3, params) == expected
    found = meter.take()
    responses = [completion for group in expected for completion in group]
    drawn = sum(len(completion.token_ids) for completion in responses)
    assert found.real_tokens == 4 + 2 + drawn
    assert found.computed_tokens >= found.real_tokens
    assert found.flop == counter.flop
    meter.close()
    engine.generate(prompts, keys, 3, params)
    assert meter.take().flop == 0


def test_an_engine_with_a_hidden_model_counts_its_real_tokens(
    policy: Policy, tiny: LoadedModel
) -> None:
    plain = TransformersEngine(policy, tiny.tokenizer, tiny.stop_ids, drift_every=0)
    meter, size = WorkMeter(), ModelSize.of(policy.model)
    engine = CountedEngine(plain, meter, size)
    meter.close()
    engine.is_visible = False
    params = SamplingParams(temperature=1.0, max_tokens=1)
    engine.generate([[1, 3, 5]], [(0,)], 2, params)
    found = meter.take()
    assert found.computed_tokens == found.real_tokens == 2 + 2
    pairs = causal_pairs(1, 2) + 2 * causal_pairs(1, 1, 2)
    assert found.flop == size.forward(4, pairs) + 2 * size.head * 2
