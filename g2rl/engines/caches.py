"""Keep some rows of a cache, whatever its layers hold, and let it grow in place.

Attention layers hold keys and values, and transformers selects rows of these. Layers of linear
attention, state spaces and short convolutions (Qwen3-Next, Qwen3.5, Jamba, Nemotron-H, Falcon-H1,
LFM2) hold a convolution's last inputs and a recurrent state instead, or beside.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicLayer

ROOM = 32
"""Tokens by which the memory of a growing layer grows at a time."""


class RoomyLayer(DynamicLayer):
    """Keys and values of one attention layer, with room behind the last token.

    A new token is written there. `DynamicLayer` copies all keys and values for every token. What
    attention reads are views of the same numbers, so nothing that is computed changes.
    """

    def __init__(self, layer: DynamicLayer) -> None:
        """Take over what a layer holds."""
        super().__init__()
        self.dtype, self.device = layer.dtype, layer.device
        self.keys, self.values = layer.keys, layer.values
        self.is_initialized = True
        self.rooms = [layer.keys, layer.values]

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append keys and values (B, K, t, d), and return all of them."""
        length = self.keys.shape[-2]
        new_length = length + key_states.shape[-2]

        # more room, now and then
        if new_length > self.rooms[0].shape[-2]:
            for place, held in enumerate((self.keys, self.values)):
                shape = (*held.shape[:-2], new_length + ROOM, held.shape[-1])
                self.rooms[place] = held.new_empty(shape)
                self.rooms[place][..., :length, :] = held

        for room, states in zip(self.rooms, (key_states, value_states), strict=True):
            room[..., length:new_length, :] = states
        self._show(new_length)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows, room included."""
        length = self.keys.shape[-2]
        self.rooms = [room.index_select(0, indices) for room in self.rooms]
        self._show(length)

    def _show(self, length: int) -> None:
        """Let keys and values be the first tokens of their rooms."""
        self.keys, self.values = (room[..., :length, :] for room in self.rooms)


def with_room(cache: Any) -> None:
    """Let those layers of a cache grow in place that hold all keys and values, and no more.

    Args:
        cache: of transformers, after the prompts have been read; it is changed in place.
    """
    # a class of the architecture's own may keep an account of its layers
    if type(cache).__module__ != "transformers.cache_utils":
        return
    for number, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer and layer.get_seq_length() > 0:
            cache.layers[number] = RoomyLayer(layer)


def select_rows(cache: Any, index: Tensor) -> None:
    """Keep the rows of a cache that an index names, in its order; a row may be named repeatedly.

    Args:
        cache: of transformers; it is changed in place.
        index: row numbers, int64, on the device of the cache.
    """
    # a class of the architecture's own knows best what it holds
    if type(cache).__module__ != "transformers.cache_utils":
        cache.batch_select_indices(index)
        return

    for layer in cache.layers:
        # transformers selects rows of such states only when it reorders beams, which is the same
        if hasattr(layer, "recurrent_states") or hasattr(layer, "conv_states"):
            layer.reorder_cache(index)
        else:
            layer.batch_select_indices(index)
