"""The lean decoder has the bits of the model's forward, and reads only what it knows."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from g2rl.engines.caches import RoomyLayer, with_room
from g2rl.engines.lean_decoder import WholeRows, is_plain
from g2rl.policy.anatomy import decoder_of
from tests.engines.plain_models import PLAIN, plain_model, states
from tests.models.zoo import tiny_model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("model_type", PLAIN)
def test_whole_rows_have_the_bits_of_the_models_forward(
    model_type: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = plain_model(model_type, dtype)
    expected = states(model, "module", monkeypatch)
    found = states(model, "whole", monkeypatch)
    for step, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert torch.equal(one, other), step


@pytest.mark.parametrize("model_type", ["gemma3_text", "gpt2", "phi3", "qwen3_moe"])
def test_other_architectures_are_read_by_their_own_forward(model_type: str) -> None:
    model = tiny_model(model_type)
    assert not is_plain(decoder_of(model))


def altered(how: str) -> Any:
    """A plain model of which something was changed that the lean decoder would leave out."""
    model = plain_model("mistral" if how == "window" else "qwen3")
    decoder, layer = model.model, model.model.layers[2]
    if how == "hook":
        layer.register_forward_hook(lambda module, inputs, output: None)
    elif how == "hook before a part":
        layer.self_attn.o_proj.register_forward_pre_hook(lambda module, inputs: None)
    elif how == "hook on the decoder":
        decoder.register_forward_pre_hook(lambda module, inputs: None)
    elif how == "forward of one object":
        layer.mlp.forward = layer.mlp.forward
    elif how == "eager":
        model.config._attn_implementation = "eager"
    elif how == "window":
        model.config.sliding_window = 8
    elif how == "windows":
        model.config.layer_types = ["full_attention", "sliding_attention"] * 2
    elif how == "fewer layers":
        model.config.num_hidden_layers = 3
    elif how == "compiled":
        layer._compiled_call_impl = layer._call_impl
    elif how == "own attention":
        layer.self_attn.__class__ = type("Own", (type(layer.self_attn),), {})
    elif how == "own layer":
        layer.__class__ = type("Own", (type(layer),), {})
    elif how == "own decoder":
        decoder.__class__ = type("Qwen3Model", (type(decoder),), {"__module__": __name__})
    elif how == "own call":
        kind = type(layer.self_attn.q_proj)
        own = {"__call__": lambda self, states: 2 * self.forward(states)}
        layer.self_attn.q_proj.__class__ = type("Own", (kind,), own)
    return model


@pytest.mark.parametrize(
    "how",
    [
        "hook",
        "hook before a part",
        "hook on the decoder",
        "forward of one object",
        "eager",
        "window",
        "windows",
        "fewer layers",
        "compiled",
        "own attention",
        "own layer",
        "own decoder",
        "own call",
    ],
)
def test_a_model_that_was_altered_is_read_by_its_own_forward(how: str) -> None:
    assert is_plain(altered("nothing").model)
    assert not is_plain(altered(how).model)


def test_hooks_that_are_called_all_the_same_change_nothing() -> None:
    """Gradient checkpointing has transformers put one on the embeddings."""
    model = plain_model("qwen3")
    model.model.embed_tokens.register_forward_hook(lambda module, inputs, output: None)
    model.register_forward_hook(lambda module, inputs, output: None)
    assert is_plain(model.model)


def test_hooks_around_every_module_are_minded() -> None:
    model = plain_model("qwen3")
    handle = torch.nn.modules.module.register_module_forward_hook(lambda *about: None)
    try:
        assert not is_plain(model.model)
    finally:
        handle.remove()
    assert is_plain(model.model)


@pytest.mark.parametrize("is_named", [True, False])
def test_a_class_whose_attention_was_replaced_is_read_by_its_own_forward(
    is_named: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Libraries of fast kernels patch the classes of transformers, some under the old names."""
    model = plain_model("llama")
    kind = type(model.model.layers[0].self_attn)
    forward = kind.forward

    def faster(self: Any, *args: Any, **options: Any) -> Any:
        return forward(self, *args, **options)

    monkeypatch.setattr(kind, "forward", functools.wraps(forward)(faster) if is_named else faster)
    assert not is_plain(model.model)


def test_rows_whose_padded_ones_have_left_need_no_mask() -> None:
    """As transformers finds out in every forward; other kernels are taken then."""
    mask_BL = torch.tensor([[0, 1, 1], [1, 1, 1]])
    rows = WholeRows(DynamicCache(), mask_BL)
    assert rows.mask_B11M is not None
    rows.keep(torch.tensor([1]))
    assert rows.mask_B11M is None


def test_whole_rows_hold_caches_all_of_whose_layers_grow_in_place() -> None:
    model = plain_model("qwen3").model
    cache = model(input_ids=torch.tensor([[5, 6, 7]]), use_cache=True).past_key_values
    assert not WholeRows.can_hold(cache)
    with_room(cache)
    assert WholeRows.can_hold(cache)

    # one layer that does not, a layer that somebody derived, and no cache at all
    roomy = cache.layers[1]
    cache.layers[1] = DynamicLayer()
    assert not WholeRows.can_hold(cache)
    derived = type("Derived", (RoomyLayer,), {})
    cache.layers[1] = derived(roomy)
    assert not WholeRows.can_hold(cache)
    assert not WholeRows.can_hold(None)
