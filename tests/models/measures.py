"""What g2rl computes with a model against what the model itself says, on a few tokens.

Every number is the largest difference of log-probabilities in nats, or of features as a share of
their length.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from g2rl.engines.transformers import TransformersEngine
from g2rl.policy.anatomy import UnsupportedModelError
from g2rl.policy.batching import Sequences, make_micro_batch
from g2rl.policy.policy import Policy
from g2rl.types import SamplingParams
from tests.models.zoo import VOCABULARY, tiny_model

TOLERANCE = 1e-5
TAU = 0.8
PARAMS = SamplingParams(temperature=TAU, max_tokens=12)
STOPS = list(range(40, 60))
"""One token in eight ends a response, so that rows leave the batch one by one."""


@dataclass(slots=True)
class Row:
    """One line of docs/models.md."""

    model_type: str
    name: str = ""
    """Class of the model."""
    verdict: str = ""
    """agrees, refused, not built (a refusal too, by `load`), differs or no tiny model."""
    reason: str = ""
    gaps: dict[str, float] = field(default_factory=dict)

    @property
    def is_right(self) -> bool:
        """Whether all numbers agree, or the model was refused."""
        return self.verdict in ("agrees", "refused", "not built")


class Words:
    """A tokenizer as far as an engine needs one."""

    def decode(self, token_ids: list[int], **options: Any) -> str:
        return " ".join(map(str, token_ids))


def sequences(*lengths: tuple[int, int]) -> Sequences:
    """Pseudo-random prompts and responses of these lengths."""
    generator = torch.Generator().manual_seed(7)
    prompts: list[list[int]] = []
    responses: list[list[int]] = []
    for prompt, response in lengths:
        prompts.append(torch.randint(3, 39, (prompt,), generator=generator).tolist())
        responses.append(torch.randint(3, 39, (response,), generator=generator).tolist())
    return Sequences(prompts, responses)


def own_logps(model: Any, pairs: Sequences, tau: float = TAU) -> Tensor:
    """Log-probabilities by one unpadded forward of the whole model for each pair."""
    found: list[Tensor] = []
    for prompt, response in zip(pairs.prompts, pairs.responses, strict=True):
        logits = model(input_ids=torch.tensor([prompt + response]), use_cache=False).logits
        logp = (logits[0].double() / tau).log_softmax(-1)
        for place, token in enumerate(response):
            found.append(logp[len(prompt) - 1 + place, token])
    return torch.stack(found)


def policy_logps(policy: Policy, pairs: Sequences) -> Tensor:
    """The same by the policy, all pairs in one micro-batch."""
    rows = list(range(len(pairs)))
    return policy(make_micro_batch(pairs, rows, policy.device), TAU).logps_T


def feature_gap(policy: Policy, pairs: Sequences) -> float:
    """Phi against autograd through the model's own logits, down to its last hidden states."""
    found = policy(make_micro_batch(pairs, list(range(len(pairs))), policy.device), TAU, True)
    assert found.features_ND is not None
    worst = 0.0
    for n in range(len(pairs)):
        read: list[Tensor] = []

        def keep_output(_: Any, __: Any, output: Any, read: list[Tensor] = read) -> Any:
            read.append(output.last_hidden_state.detach().requires_grad_(True))
            output.last_hidden_state = read[0]
            return output

        def keep_input(_: Any, inputs: tuple[Any, ...], read: list[Tensor] = read) -> Any:
            read.append(inputs[0].detach().requires_grad_(True))
            return (read[0], *inputs[1:])

        # a scale may stand before the head; some models call only a part of their decoder
        if policy.logit_shape.scale != 1:
            hook = policy.decoder.register_forward_hook(keep_output)
        else:
            hook = policy.model.get_output_embeddings().register_forward_pre_hook(keep_input)
        one = Sequences([pairs.prompts[n]], [pairs.responses[n]])
        with torch.enable_grad():
            logps = own_logps(policy.model, one)
            [grad] = torch.autograd.grad(logps.sum(), read)
        hook.remove()

        # d log p / dh = (s / tau) W^T (e - p), and Phi is the mean of W^T (e - p)
        expected = grad[0].sum(0) * TAU / policy.logit_shape.scale / len(pairs.responses[n])
        gap = (expected - found.features_ND[n]).norm() / expected.norm().clamp_min(1e-9)
        worst = max(worst, float(gap))
    return worst


