"""Tiny plain decoders, and their hidden states by each reader of the next token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from g2rl.engines import readers
from g2rl.engines.caches import ROOM
from g2rl.engines.lean_decoder import WholeRows
from g2rl.engines.readers import LeanReader, ModuleReader, Reader, reader_of
from g2rl.engines.shared_prompts import SharedPrompts
from g2rl.policy.anatomy import decoder_of
from g2rl.policy.loading import build
from tests.models.zoo import VOCABULARY, tiny_config

PLAIN = ("llama", "mistral", "qwen2", "qwen3")
PROMPTS = ([5, 6, 7, 8, 9, 10, 11, 12, 13], [20, 21, 22], [30], [40, 41, 42, 43, 44])
PROMPT_OF_ROW = [0, 0, 0, 1, 2, 2, 3, 3, 3, 3]
LEAVING = {
    3: [0, 2, 3, 5, 6, 7, 8, 9],  # one of a group, and a whole small one
    9: [1, 2, 4, 5, 6],
    20: [3, 4],  # the padded ones among them: only the prompts of one length are left
}
"""After which steps rows leave, and the places of those that stay."""
STEPS = ROOM + 9


def plain_model(model_type: str, dtype: torch.dtype = torch.float32, **settings: Any) -> Any:
    """A tiny model without a window, whose norms have weights of their own."""
    config = tiny_config(model_type)
    config.sliding_window = None
    for name, value in settings.items():
        setattr(config, name, value)
    torch.manual_seed(0)
    model = build(config).to(dtype).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.add_(torch.rand_like(weight))
    return model


@torch.no_grad()
def states(
    model: Any,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
    prompt_of_row: Sequence[int] = PROMPT_OF_ROW,
    leaving: Mapping[int, list[int]] = LEAVING,
) -> list[Tensor]:
    """Hidden states of all steps by one kind of reader, while rows leave.

    Args:
        model: one of `plain_model`.
        kind: "module", "whole" or "shared".
        prompt_of_row: number of each row's prompt in `PROMPTS`.
        leaving: after which steps rows leave, and the places of those that stay.
    """
    length = max(map(len, PROMPTS))
    ids_PL = torch.tensor([[0] * (length - len(prompt)) + prompt for prompt in PROMPTS])
    mask_PL = (ids_PL != 0).long()
    cache = decoder_of(model)(
        input_ids=ids_PL[:, :-1],
        attention_mask=mask_PL[:, :-1],
        position_ids=(mask_PL.cumsum(-1) - 1).clamp_min(0)[:, :-1],
        use_cache=True,
    ).past_key_values

    # the reader that is asked for, and no other
    rows = torch.tensor(prompt_of_row)
    with monkeypatch.context() as patched:
        if kind == "module":
            patched.setattr(readers, "is_plain", lambda decoder: False)
        reader: Reader = reader_of(model, cache, mask_PL, rows, may_share=kind == "shared")
    assert isinstance(reader, ModuleReader if kind == "module" else LeanReader)
    if isinstance(reader, LeanReader):
        assert isinstance(reader.attention, SharedPrompts if kind == "shared" else WholeRows)

    # the same tokens for every reader, other ones for every row
    positions_B1 = mask_PL[rows].sum(-1, keepdim=True) - 1
    numbers_B, found = torch.arange(len(rows)), []
    for step in range(STEPS):
        tokens_B = 3 + (7 * numbers_B + 11 * step) % (VOCABULARY - 3)
        found.append(reader.read(tokens_B, positions_B1))
        positions_B1 = positions_B1 + 1
        if step in leaving:
            index = torch.tensor(leaving[step])
            reader.keep(index)
            numbers_B, positions_B1 = numbers_B[index], positions_B1[index]
    return found
