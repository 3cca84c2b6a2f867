"""Rows that share the keys and values of their prompt yield the numbers of whole rows."""

from __future__ import annotations

import pytest
import torch

from tests.engines.plain_models import PLAIN, PROMPT_OF_ROW, plain_model, states


@pytest.mark.parametrize("key_heads", [4, 2, 1])
@pytest.mark.parametrize("model_type", PLAIN)
def test_shared_prompts_give_the_same_numbers(
    model_type: str, key_heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Norms round to float32, so that two float64 computations agree to a float32's last bit."""
    model = plain_model(model_type, torch.float64, num_key_value_heads=key_heads)
    expected = states(model, "module", monkeypatch)
    found = states(model, "shared", monkeypatch)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_rows_that_share_do_not_see_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row's own tokens change nobody else's numbers, those of its group included."""
    model = plain_model("qwen3", torch.float64)
    expected = states(model, "shared", monkeypatch)
    with_neighbour = states(model, "shared", monkeypatch, [*PROMPT_OF_ROW, 3], {})
    for one, other in zip(with_neighbour[:4], expected[:4], strict=True):
        torch.testing.assert_close(one[:10], other, rtol=0, atol=1e-6)
