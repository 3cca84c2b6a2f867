"""Whoever reads the next token, the hidden states are those of the model's own forward."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from g2rl.engines import readers
from g2rl.engines.caches import ROOM
from g2rl.engines.lean_decoder import WholeRows, is_plain
from g2rl.engines.readers import LeanReader, ModuleReader, Reader, reader_of
from g2rl.engines.shared_prompts import SharedPrompts
from g2rl.engines.transformers import TransformersEngine
from g2rl.policy.anatomy import decoder_of
from g2rl.policy.loading import LoadedModel, build
from g2rl.policy.policy import Policy
from g2rl.types import Completion, SamplingParams
from tests.models.zoo import VOCABULARY, tiny_config, tiny_model

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
def states(model: Any, kind: str, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Hidden states of all steps by one kind of reader, while rows leave."""
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
    rows = torch.tensor(PROMPT_OF_ROW)
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
        if step in LEAVING:
            index = torch.tensor(LEAVING[step])
            reader.keep(index)
            numbers_B, positions_B1 = numbers_B[index], positions_B1[index]
    return found


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
    monkeypatch.setitem(globals(), "PROMPT_OF_ROW", [*PROMPT_OF_ROW, 3])
    monkeypatch.setitem(globals(), "LEAVING", {})
    with_neighbour = states(model, "shared", monkeypatch)
    for one, other in zip(with_neighbour[:4], expected[:4], strict=True):
        torch.testing.assert_close(one[:10], other, rtol=0, atol=1e-6)


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


def test_one_response_a_prompt_shares_nothing_and_no_cache_is_read_by_the_model() -> None:
    model = plain_model("qwen3")
    ids_PL = torch.tensor([[5, 6, 7], [8, 9, 10]])
    mask_PL = torch.ones_like(ids_PL)

    def attention_of(rows: list[int], cached: bool = True) -> str:
        cache = model.model(input_ids=ids_PL[:, :-1], use_cache=True).past_key_values
        reader = reader_of(model, cache if cached else None, mask_PL, torch.tensor(rows), True)
        return type(getattr(reader, "attention", reader)).__name__

    assert attention_of([0, 0, 1, 1]) == "SharedPrompts"
    assert attention_of([0, 1]) == "WholeRows"
    assert attention_of([0, 1], cached=False) == "ModuleReader"


def sampled(
    tiny: LoadedModel, shares: bool, monkeypatch: pytest.MonkeyPatch, lean: bool = True
) -> tuple[list[list[Completion]], list[str]]:
    """What the engine draws, and who has read."""
    used: list[str] = []

    def noted(*args: Any) -> Reader:
        reader = reader_of(*args)
        used.append(type(getattr(reader, "attention", reader)).__name__)
        return reader

    policy = Policy(tiny.model)
    policy.shares_prefixes = shares
    engine = TransformersEngine(policy, tiny.tokenizer, tiny.stop_ids, max_rows=24)
    params = SamplingParams(temperature=1.0, max_tokens=60)
    with monkeypatch.context() as patched:
        patched.setattr("g2rl.engines.transformers.reader_of", noted)
        if not lean:
            patched.setattr(readers, "is_plain", lambda decoder: False)
        prompts = [[5, 6, 7, 8, 9], [10, 11, 12], [4, 5]]
        groups = engine.generate(prompts, [(1,), (2,), (3,)], 12, params)
    assert engine.drift is not None
    assert engine.drift.largest < 5e-5
    return groups, used


def test_the_engine_draws_the_same_responses_by_every_reader(
    tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_module, used = sampled(tiny, False, monkeypatch, lean=False)
    assert set(used) == {"ModuleReader"}
    lengths = {len(completion.token_ids) for group in by_module for completion in group}
    assert len(lengths) > 5, "rows have left one after the other"

    by_rows, used = sampled(tiny, False, monkeypatch)
    assert set(used) == {"WholeRows"}
    assert by_rows == by_module
    by_prompts, used = sampled(tiny, True, monkeypatch)
    assert set(used) == {"SharedPrompts"}
    assert by_prompts == by_module


def test_what_is_compared_in_bfloat16_shares_nothing(tiny: LoadedModel) -> None:
    policy = Policy(copy.deepcopy(tiny.model).to(torch.bfloat16))
    policy.shares_prefixes = True
    engine = TransformersEngine(policy, tiny.tokenizer, tiny.stop_ids)
    assert not engine._may_share()
    assert TransformersEngine(Policy(tiny.model), tiny.tokenizer, []).compared_in == "float32"
