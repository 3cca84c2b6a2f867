"""Keep some rows of a cache, whatever its layers hold.

Attention layers hold keys and values, and transformers selects rows of these. Layers of linear
attention, state spaces and short convolutions (Qwen3-Next, Qwen3.5, Jamba, Nemotron-H, Falcon-H1,
LFM2) hold a convolution's last inputs and a recurrent state instead, or beside.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor


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