def sampling_gap(policy: Policy) -> float:
    """Log-probabilities that responses were drawn from, against those of the model itself."""
    engine = TransformersEngine(policy, Words(), STOPS, max_rows=6)  # type: ignore[arg-type]
    engine.push_weights()
    prompts = sequences((3, 1), (9, 1), (21, 1), (1, 1)).prompts
    groups = engine.generate(prompts, [(p,) for p in range(4)], 3, PARAMS)
    assert engine.drift is not None

    # the engine's own comparison, and one without the policy, of which tokens are most likely
    worst = engine.drift.largest
    greedy = engine.generate(prompts, [(0,)] * 4, 1, SamplingParams(temperature=0, max_tokens=12))
    for prompt, group in zip(prompts, greedy, strict=True):
        tokens = group[0].token_ids
        logits = policy.model(input_ids=torch.tensor([prompt + tokens]), use_cache=False).logits[0]
        for place, token in enumerate(tokens):
            row = logits[len(prompt) - 1 + place].double().log_softmax(-1)
            worst = max(worst, float(row.max() - row[token]))
    assert all(completion.token_ids for group in groups for completion in group)
    return worst


def export_gap(policy: Policy, pairs: Sequences) -> float:
    """The model written to a folder and loaded again."""
    with tempfile.TemporaryDirectory() as folder:
        policy.model.save_pretrained(folder)
        again = AutoModelForCausalLM.from_pretrained(
            Path(folder), attn_implementation=policy.model.config._attn_implementation
        )
    return float((own_logps(again.eval(), pairs) - own_logps(policy.model, pairs)).abs().max())


def measure(model_type: str, **changes: Any) -> Row:
    """Compare everything for one type; what g2rl refuses is a row too."""
    row = Row(model_type)
    try:
        model = tiny_model(model_type, **changes)
        row.name = type(model).__name__
    except UnsupportedModelError as error:
        row.verdict, row.reason = "not built", str(error)
        row.name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type]
        return row
    except Exception as error:
        row.verdict, row.reason = "no tiny model", f"{type(error).__name__}: {error}"
        return row

    try:
        policy = Policy(model)
        policy.check()
        with torch.no_grad():
            row.gaps = gaps_of(policy)
    except UnsupportedModelError as error:
        row.verdict, row.reason = "refused", str(error)
        return row
    except Exception as error:
        row.verdict, row.reason = "differs", f"{type(error).__name__}: {error}"
        return row
    agrees = all(gap < TOLERANCE for gap in row.gaps.values())
    row.verdict = "agrees" if agrees else "differs"
    return row


def gaps_of(policy: Policy) -> dict[str, float]:
    """All comparisons of a policy, by the heading of the table."""
    # rows of very different lengths, so that one is padded much
    pairs = sequences((5, 6), (9, 12), (30, 20))
    policy.eval()
    scored = policy_logps(policy, pairs)
    alone: list[Tensor] = []
    for n in range(len(pairs)):
        alone.append(policy_logps(policy, Sequences([pairs.prompts[n]], [pairs.responses[n]])))

    policy.train()
    trained = policy_logps(policy, pairs)
    policy.eval()
    return {
        "log-probs": float((scored - own_logps(policy.model, pairs)).abs().max()),
        "Phi": feature_gap(policy, pairs),
        "padding": float((scored - torch.cat(alone)).abs().max()),
        "sampling": sampling_gap(policy),
        "training mode": float((scored - trained).abs().max()),
        "export": export_gap(policy, pairs),
    }


assert max(STOPS) < VOCABULARY
