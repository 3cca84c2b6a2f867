"""One process against two, and against one that is sharded: scores, gradients, weights, samples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import distributed as dist

from g2rl.world import World
from tests.whole.parallel.twins import CASES, TWO_STEPS, joined, launch, outcome, sampled, tied

EXACT = [name for name in CASES if name not in ("bfloat16", "bad numbers")]
ALONE = ("token_mean", "sequence_mean", "sequence_sum", "LoRA", "fused", "token plan")
"""Cases of one sharded process, which differ in what is sharded; two processes try all of them."""


@pytest.fixture(scope="module")
def single() -> dict[str, Any]:
    return {name: outcome(name, World(), **case) for name, case in CASES.items()}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("two")
    launch("updates", folder)
    ranks = [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(2)]
    for name in CASES:
        ranks[0][name]["gradients"] = joined([found[name] for found in ranks])
    return ranks


@pytest.fixture(scope="module")
def alone() -> Iterator[World]:
    """A world of one process whose weights are sharded all the same."""
    world = World.join(torch.device("cpu"))
    yield world
    world.close()
    assert not dist.is_initialized()


def steps_of(found: dict[str, Any]) -> list[int]:
    """The steps that a case has taken, the last one last."""
    return [step for step in TWO_STEPS if f"metrics {step}" in found]


def compare(found: dict[str, Any], expected: dict[str, Any], atol: float = 1e-5) -> None:
    for name in ("logps", "ref", "entropy", "features", "hidden"):
        torch.testing.assert_close(found[name], expected[name], atol=atol, rtol=0)
    for ours, theirs in zip(found["losses"], expected["losses"], strict=True):
        assert ours == pytest.approx(theirs, abs=atol)
    for ours, theirs in zip(found["gradients"], expected["gradients"], strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours:
            torch.testing.assert_close(ours[name], theirs[name], atol=atol, rtol=0)
    assert found.keys() == expected.keys()
    for step in steps_of(found):
        assert found[f"metrics {step}"] == pytest.approx(expected[f"metrics {step}"], abs=atol)
        torch.testing.assert_close(
            found[f"late {step}"], expected[f"late {step}"], atol=atol, rtol=0
        )
        ours, theirs = found[f"weights {step}"], expected[f"weights {step}"]
        assert list(ours) == list(theirs)
        for name in ours:
            torch.testing.assert_close(ours[name], theirs[name], atol=atol, rtol=0)


@pytest.mark.parametrize("name", EXACT)
def test_two_processes_equal_one(
    name: str, single: dict[str, Any], two: list[dict[str, Any]]
) -> None:
    compare(two[0][name], single[name])


@pytest.mark.parametrize("name", ALONE)
def test_one_sharded_process_equals_a_plain_one(
    name: str, single: dict[str, Any], alone: World
) -> None:
    compare(outcome(name, alone, **CASES[name]), single[name])


def test_shared_prompts_equal_padded_rows(two: list[dict[str, Any]]) -> None:
    """Two processes that share prompts against one that does not."""
    compare(two[0]["shared prompts"], outcome("padded", World(), policy=tied, one_prompt=True))


def test_the_cases_are_uneven(single: dict[str, Any]) -> None:
    """What the cases are meant to hold: a mini-batch without tokens, losses and gradients that are
    not 0."""
    losses = [found["loss"] for found in single["token_mean"]["losses"]]
    assert losses.count(0.0) == 1
    assert sum(abs(loss) > 1e-3 for loss in losses) >= 3
    largest = [
        max((g.abs().max() for g in found.values()), default=0)
        for found in single["LoRA"]["gradients"]
    ]
    assert sum(value > 1e-2 for value in largest) >= 3
    assert any(not found for found in single["token_mean"]["gradients"])


@pytest.mark.parametrize("name", CASES)
def test_ranks_hold_the_same(name: str, two: list[dict[str, Any]]) -> None:
    first, second = (found[name] for found in two)
    last = steps_of(first)[-1]
    for key in ("logps", "ref", "features", "hidden", f"late {last}"):
        assert torch.equal(first[key], second[key]), key
    assert first[f"metrics {last}"] == second[f"metrics {last}"]
    for key, value in first[f"weights {last}"].items():
        assert torch.equal(value, second[f"weights {last}"][key]), key


def test_a_bad_row_on_one_rank_skips_the_update_on_all(
    single: dict[str, Any], two: list[dict[str, Any]]
) -> None:
    expected = single["bad numbers"]
    for found in (rank["bad numbers"] for rank in two):
        assert (
            found["metrics 1"]["skipped"] == expected["metrics 1"]["skipped"] == pytest.approx(0.2)
        )
        for name, value in found["weights 1"].items():
            torch.testing.assert_close(value, expected["weights 1"][name], atol=1e-5, rtol=0)


def test_bfloat16_computes_near_and_keeps_float32_weights(
    single: dict[str, Any], two: list[dict[str, Any]]
) -> None:
    found, expected = two[0]["bfloat16"], single["bfloat16"]  # which is float32
    assert {value.dtype for value in found["weights 1"].values()} == {torch.float32}
    torch.testing.assert_close(found["logps"], expected["logps"], atol=0.1, rtol=0)
    assert not torch.allclose(found["logps"], expected["logps"], atol=1e-5)
    small = [v for n, v in found["weights 1"].items() if not torch.equal(v, v.bfloat16().float())]
    assert small, "the master weights have been rounded"


def test_samples_do_not_depend_on_the_ranks(two: list[dict[str, Any]]) -> None:
    expected = sampled(World())
    assert two[0]["sampled"] == two[1]["sampled"] == expected
    assert expected[0] != expected[1]


def test_exchanges(two: list[dict[str, Any]]) -> None:
    for found in two:
        assert found["largest"] == 10
        assert found["collected"] == [0, 1, 4, 9, 16, 25, 36]
        assert found["first"] == 0


def test_a_world_of_one_is_the_identity_and_opens_nothing() -> None:
    world = World()
    assert (world.first, world.deal(range(3)), world.gather("a"), world.largest(7)) == (
        True,
        [0, 1, 2],
        ["a"],
        7,
    )
    assert world.collect([4, 5]) == [4, 5]
    world.barrier()
    world.close()
