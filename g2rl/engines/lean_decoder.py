"""The decoding step of a plain decoder, without what transformers does around its operations.

A forward of transformers makes a mask, looks up functions and goes through dozens of wrappers, once
for every token; a small model feels that. Decoders laid out like Llama's need none of it to read
one token a row: here their own modules are called in their own order. With `WholeRows` the hidden
states are those of the model to the last bit.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import transformers
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from g2rl.engines.caches import ROOM, RoomyLayer, select_rows
from g2rl.policy.prefix_attention import NAME as PREFIX_ATTENTION

DECODERS = ("LlamaModel", "MistralModel", "Qwen2Model", "Qwen3Model")
"""Classes of transformers whose forward was read and is written out here."""
READ_SOURCES = ("torch.nn.modules.", "transformers.models.", "transformers.activations", "g2rl.")
"""Where the modules of a plain decoder are defined, none of which keeps a tensor of a forward."""
READ_WRAPPERS = ("torch.utils._contextlib", "transformers.")
"""Where their decorators are defined: `torch.no_grad`, and what checks arguments."""
GROWING_ROTATIONS = ("dynamic", "longrope")
"""Kinds of rotary embedding whose module keeps other frequencies once a text is long."""
SCALED_PRODUCTS = ("sdpa", PREFIX_ATTENTION)
"""Attention that is torch's own where rows are not packed."""

Function = Callable[..., Tensor]


class Attention(Protocol):
    """Keys and values of all layers, and how queries attend to them."""

    def begin_step(self) -> None:
        """One more token a row is about to be read."""
        ...

    def __call__(
        self, number: int, module: Any, queries: Tensor, keys: Tensor, values: Tensor
    ) -> Tensor:
        """Take in keys and values of one token a row, and attend to all there are.

        Args:
            number: of the layer.
            module: its attention, which knows the scale.
            queries: (B, H, 1, d).
            keys: (B, K, 1, d), like `values`.

        Returns:
            What attention puts out before its last product, (B, 1, H * d).
        """
        ...

    def keep(self, index: Tensor) -> None:
        """Keep the rows that an index names, in its order."""
        ...


@dataclass(slots=True, frozen=True)
class _Layer:
    """What a decoder layer calls, in its order."""

    attention: nn.Module
    input_norm: Function
    queries: Function
    keys: Function
    values: Function
    query_norm: Function | None
    key_norm: Function | None
    output: Function
    post_norm: Function
    mlp: Function


class LeanDecoder:
    """Reads one token a row behind keys and values.

    Args:
        decoder: of transformers, one that `is_plain` says yes to. Its weights may change later.
    """

    def __init__(self, decoder: Any) -> None:
        self.decoder = decoder
        self.layers = [_calls_of(layer) for layer in decoder.layers]
        self.head_dim: int = decoder.layers[0].self_attn.head_dim

        # as the file of the architecture has it now, which a library may have replaced
        self._rotate = sys.modules[type(decoder).__module__].apply_rotary_pos_emb

    def read(self, tokens_B: Tensor, positions_B1: Tensor, attention: Attention) -> Tensor:
        """The last hidden states (B, D) behind one more token a row, which attention takes in."""
        # what all layers share
        attention.begin_step()
        x_B1D = self.decoder.embed_tokens(tokens_B.unsqueeze(1))
        cos, sin = self.decoder.rotary_emb(x_B1D, positions_B1)
        heads = (len(tokens_B), 1, -1, self.head_dim)

        for number, layer in enumerate(self.layers):
            # queries, keys and values (B, heads, 1, d)
            h_B1D = layer.input_norm(x_B1D)
            queries = layer.queries(h_B1D).view(heads)
            keys = layer.keys(h_B1D).view(heads)
            if layer.query_norm is not None and layer.key_norm is not None:
                queries, keys = layer.query_norm(queries), layer.key_norm(keys)
            values = layer.values(h_B1D).view(heads).transpose(1, 2)
            queries, keys = self._rotate(queries.transpose(1, 2), keys.transpose(1, 2), cos, sin)

            # attention, then the layer's own small network
            out = attention(number, layer.attention, queries, keys, values)
            x_B1D = x_B1D + layer.output(out)
            x_B1D = x_B1D + layer.mlp(layer.post_norm(x_B1D))
        hidden_B1D: Tensor = self.decoder.norm(x_B1D)
        return hidden_B1D[:, -1]


