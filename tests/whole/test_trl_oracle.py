"""TRL's own GRPO loss on the tiny policy, loss type by loss type: same loss, same gradient."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from g2rl.formulas.losses import LossInputs, PolicyLoss, response_weights
from g2rl.policy.batching import Sequences, make_micro_batch
from g2rl.policy.loading import LoadedModel
from g2rl.policy.policy import Policy

trl = pytest.importorskip("trl")

TAU, BETA, LOW, HIGH, MAX_TOKENS = 0.7, 0.04, 0.2, 0.28, 8
PROMPTS = [[1, 3, 25, 29, 24, 4, 35, 5]] * 2 + [[1, 3, 26, 28, 4, 40, 5]] * 2
RESPONSES = [[20, 24, 14, 25, 21, 2], [20, 29, 2], [10, 25, 14, 24, 13, 27, 12, 2], [9]]
ADVANTAGES = [1.2, -0.8, 0.5, -1.5]
LOSS_TYPES = {  # TRL's name: (surrogate, normaliser)
    "grpo": ("clip", "sequence_mean"),
    "bnpo": ("clip", "token_mean"),
    "dr_grpo": ("clip", "constant"),
    "dapo": ("clip", "token_mean"),
    "cispo": ("cispo", "token_mean"),
    "luspo": ("clip", "sequence_sum"),
}


def noise(scale: float, seed: int) -> list[Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(len(r), generator=rng) for r in RESPONSES]


@pytest.fixture(scope="module")
def policy(tiny: LoadedModel) -> Policy:
    return Policy(copy.deepcopy(tiny.model))


@pytest.fixture(scope="module")
def logps(policy: Policy) -> list[Tensor]:
    """Log-probabilities of the responses, around which old and reference ones are made up."""
    micro = make_micro_batch(Sequences(PROMPTS, RESPONSES), [0, 1, 2, 3], policy.device)
    with torch.no_grad():
        return list(policy(micro, TAU).logps_T.split([len(r) for r in RESPONSES]))


@pytest.fixture(scope="module")
def trainer(tiny: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A GRPOTrainer on a copy of the tiny policy; its data set and reward function are never
    used."""
    datasets = pytest.importorskip("datasets")
    config = trl.GRPOConfig(
        output_dir=str(tmp_path_factory.mktemp("trl")),
        use_cpu=True,
        bf16=False,
        report_to=[],
        per_device_train_batch_size=4,
        num_generations=4,
        max_completion_length=MAX_TOKENS,
        temperature=TAU,
        beta=BETA,
        epsilon=LOW,
        epsilon_high=HIGH,
        disable_tqdm=True,
    )
    made = trl.GRPOTrainer(
        model=copy.deepcopy(tiny.model),
        reward_funcs=lambda **_: [0.0],
        args=config,
        train_dataset=datasets.Dataset.from_dict({"prompt": ["use 3"] * 8}),
        processing_class=tiny.tokenizer,
    )
    made.args.use_bias_correction_kl = False  # plain k3, as in the GRPO paper
    made.current_gradient_accumulation_steps = made.args.steps_per_generation = 1
    made.model.train()
    return made


