"""The parts of a causal LM: flat and nested configurations, the decoder without its head."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from g2rl.policy.anatomy import (
    UnsupportedModelError,
    decoder_of,
    length_switches,
    longrope_switch,
    positions_of,
    text_config,
)
from g2rl.policy.weights import decoder_blocks
from tests.models.zoo import tiny_config, tiny_model


def test_a_nested_configuration_is_asked_for_its_language_model() -> None:
    config = tiny_config("gemma3")
    assert not hasattr(config, "max_position_embeddings")
    assert text_config(config) is config.text_config
    assert positions_of(config) == 512
    flat = tiny_config("qwen3")
    assert text_config(flat) is flat


@pytest.mark.parametrize(
    ("settings", "positions"),
    [
        ({"n_positions": 128}, 128),
        ({"max_seq_len": 64}, 64),
        ({"max_target_positions": 448}, 448),
        ({"max_position_embeddings": -1}, None),
        ({}, None),
    ],
)
def test_positions_by_their_several_names(settings: dict[str, int], positions: int | None) -> None:
    assert positions_of(SimpleNamespace(**settings)) == positions
    assert positions_of(tiny_config("gpt2")) == 512


LONG = {
    "rope_type": "longrope",
    "short_factor": [1.0] * 4,
    "long_factor": [4.0] * 4,
    "original_max_position_embeddings": 24,
    "rope_theta": 1e4,
}


def test_lengths_of_a_configuration_whatever_their_level() -> None:
    config = tiny_config("gemma3")
    assert length_switches(config) == {8: "sliding_window"}
    nested = {"full_attention": {"original_max_position_embeddings": 24}, "chunks": None}
    flat = SimpleNamespace(
        to_dict=lambda: {"rope_parameters": nested, "max_window_layers": 28, "index_topk": True}
    )
    assert length_switches(flat) == {24: "original_max_position_embeddings"}


def test_longrope_says_where_it_switches() -> None:
    changes = {"rope_parameters": dict(LONG), "original_max_position_embeddings": 24}
    assert longrope_switch(tiny_config("phi3", **changes)) == 24
    assert longrope_switch(SimpleNamespace(rope_parameters={"full_attention": LONG})) == 24
    assert longrope_switch(SimpleNamespace(rope_parameters={"rope_type": "yarn"})) is None
    assert longrope_switch(tiny_config("gpt2")) is None


def test_beyond_the_switch_of_longrope_a_text_depends_on_its_neighbours() -> None:
    """Why longer texts are refused: a short one changes when it is padded beyond the switch."""
    changes = {"rope_parameters": dict(LONG), "original_max_position_embeddings": 24}
    model = tiny_model("phi3", sliding_window=None, **changes)
    ids_BL = torch.arange(1, 31).unsqueeze(0)
    alone = model(input_ids=ids_BL[:, :20]).logits[0]
    to_the_switch = model(input_ids=ids_BL[:, :24]).logits[0, :20]
    beyond = model(input_ids=ids_BL).logits[0, :20]
    torch.testing.assert_close(to_the_switch, alone, atol=1e-5, rtol=0)
    assert (beyond - alone).abs().max() > 1e-3


def test_the_decoder_of_a_model_whose_base_is_itself() -> None:
    """Llama 4 names the multimodal model around it as its base."""
    model = tiny_model("llama4_text")
    assert model.base_model is model
    assert decoder_of(model) is model.model
    ordinary = tiny_model("qwen3")
    assert decoder_of(ordinary) is ordinary.model


def test_a_model_without_a_decoder_is_refused_by_name() -> None:
    class Monolith(nn.Module):
        @property
        def base_model(self) -> nn.Module:
            return self

        def get_decoder(self) -> nn.Module:
            return self

    with pytest.raises(UnsupportedModelError, match="Monolith"):
        decoder_of(Monolith())


def test_blocks_of_a_model_that_sees_are_those_of_its_language_model() -> None:
    """The first list of modules in it holds the blocks of the vision tower."""
    model = tiny_model("gemma3")
    blocks = decoder_blocks(model)
    assert blocks is not None
    assert len(blocks) == model.config.text_config.num_hidden_layers
    assert blocks[0] is model.get_decoder().layers[0]