class WholeRows:
    """Attention of rows that each have the keys and values of their prompt.

    Args:
        cache: of transformers, all of whose layers grow in place; it is changed.
        mask_BL: 0 on the padding and 1 on the tokens that have been read, and on the next one.
    """

    def __init__(self, cache: Any, mask_BL: Tensor) -> None:
        self.cache = cache
        self._attend = ALL_ATTENTION_FUNCTIONS["sdpa"]
        self.length = mask_BL.shape[1] - 1
        self.mask_B11M = _unless_full(mask_BL.bool()[:, None, None, :])

    def begin_step(self) -> None:
        """See `Attention.begin_step`."""
        # the mask has room behind the last token, as the cache does
        self.length += 1
        if self.mask_B11M is not None and self.length > self.mask_B11M.shape[-1]:
            self.mask_B11M = nn.functional.pad(self.mask_B11M, (0, ROOM), value=True)

    def __call__(
        self, number: int, module: Any, queries: Tensor, keys: Tensor, values: Tensor
    ) -> Tensor:
        """See `Attention.__call__`."""
        # all that the row has read, the new token included
        keys, values = self.cache.layers[number].update(keys, values)
        mask_B11L = None if self.mask_B11M is None else self.mask_B11M[..., : self.length]
        scaling = module.scaling
        out, _ = self._attend(
            module, queries, keys, values, mask_B11L, dropout=0.0, scaling=scaling
        )
        return out.reshape(len(out), 1, -1)

    def keep(self, index: Tensor) -> None:
        """See `Attention.keep`."""
        select_rows(self.cache, index)
        if self.mask_B11M is not None:
            self.mask_B11M = _unless_full(self.mask_B11M[index])

    @staticmethod
    def can_hold(cache: Any) -> bool:
        """Whether all layers of a cache grow in place."""
        return cache is not None and all(type(layer) is RoomyLayer for layer in cache.layers)


def _unless_full(mask: Tensor) -> Tensor | None:
    """The mask; None if it masks nothing, as transformers leaves it out then, too."""
    return None if bool(mask.all()) else mask


def is_plain(decoder: Any) -> bool:
    """Whether the forward of a decoder is known to be the one that is written out here.

    Args:
        decoder: of transformers, the part of a model without the head.
    """
    # the class of transformers itself, with the attention that was read
    kind = type(decoder)
    stem = kind.__name__.removesuffix("Model")
    home = f"transformers.models.{stem.lower()}.modeling_{stem.lower()}"
    if kind.__name__ not in DECODERS or kind.__module__ != home:
        return False
    if decoder.config._attn_implementation not in SCALED_PRODUCTS:
        return False

    # windows need masks of their own; Mistral has one for all layers and names no kinds
    kinds = getattr(decoder.config, "layer_types", None) or ["full_attention"]
    if set(kinds) != {"full_attention"} or _is_altered(decoder):
        return False
    if kind.__name__ == "MistralModel" and decoder.config.sliding_window is not None:
        return False
    if len(decoder.layers) != decoder.config.num_hidden_layers or _has_global_hooks():
        return False

    # all layers, because somebody may have exchanged one
    source = sys.modules[home]
    classes = (getattr(source, f"{stem}DecoderLayer"), getattr(source, f"{stem}Attention"))
    if not all(map(_is_own_code, classes)):
        return False
    return all(_is_plain_layer(layer, classes) for layer in decoder.layers)


