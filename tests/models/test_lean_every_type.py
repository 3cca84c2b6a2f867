"""Every type of causal LM of transformers has the gradients of before where parts are lean."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from g2rl.policy.anatomy import UnsupportedModelError
from g2rl.policy.lean_modules import with_lean_modules
from tests.models.zoo import TYPES, tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
NO_PLAIN_FORWARD = ("blt",)
"""Types whose tiny model cannot read a few tokens as it is."""


def with_unusual_settings(model: Any) -> None:
    """Change every number that norms and MLPs hold, because factors of 1 do not show."""
    for module in model.modules():
        if type(module).__name__.endswith(("RMSNorm", "MLP")):
            for name, value in list(vars(module).items()):
                if isinstance(value, float):
                    setattr(module, name, value * 0.9)


@pytest.mark.parametrize("model_type", TYPES)
def test_gradients_are_equal_bit_by_bit(model_type: str) -> None:
    try:
        plain = tiny_model(model_type).eval()
    except UnsupportedModelError as error:
        pytest.skip(str(error))
    with_unusual_settings(plain)
    lean = copy.deepcopy(plain)
    if with_lean_modules(lean) == 0:
        pytest.skip("nothing of it is replaced")
    if model_type in NO_PLAIN_FORWARD:
        pytest.skip("its tiny model cannot be called so")

    tokens = torch.arange(3, 43).reshape(2, 20)
    for model in (plain, lean):
        torch.manual_seed(0)
        model(input_ids=tokens, use_cache=False).logits.square().mean().backward()
    for one, other in zip(plain.parameters(), lean.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None)
        if one.grad is not None:
            assert torch.equal(one.grad, other.grad)
