"""The parts of a causal LM: flat and nested configurations, the decoder without its head."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from torch import nn

from g2rl.policy.anatomy import UnsupportedModelError, decoder_of, positions_of, text_config
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
        ({"max_position_embeddings": -1}, None),
        ({}, None),
    ],
)
def test_positions_by_their_several_names(settings: dict[str, int], positions: int | None) -> None:
    assert positions_of(SimpleNamespace(**settings)) == positions
    assert positions_of(tiny_config("gpt2")) == 512


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