def keeps_no_tensor(model: nn.Module) -> bool:
    """Whether the modules of a model with a plain decoder keep no tensor of their last call.

    Modules of other libraries, such as adapters and quantised layers, may; so may hooks, and
    functions that somebody has put in the place of a forward.
    """
    kinds = {type(module) for module in model.modules()}
    if _has_global_hooks() or not all(map(_is_read_code, kinds)):
        return False
    for module in model.modules():
        if _is_altered(module):
            return False
        rotation = str(getattr(module, "rope_type", ""))
        if any(kind in rotation for kind in GROWING_ROTATIONS):
            return False
    return True


def _is_plain_layer(layer: Any, classes: tuple[type, type]) -> bool:
    """Whether a layer and its attention are of these classes, and nothing that is called by its
    forward alone was altered."""
    attention = layer.self_attn
    if (type(layer), type(attention)) != classes or _is_altered(layer):
        return False

    # the parts whose forward is called here, where transformers calls the part
    parts = [attention, layer.input_layernorm, layer.post_attention_layernorm, layer.mlp]
    parts += [attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj]
    for name in ("q_norm", "k_norm"):
        if hasattr(attention, name):
            parts.append(getattr(attention, name))
    for part in parts:
        if _is_altered(part) or type(part).__call__ is not nn.Module.__call__:
            return False
    return True


def _is_altered(module: nn.Module) -> bool:
    """Whether calling a module does something else than the forward of its class."""
    has_hooks = bool(module._forward_hooks or module._forward_pre_hooks)
    return has_hooks or "forward" in vars(module) or module._compiled_call_impl is not None


def _is_own_code(kind: type[nn.Module]) -> bool:
    """Whether the forward of a class is what stands in its file, or in wrappers of transformers.

    Libraries of fast kernels replace forwards of such classes.
    """
    # wrappers of transformers check arguments and collect outputs; others may do anything
    home = str(Path(transformers.__file__).parent)
    forward: Any = kind.forward
    while hasattr(forward, "__wrapped__"):
        if not forward.__code__.co_filename.startswith(home):
            return False
        forward = forward.__wrapped__

    # innermost is what the file of the class defines
    own_file: str = forward.__code__.co_filename
    return own_file == sys.modules[kind.__module__].__file__


def _is_read_code(kind: type[nn.Module]) -> bool:
    """Whether a class of modules and its forward come from `READ_SOURCES`."""
    # layers of transformers that may be checkpointed are called in a way of their own
    calls = (nn.Module.__call__, GradientCheckpointingLayer.__call__)
    if not kind.__module__.startswith(READ_SOURCES) or kind.__call__ not in calls:
        return False

    # what a wrapper says of itself is what it wraps, so its own file counts
    forward: Any = kind.forward
    while hasattr(forward, "__wrapped__"):
        if not forward.__globals__["__name__"].startswith(READ_WRAPPERS):
            return False
        forward = forward.__wrapped__
    source: str = getattr(forward, "__globals__", {}).get("__name__", "")
    return source.startswith(READ_SOURCES)


def _has_global_hooks() -> bool:
    """Whether torch calls something around every module."""
    return bool(torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks)


def _calls_of(layer: Any) -> _Layer:
    """The calls of one decoder layer; without hooks `forward` is what calling a module does."""
    attention = layer.self_attn

    # Qwen3 has norms on the heads
    query_norm = getattr(attention, "q_norm", None)
    key_norm = getattr(attention, "k_norm", None)
    return _Layer(
        attention=attention,
        input_norm=layer.input_layernorm.forward,
        queries=attention.q_proj.forward,
        keys=attention.k_proj.forward,
        values=attention.v_proj.forward,
        query_norm=None if query_norm is None else query_norm.forward,
        key_norm=None if key_norm is None else key_norm.forward,
        output=attention.o_proj.forward,
        post_norm=layer.post_attention_layernorm.forward,
        mlp=layer.mlp.forward,
    )
