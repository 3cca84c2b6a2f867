"""Numbers of the GPU's own paths against float64 on the CPU, or against another path."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from g2rl.engines.transformers import TransformersEngine
from g2rl.policy.batching import Sequences, make_micro_batch
from g2rl.policy.lm_head import FeatureRequest, head_pass
from g2rl.policy.loading import LoadedModel
from g2rl.policy.packing import pack
from g2rl.policy.policy import Policy

pytestmark = pytest.mark.gpu

TOKENS, WORDS, WIDTH = 96, 5000, 256
PROMPT = [1, 3, 27, 30, 5]
RESPONSES = [[23, 34, 2], [40, 2], [9, 30, 24, 31, 2], [7] * 20]


def head_numbers(
    device: str | torch.device, dtype: torch.dtype, hidden: Tensor, weight: Tensor
) -> list[Tensor]:
    """Log-probs, entropies, features and the gradient of the hidden states, in float64 on the
    CPU."""
    inputs = [x.to(device, dtype, copy=True).requires_grad_() for x in (hidden, weight)]
    targets = (torch.arange(TOKENS, device=device) * 31) % WORDS
    request = FeatureRequest(torch.arange(TOKENS, device=device) // 12, TOKENS // 12, 1.0)
    output = head_pass(inputs[0], inputs[1], targets, features=request)
    output.logps_T.sum().backward()
    assert output.features_ND is not None
    assert inputs[0].grad is not None
    found = (output.logps_T, output.entropy_T, output.features_ND, inputs[0].grad)
    return [x.detach().cpu().double() for x in found]


@pytest.mark.parametrize(
    ("dtype", "gradient_share"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)]
)
def test_the_head_equals_float64_of_the_same_inputs(
    gpu: torch.device, dtype: torch.dtype, gradient_share: float
) -> None:
    """In bfloat16 the gradient alone is rounded."""
    rng = torch.Generator().manual_seed(0)
    hidden = torch.randn(TOKENS, WIDTH, generator=rng).to(dtype)
    weight = torch.randn(WORDS, WIDTH, generator=rng).to(dtype)
    found = head_numbers(gpu, dtype, hidden, weight)
    expected = head_numbers("cpu", torch.float64, hidden, weight)
    for ours, theirs in zip(found[:3], expected[:3], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)
    largest = float(expected[3].abs().max())
    torch.testing.assert_close(found[3], expected[3], rtol=0, atol=gradient_share * largest)


@pytest.mark.parametrize("compute_dtype", [None, "bfloat16"])
def test_shared_prompts_equal_padded_rows(
    gpu: torch.device, tiny: LoadedModel, compute_dtype: str | None
) -> None:
    policy = Policy(
        copy.deepcopy(tiny.model).to(gpu), compute_dtype=compute_dtype, prefix_sharing="on"
    )
    policy.check()
    sequences = Sequences([PROMPT] * 4, RESPONSES)
    packed = policy(pack(sequences, [0, 1, 2, 3], gpu)).logps_T
    padded = policy(make_micro_batch(sequences, [0, 1, 2, 3], gpu)).logps_T
    atol = 1e-4 if compute_dtype is None else 0.1
    torch.testing.assert_close(packed, padded, rtol=0, atol=atol)


def test_the_engine_samples_from_what_is_scored(gpu: torch.device, tiny: LoadedModel) -> None:
    policy = Policy(copy.deepcopy(tiny.model).to(gpu))
    engine = TransformersEngine(policy, tiny.tokenizer, tiny.stop_ids)
    assert engine.check_model().largest < 1e-3
