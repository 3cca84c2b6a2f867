"""Outcome bonuses by hand, and counts that a checkpoint keeps."""

from __future__ import annotations

import io

import pytest
import torch

from g2rl.exploration.outcome import NO_ANSWER, OutcomeExploration, answer_label
from g2rl.types import GroupBatch
from tests.exploration.groups import batch_of


def given(answers: list[list[str | None]], right: list[list[int]] | None = None) -> GroupBatch:
    verdicts = right or [[0] * len(group) for group in answers]
    return batch_of(
        verdicts,
        advantages_PG=torch.zeros(len(answers), len(answers[0])),
        answers=answers,
        problem_ids=[f"p{number}" for number in range(len(answers))],
    )


def bonus(signal: OutcomeExploration, batch: GroupBatch) -> list[list[float]]:
    """What is added, before c."""
    shaped = signal(batch)
    torch.testing.assert_close(
        shaped.advantages_PG.double(), signal.coefficient * shaped.diagnostics["outcome_bonus"]
    )
    return shaped.diagnostics["outcome_bonus"].tolist()


def test_visits_are_counted_by_problem_over_the_run() -> None:
    signal = OutcomeExploration("ucb")
    assert bonus(signal, given([["7", "7", "8", None]]))[0] == pytest.approx(
        [0.5**0.5] * 2 + [1, 1]
    )
    again = bonus(signal, given([["7", "9", "8", None], ["7", "7", "7", "7"]]))
    assert again[0] == pytest.approx([3**-0.5, 1, 0.5**0.5, 0.5**0.5])
    assert again[1] == pytest.approx([0.5] * 4), "another problem has counts of its own"


def test_con_turns_negative_at_the_fifth_visit() -> None:
    signal = OutcomeExploration("ucb_con")
    found = [bonus(signal, given([["7"]]))[0][0] for _ in range(6)]
    assert found == pytest.approx([n**-0.5 - 0.5 for n in range(1, 7)])
    assert found[3] == 0 > found[4]


def test_mean_compares_with_the_others_of_the_group() -> None:
    """b = 1/sqrt 2, 1/sqrt 2, 1: less the mean of the other two."""
    b = 2**-0.5
    found = bonus(OutcomeExploration("ucb_mean"), given([["7", "7", "8"]]))[0]
    assert found == pytest.approx([b - (b + 1) / 2] * 2 + [1 - b])


def test_batch_punishes_collisions_without_history() -> None:
    signal = OutcomeExploration("batch", coefficient=1.0)
    assert "problem_ids" not in signal.needs
    for _ in range(2):
        found = bonus(signal, given([["7", "7", "7", "8", None, None]]))[0]
        assert found == pytest.approx([-2 / 6] * 3 + [0, -1 / 6, -1 / 6])
    assert signal.state_dict() == {"counts": {}}


@pytest.mark.parametrize("mode", ["ucb", "ucb_mean", "ucb_con", "batch"])
def test_trap_a_solved_group_gets_no_bonus(mode: str) -> None:
    """The paper's guard, easy to miss; one wrong response is enough to lift it."""
    signal = OutcomeExploration(mode)
    solved, nearly = bonus(signal, given([["7", "7", "8"]] * 2, [[1, 1, 1], [1, 1, 0]]))
    assert solved == [0.0] * 3
    assert any(value != 0 for value in nearly)


def test_trap_equivalent_answers_are_one_outcome() -> None:
    batch = given([["1/2", "0.5"]])
    batch.answer_keys = [["1/2", "1/2"]]
    assert bonus(OutcomeExploration("ucb"), batch)[0] == pytest.approx([2**-0.5] * 2)


def test_the_share_of_problems_seen_before_is_told() -> None:
    signal = OutcomeExploration()
    first = signal(given([["7", "8"]])).metrics
    assert first == {"outcomes": 2.0, "revisited": 0.0, "outcomes_known": 2.0}
    second = signal(given([["7", "9"], ["8", "8"]])).metrics
    assert second == {"outcomes": 1.5, "revisited": 0.5, "outcomes_known": 4.0}


def test_counts_go_through_a_checkpoint_that_loads_plain_data_only() -> None:
    signal, again = OutcomeExploration("ucb"), OutcomeExploration("ucb")
    signal(given([["7", None, "x" * 500]]))
    file = io.BytesIO()
    torch.save(signal.state_dict(), file)
    file.seek(0)
    again.load_state_dict(torch.load(file, weights_only=True))
    assert bonus(again, given([["7", None, "x" * 500]])) == bonus(
        signal, given([["7", None, "x" * 500]])
    )
    assert max(len(label) for label in signal.counts["p0"]) == 32
    with pytest.raises(ValueError, match="'moments'"):
        again.load_state_dict({"moments": 1})


def test_no_answer_is_the_label_of_another() -> None:
    assert len({answer_label(None), answer_label(NO_ANSWER), answer_label("")}) == 3


def test_what_is_missing_or_wrong_is_named() -> None:
    with pytest.raises(ValueError, match="advantages"):
        OutcomeExploration()(batch_of([[1, 0]]))
    bare = given([["7"]])
    bare.problem_ids = None
    with pytest.raises(ValueError, match="problem ids"):
        OutcomeExploration()(bare)
    for settings in ({"mode": "count"}, {"coefficient": -1.0}):
        with pytest.raises(ValueError, match="exploration"):
            OutcomeExploration(**settings)
