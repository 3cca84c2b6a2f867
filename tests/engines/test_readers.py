"""Which reader reads the next token, and that the engine draws the same responses by each."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch

from g2rl.engines import readers
from g2rl.engines.lean_decoder import keeps_no_tensor
from g2rl.engines.readers import LeanReader, Reader, reader_of
from g2rl.engines.transformers import TransformersEngine
from g2rl.policy.loading import LoadedModel
from g2rl.policy.policy import Policy
from g2rl.types import Completion, SamplingParams
from tests.engines.plain_models import plain_model


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


DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({}, True), ({"rope_parameters": DYNAMIC, "max_position_embeddings": 16}, False)],
)
def test_what_was_sampled_in_inference_mode_leaves_nothing_that_training_cannot_use(
    tiny: LoadedModel, settings: dict[str, Any], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rotary embedding that grows with the text keeps frequencies of its last call."""
    modes: set[bool] = set()
    read = LeanReader.read

    def noted(self: LeanReader, *inputs: torch.Tensor) -> torch.Tensor:
        modes.add(torch.is_inference_mode_enabled())
        return read(self, *inputs)

    monkeypatch.setattr(LeanReader, "read", noted)
    model = plain_model("llama", **settings)
    engine = TransformersEngine(Policy(model), tiny.tokenizer, [2])
    engine.generate([[5, 6, 7], [8, 9]], [(0, 0), (0, 1)], 3, SamplingParams(max_tokens=30))
    assert modes == {expected}

    kept = [*model.parameters(), *model.buffers()]
    assert not any(tensor.is_inference() for tensor in kept)
    model(input_ids=torch.arange(3, 43).unsqueeze(0)).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_modules_of_others_may_keep_tensors() -> None:
    model = plain_model("qwen3")
    assert keeps_no_tensor(model)

    class Remembering(torch.nn.Linear):
        """A linear layer of somebody's own."""

    model.model.layers[1].mlp.up_proj.__class__ = Remembering
    assert not keeps_no_tensor(model)


def hook(module: torch.nn.Module, note: Callable[[Any], None]) -> None:
    module.register_forward_hook(lambda module, inputs, output: note(output))


def hook_before(module: torch.nn.Module, note: Callable[[Any], None]) -> None:
    module.register_forward_pre_hook(lambda module, inputs: note(inputs[0]))


def exchange(module: torch.nn.Module, note: Callable[[Any], None]) -> None:
    forward = module.forward

    def noted(*inputs: Any) -> Any:
        output = forward(*inputs)
        note(output)
        return output

    module.forward = noted


@pytest.mark.parametrize("watch", [hook, hook_before, exchange])
@pytest.mark.parametrize(
    "part", ["model.embed_tokens", "model.norm", "model.layers.0.mlp.down_proj", "lm_head"]
)
def test_what_somebody_keeps_of_sampling_can_be_trained_on(
    tiny: LoadedModel, watch: Callable[..., None], part: str
) -> None:
    model = plain_model("qwen3")
    kept: list[torch.Tensor] = []
    watch(model.get_submodule(part), kept.append)
    engine = TransformersEngine(Policy(model), tiny.tokenizer, [2])
    engine.generate([[5, 6, 7]], [(0, 0)], 2, SamplingParams(max_tokens=4))
    assert kept
    assert not any(tensor.is_inference() for tensor in kept)


def test_a_forward_that_a_library_has_replaced_may_keep_tensors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = plain_model("qwen3")
    kind = type(model.model.layers[0].mlp)
    monkeypatch.setattr(kind, "forward", functools.wraps(kind.forward)(lambda self, x: x))
    assert not keeps_no_tensor(model)


def test_what_is_compared_in_bfloat16_shares_nothing(tiny: LoadedModel) -> None:
    policy = Policy(copy.deepcopy(tiny.model).to(torch.bfloat16))
    policy.shares_prefixes = True
    engine = TransformersEngine(policy, tiny.tokenizer, tiny.stop_ids)
    assert not engine._may_share()
    assert TransformersEngine(Policy(tiny.model), tiny.tokenizer, []).compared_in == "float32"