def pad(rows: list[Any], left: bool = False) -> Tensor:
    rows = [torch.as_tensor(row) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(
        rows, batch_first=True, padding_side="left" if left else "right"
    )


def trl_inputs(old: list[Tensor], ref: list[Tensor]) -> dict[str, Tensor]:
    mask = pad([torch.ones(len(r), dtype=torch.int64) for r in RESPONSES])
    return {
        "prompt_ids": pad(PROMPTS, left=True),
        "prompt_mask": pad([torch.ones(len(p), dtype=torch.int64) for p in PROMPTS], left=True),
        "completion_ids": pad(RESPONSES),
        "completion_mask": mask,
        "advantages": torch.tensor(ADVANTAGES),
        "old_per_token_logps": pad(old),
        "ref_per_token_logps": pad(ref),
        "num_items_in_batch": mask.sum(),
    }


def gradient_of(loss: Tensor, model: torch.nn.Module) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def g2rl_loss(
    policy: Policy, loss: PolicyLoss, old: list[Tensor], ref: list[Tensor], coef: float
) -> Tensor:
    micro = make_micro_batch(Sequences(PROMPTS, RESPONSES), [0, 1, 2, 3], policy.device)
    output, segments = policy(micro, TAU), micro.segments_T
    lengths = torch.tensor([len(r) for r in RESPONSES])
    weights = response_weights(loss.normalizer, lengths, torch.tensor([0, 0, 1, 1]), MAX_TOKENS)
    total = float(lengths.sum())
    return loss(
        LossInputs(
            output.logps_T,
            torch.cat(old),
            torch.tensor(ADVANTAGES)[segments],
            weights[segments],
            segments,
            4,
            output.entropy_T,
            torch.full((int(total),), 1 / total),
            torch.cat(ref),
        ),
        coef,
    )[0]


@pytest.mark.parametrize("ratio", ["token", "sequence"])
@pytest.mark.parametrize("entropy_coef", [0.0, 0.05])
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_loss_and_gradient_equal_trl(
    loss_type: str,
    entropy_coef: float,
    ratio: str,
    trainer: Any,
    policy: Policy,
    logps: list[Tensor],
) -> None:
    surrogate, normalizer = LOSS_TYPES[loss_type]
    old = [x + e for x, e in zip(logps, noise(0.4, 0), strict=True)]
    ref = [x + e for x, e in zip(logps, noise(0.5, 1), strict=True)]
    trainer.loss_type, trainer.importance_sampling_level = loss_type, ratio
    trainer.entropy_coef, trainer._entropy_bonus_enabled = entropy_coef, entropy_coef > 0
    # TRL's cap of CISPO is the ratio itself, ours is 1 + clip_high
    trainer.epsilon_high = 1 + HIGH if surrogate == "cispo" else HIGH
    expected = trainer._compute_loss(trainer.model, trl_inputs(old, ref))
    loss = PolicyLoss(surrogate, ratio, LOW, HIGH, normalizer, BETA, "k3")
    found = g2rl_loss(policy, loss, old, ref, entropy_coef)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    mine, theirs = gradient_of(found, policy.model), gradient_of(expected, trainer.model)
    assert mine.keys() == theirs.keys()
    largest = max(float(g.abs().max()) for g in theirs.values())
    assert largest > 1e-3
    for name, gradient in theirs.items():
        torch.testing.assert_close(mine[name], gradient, rtol=1e-3, atol=1e-5 * largest, msg=name)


@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_the_bias_corrected_kl_equals_trl(
    ratio: str,
    trainer: Any,
    policy: Policy,
    logps: list[Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """TRL multiplies its k3 by the importance ratio, and differentiates through it."""
    old = [x + e for x, e in zip(logps, noise(0.4, 0), strict=True)]
    ref = [x + e for x, e in zip(logps, noise(0.5, 1), strict=True)]
    trainer.loss_type, trainer.importance_sampling_level = "bnpo", ratio
    trainer.entropy_coef, trainer._entropy_bonus_enabled = 0.0, False
    trainer.epsilon_high, trainer.beta = HIGH, 1.0
    monkeypatch.setattr(trainer.args, "use_bias_correction_kl", True)
    expected = trainer._compute_loss(trainer.model, trl_inputs(old, ref))
    found = {}
    for corrected in (True, False):
        loss = PolicyLoss(
            "clip", ratio, LOW, HIGH, "token_mean", 1.0, "k3", kl_bias_correction=corrected
        )
        found[corrected] = g2rl_loss(policy, loss, old, ref, 0.0)
    trainer.beta = BETA
    torch.testing.assert_close(found[True], expected, rtol=1e-4, atol=1e-5)
    assert abs(found[False] - expected) > 2e-4, "the correction would not be seen"
    mine, theirs = (
        gradient_of(found[True], policy.model),
        gradient_of(expected, trainer.model),
    )
    largest = max(float(g.abs().max()) for g in theirs.values())
    for name, gradient in theirs.items():
        torch.testing.assert_close(mine[name], gradient, rtol=1e-3, atol=1e-5 * largest, msg=name)
