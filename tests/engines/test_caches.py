"""Rows of caches that are no plain key-value cache."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from g2rl.engines.caches import select_rows
from tests.models.zoo import tiny_model


@pytest.mark.parametrize(
    "model_type", ["qwen3", "qwen3_5_text", "qwen3_next", "jamba", "falcon_h1", "lfm2", "minimax"]
)
def test_a_row_goes_on_as_if_it_had_been_alone(model_type: str) -> None:
    """Three rows are read, then the last one twice and the first one are continued."""
    model = tiny_model(model_type).base_model
    ids = torch.randint(3, 150, (3, 7), generator=torch.Generator().manual_seed(0))
    index = torch.tensor([2, 2, 0])
    with torch.no_grad():
        cache = model(input_ids=ids[:, :5], use_cache=True).past_key_values
        select_rows(cache, index)
        output = model(
            input_ids=ids[index, 5:6],
            past_key_values=cache,
            position_ids=torch.full((3, 1), 5),
            use_cache=True,
        )
        expected = model(input_ids=ids[index, :6], use_cache=False).last_hidden_state[:, -1]
    torch.testing.assert_close(output.last_hidden_state[:, -1], expected, rtol=1e-4, atol=1e-5)


def test_a_cache_of_the_architectures_own_is_asked_itself() -> None:
    told: list[Any] = []

    class Own(DynamicCache):
        def batch_select_indices(self, indices: Any) -> None:
            told.append(indices)

    select_rows(Own(), torch.tensor([1]))
    assert len(told) == 1


def test_both_states_of_a_mixed_layer_are_selected() -> None:
    """Falcon-H1 has attention and a state space in one layer; only a reordering knows of both."""
    told: list[str] = []
    layer = SimpleNamespace(
        recurrent_states={},
        reorder_cache=lambda index: told.append("both"),
        batch_select_indices=lambda index: told.append("keys alone"),
    )
    cache = DynamicCache()
    cache.layers = [layer]
    select_rows(cache, torch.tensor([0]))
    assert told == ["both"]
