"""What holds for every signal: finite on degenerate groups, blind to order, resumed exactly."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from g2rl.cli.config.choices import choices
from g2rl.exploration.agreement import Agreement
from g2rl.exploration.cde import CuriosityBonus
from g2rl.exploration.clip_cov import ClipCov
from g2rl.exploration.combined import Combined
from g2rl.exploration.darling import Darling
from g2rl.exploration.determinant import MarginalVolume
from g2rl.exploration.entropy import EntropyBonus
from g2rl.exploration.entropy_advantage import EntropyAdvantage
from g2rl.exploration.entropy_controller import EntropyController
from g2rl.exploration.evol import EvolRL
from g2rl.exploration.forking_tokens import ForkingTokens
from g2rl.exploration.g2rl import GradientGuided
from g2rl.exploration.kl_cov import KLCov
from g2rl.exploration.maxrl import MaxRL
from g2rl.exploration.none import NoExploration
from g2rl.exploration.nsr import NegativeReinforcement
from g2rl.exploration.outcome import OutcomeExploration
from g2rl.exploration.partitions import ByEmbedding
from g2rl.exploration.passk import PassK
from g2rl.exploration.poly_epo import PolyEPO
from g2rl.exploration.random_weights import RandomWeights
from g2rl.exploration.repexp import RepresentationExploration
from g2rl.exploration.risk_sensitive import RiskSensitive
from g2rl.exploration.signal import Signal
from g2rl.exploration.ucpo import UniformCorrect
from g2rl.exploration.uniqueness import Uniqueness
from g2rl.exploration.unlikeliness import Unlikeliness
from g2rl.formulas.advantages import GroupAdvantage
from g2rl.types import GroupBatch, Shaped

ALGORITHM = GroupAdvantage()

MAKERS: dict[str, Callable[[int], Signal]] = {
    "none": lambda g: NoExploration(),
    "entropy": lambda g: EntropyBonus(),
    "evol": lambda g: EvolRL(),
    "g2rl": lambda g: GradientGuided(),
    "g2rl 01": lambda g: GradientGuided(lam=3, clip=None, reward="01", spread="none"),
    "passk": lambda g: PassK(min(4, g)),
    "passk pkpo": lambda g: PassK(min(2, g), "pkpo"),
    "passk pkpo k=1": lambda g: PassK(1, "pkpo"),
    "passk loo": lambda g: PassK(min(3, g), "loo"),
    "maxrl": lambda g: MaxRL(),
    "maxrl truncated": lambda g: MaxRL(order=3),
    "maxrl baseline": lambda g: MaxRL(order=9, baseline="loo"),
    "risk_sensitive": lambda g: RiskSensitive(),
    "risk_sensitive averse": lambda g: RiskSensitive(-2000),
    "nsr": lambda g: NegativeReinforcement(),
    "nsr weighted": lambda g: NegativeReinforcement("weighted"),
    "unlikeliness": lambda g: Unlikeliness(),
    "unlikeliness sum": lambda g: Unlikeliness(length_normalised=False),
    "outcome": lambda g: OutcomeExploration(),
    "outcome mean": lambda g: OutcomeExploration("ucb_mean"),
    "outcome batch": lambda g: OutcomeExploration("batch"),
    "darling": lambda g: Darling(),
    "darling correct": lambda g: Darling(among="correct"),
    "uniqueness": lambda g: Uniqueness(),
    "uniqueness uarl": lambda g: Uniqueness(variant="uarl"),
    "ucpo": lambda g: UniformCorrect(tau=1.0),
    "ucpo sum": lambda g: UniformCorrect(tau=1.0, length_normalised=False),
    "repexp": lambda g: RepresentationExploration(dim=2),
    "repexp left out": lambda g: RepresentationExploration(
        dim=None, bonus="leave_one_out", features="phi"
    ),
    "cde": lambda g: CuriosityBonus(),
    "determinant": lambda g: MarginalVolume(),
    "determinant phi": lambda g: MarginalVolume(features="phi", among="all"),
    "poly_epo": lambda g: PolyEPO(min(4, g)),
    "random_weights": lambda g: RandomWeights(),
    "agreement": lambda g: Agreement(),
    "entropy_controller": lambda g: EntropyController(target=0.7),
    "entropy_advantage": lambda g: EntropyAdvantage(),
    "forking_tokens": lambda g: ForkingTokens(),
    "clip_cov": lambda g: ClipCov(),
    "kl_cov": lambda g: KLCov(),
    "combined": lambda g: Combined([Darling(), Uniqueness(), OutcomeExploration("ucb")], ALGORITHM),
}
"""One signal for groups of g, by its name and what is special."""

VECTORS = torch.tensor(
    [
        [0.0, 0.0, 0.0],
        [1.0, 2.0, 3.0],
        [-1.0, -2.0, -3.0],
        [1.0, 2.0, 3.0 + 1e-6],
        [1e-45, 0.0, 0.0],
        [3e38, 3e38, -3e38],
        [1e-13, 1e-13, 0.0],
        [0.0, 1.0, 0.0],
    ]
)
LOGPS = torch.tensor([0.0, 1e-7, -1e-30, -0.5, -700.0, -1e6, -3e38, -2.0])
ENTROPIES = torch.tensor([0.0, 1e-30, 0.5, 3.0])
LENGTHS = torch.tensor([0, 1, 5, 4096])
ANSWERS = (None, "", "7", "x" * 1000)
GROUPS = 50


def degenerate(group_size: int, seed: int) -> GroupBatch:
    """Groups of zero, huge, tiny and repeated vectors, extreme log-probabilities, odd answers."""
    rng = torch.Generator().manual_seed(seed)
    shape = (GROUPS, group_size)

    def draw(table: Tensor) -> Tensor:
        return table[torch.randint(0, len(table), shape, generator=rng)]

    # every share of right responses, none and all included
    correct_PG = torch.rand(shape, generator=rng) < torch.linspace(0, 1, GROUPS)[:, None]
    picked = torch.randint(0, len(ANSWERS), shape, generator=rng).tolist()
    batch = GroupBatch(
        rewards_PG=correct_PG.float() * 2 - 1,
        correct_PG=correct_PG,
        lengths_PG=draw(LENGTHS),
        step=seed,
        features_PGD=draw(VECTORS),
        embeddings_PGE=draw(VECTORS),
        hidden_PGD=draw(VECTORS),
        reference_hidden_PGD=draw(VECTORS),
        logp_sum_PG=draw(LOGPS),
        entropy_PG=draw(ENTROPIES),
        answers=[[ANSWERS[i] for i in group] for group in picked],
        problem_ids=[f"p{number % 7}" for number in range(GROUPS)],
        texts=[["text"] * group_size] * GROUPS,
    )
    batch.partition_PG = ByEmbedding()(batch)
    batch.advantages_PG, _ = ALGORITHM(batch.rewards_PG, batch.rewards_PG)
    return batch


def outputs(shaped: Shaped) -> dict[str, Tensor]:
    """Everything of one value a response."""
    tensors = {"rewards": shaped.rewards_PG, **shaped.diagnostics}
    if shaped.advantages_PG is not None:
        tensors["advantages"] = shaped.advantages_PG
    if shaped.keep_PG is not None:
        tensors["keep"] = shaped.keep_PG
    return tensors


def test_every_choice_is_tried() -> None:
    assert {name.split()[0] for name in MAKERS} == set(choices("exploration"))
    for name, make in MAKERS.items():
        module = type(make(4)).__module__
        assert module == f"g2rl.exploration.{name.split()[0]}", "a file is named like its choice"


@pytest.mark.parametrize("name", MAKERS)
def test_no_degenerate_group_makes_a_number_that_is_not_finite(name: str) -> None:
    """40 x 50 groups of one to six responses."""
    signals = {size: MAKERS[name](size) for size in range(1, 7)}
    for seed in range(40):
        batch = degenerate(1 + seed % 6, seed)
        shaped = signals[1 + seed % 6](batch)
        for quantity, values in outputs(shaped).items():
            assert values.shape == batch.rewards_PG.shape, quantity
            assert values.isfinite().all(), quantity
        assert all(value == value for value in shaped.metrics.values())
        made, _ = ALGORITHM(shaped.rewards_PG, batch.rewards_PG, shaped.advantage_scale)
        assert made.isfinite().all()


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "random_weights"])
def test_the_order_of_the_responses_of_a_group_does_not_matter(name: str) -> None:
    """The random control is left out: there, chance decides."""
    batch = degenerate(6, 3)
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    moved = replace(
        batch,
        **{field: values[:, order] for field, values in batch.tensors().items()},
        answers=[[group[i] for i in order.tolist()] for group in batch.answers],
    )
    first, second = outputs(MAKERS[name](6)(batch)), outputs(MAKERS[name](6)(moved))
    for quantity, values in first.items():
        torch.testing.assert_close(values[:, order], second[quantity], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", MAKERS)
def test_a_signal_goes_on_from_its_checkpoint_as_if_never_stopped(name: str) -> None:
    whole, first, second = (MAKERS[name](4) for _ in range(3))
    for seed in (1, 2):
        whole(degenerate(4, seed))
        first(degenerate(4, seed))

    # through a file that holds plain data only, as a checkpoint does
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    batch = degenerate(4, 3)
    expected, found = outputs(whole(batch)), outputs(second(batch))
    for quantity, values in expected.items():
        assert torch.equal(values, found[quantity]), quantity
    assert second.state_dict() == whole.state_dict()


@pytest.mark.parametrize("name", MAKERS)
def test_a_signal_changes_nothing_of_its_batch(name: str) -> None:
    """Observers look at the same batch after it."""
    batch, kept = degenerate(4, 5), degenerate(4, 5)
    MAKERS[name](4)(batch)
    for field, values in batch.tensors().items():
        assert torch.equal(values, kept.tensors()[field]), field
    assert batch.answers == kept.answers


BY_VERDICT = {
    "advantages": ("passk", "maxrl", "risk_sensitive", "nsr", "poly_epo"),
    "rewards": ("unlikeliness", "darling", "repexp", "determinant", "agreement", "evol", "g2rl 01"),
}
"""Signals that are defined on 0 and 1, by what they return: a grade changes nothing of it."""


@pytest.mark.parametrize("name", MAKERS)
def test_graded_rewards_give_finite_numbers(name: str) -> None:
    """Any finite rewards, of either sign for right and wrong responses."""
    batch = degenerate(5, 7)
    rng = torch.Generator().manual_seed(0)
    batch.rewards_PG = 3 * torch.randn(batch.rewards_PG.shape, generator=rng)
    batch.advantages_PG, _ = ALGORITHM(batch.rewards_PG, batch.rewards_PG)
    for quantity, values in outputs(MAKERS[name](5)(batch)).items():
        assert values.isfinite().all(), quantity


@pytest.mark.parametrize(
    ("quantity", "name"), [(q, name) for q, names in BY_VERDICT.items() for name in names]
)
def test_a_method_of_zero_and_one_goes_by_the_verdict(quantity: str, name: str) -> None:
    plain, graded = degenerate(5, 7), degenerate(5, 7)
    graded.rewards_PG = torch.linspace(-2, 2, graded.rewards_PG.numel()).view_as(plain.rewards_PG)
    expected, found = outputs(MAKERS[name](5)(plain)), outputs(MAKERS[name](5)(graded))
    assert torch.equal(found[quantity], expected[quantity])
