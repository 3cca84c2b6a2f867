"""Rows of caches that are no plain key-value cache."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from g2rl.engines.caches import ROOM, RoomyLayer, select_rows, with_room
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


WINDOWED = {"gemma3_text": {"layer_types": ["sliding_attention", "full_attention"] * 2}}


@pytest.mark.parametrize("model_type", ["qwen3", "gemma3_text", "gpt2"])
def test_growing_in_place_changes_no_bit(model_type: str) -> None:
    """Two rows are read, repeated, continued past the first room, and the first one left alone."""
    model = tiny_model(model_type, **WINDOWED.get(model_type, {})).base_model
    ids = torch.randint(3, 150, (4, 5 + ROOM + 4), generator=torch.Generator().manual_seed(0))
    states: dict[bool, list[torch.Tensor]] = {True: [], False: []}
    memory: set[int] = set()
    for in_place in (True, False):
        with torch.no_grad():
            cache = model(input_ids=ids[:2, :5], use_cache=True).past_key_values
            select_rows(cache, torch.tensor([1, 0, 1, 1]))
            if in_place:
                with_room(cache)
            rows = torch.arange(4)
            for place in range(5, ids.shape[1]):
                output = model(
                    input_ids=ids[rows, place : place + 1],
                    past_key_values=cache,
                    position_ids=torch.full((len(rows), 1), place),
                    use_cache=True,
                )
                states[in_place].append(output.last_hidden_state)
                if in_place and place < 12:
                    roomy = [layer for layer in cache.layers if isinstance(layer, RoomyLayer)]
                    memory.add(roomy[0].keys.data_ptr())
                if place == 12:
                    rows = torch.tensor([3, 0])
                    select_rows(cache, rows)

    assert len(memory) == 1, "memory was made anew for a token"
    for ours, theirs in zip(states[True], states[False], strict=True):
        assert torch.equal(ours, theirs)


def test_only_layers_that_hold_everything_grow_in_place() -> None:
    model = tiny_model("gemma3_text", **WINDOWED["gemma3_text"]).base_model
    with torch.no_grad():
        cache = model(input_ids=torch.tensor([[5, 6, 7]]), use_cache=True).past_key_values
    with_room(cache)
    for layer, kind in zip(cache.layers, model.config.layer_types, strict=True):
        assert isinstance(layer, RoomyLayer) == (kind == "full_attention")
    assert {"full_attention", "sliding_attention"} == set(model.config.layer_types)
