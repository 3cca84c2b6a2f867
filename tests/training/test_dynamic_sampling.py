"""Dynamic sampling: what is drawn, kept and filled up, the stream it consumes, and resuming."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from g2rl.cli.jobs.train import train
from g2rl.engines.rollouts import Rollouts
from g2rl.training.dynamic_sampling import DynamicSampler
from g2rl.training.step import TrainingStep
from g2rl.types import Completion, Problem, Verdict
from g2rl.world import World
from tests.support import SMOKE, composed, metric_rows, untimed_rows

GROUP = 4


class Stream:
    """A sampler and a grader in one: problem n has a given number of right responses."""

    def __init__(self, right_counts: list[int]) -> None:
        self.right_counts = right_counts
        self.drawn: list[tuple[int, int, int]] = []

    def draw(self, step: int, start: int, first_place: int, count: int) -> Rollouts:
        self.drawn.append((start, first_place, count))
        problems = [
            Problem(str(n), "", str(self.right_counts[n])) for n in range(start, start + count)
        ]
        completions = [
            [Completion([g], "stop", f"{problem.id}.{g}") for g in range(GROUP)]
            for problem in problems
        ]
        return Rollouts(problems, [[int(problem.id)] for problem in problems], completions)

    def submit(self, items: list[tuple[str, Problem]]) -> Any:
        verdicts = []
        for text, problem in items:
            number = int(text.split(".")[1])
            verdicts.append(Verdict(number < int(problem.answer), text, "string"))

        class Handle:
            def result(self) -> list[Verdict]:
                return verdicts

        return Handle()


def sampler_of(stream: Stream, rounds: int, prompts: int = 3) -> DynamicSampler:
    return DynamicSampler(stream, stream, prompts, rounds, World())  # type: ignore[arg-type]


def test_uniform_groups_are_replaced_by_the_next_problems() -> None:
    """0 and 4 right of 4 are uniform: problems 0, 2 and 4 go, and as many as are missing come."""
    stream = Stream([0, 2, 4, 1, 0, 3, 2, 2])
    refilled = sampler_of(stream, rounds=10)(step=1)
    assert [problem.id for problem in refilled.rollouts.problems] == ["1", "3", "5"]
    assert stream.drawn == [(0, 0, 3), (3, 3, 2), (5, 5, 1)]
    assert refilled.rollouts.prompts == [[1], [3], [5]]
    texts = [completion.text for completion in refilled.rollouts.flat]
    assert texts == [f"{n}.{g}" for n in (1, 3, 5) for g in range(GROUP)]
    assert [verdict.answer for verdict in refilled.verdicts] == texts
    assert refilled.metrics == pytest.approx(
        {
            "sample/rounds": 3,
            "sample/prompts": 6,
            "sample/mixed": 3 / 6,
            "sample/filled_up": 0,
            "sample/accuracy": (2 + 4 + 1 + 3) / 24,
        }
    )


def test_rounds_are_bounded_and_the_rest_is_filled_up() -> None:
    stream = Stream([0, 2, 4, 1, 0, 3])
    refilled = sampler_of(stream, rounds=2)(step=1)
    assert [problem.id for problem in refilled.rollouts.problems] == ["1", "3", "0"]
    assert refilled.metrics["sample/rounds"] == 2
    assert refilled.metrics["sample/filled_up"] == pytest.approx(1 / 3)


def test_a_batch_without_any_mixed_group_is_that_of_the_first_round() -> None:
    refilled = sampler_of(Stream([0] * 99), rounds=4)(step=1)
    assert [problem.id for problem in refilled.rollouts.problems] == ["0", "1", "2"]
    assert refilled.metrics["sample/mixed"] == 0
    assert refilled.metrics["sample/filled_up"] == 1


def test_the_stream_is_consumed_without_gaps_and_a_continued_run_goes_on_behind_it() -> None:
    right_counts = [0, 2, 4, 1, 0, 3, 2, 0, 2, 1, 4, 4, 1, 1, 1, 0, 2, 3, 1, 0, 1, 1]
    whole, first, second = (sampler_of(Stream(right_counts), rounds=3) for _ in range(3))
    expected = [whole(step).rollouts.problems for step in (1, 2, 3, 4)]
    found = [first(step).rollouts.problems for step in (1, 2)]
    second.load_state_dict(first.state_dict())
    found += [second(step).rollouts.problems for step in (3, 4)]
    assert found == expected
    drawn = whole.sampler.drawn  # type: ignore[attr-defined]
    ends = [start + count for start, _, count in drawn]
    assert [start for start, _, _ in drawn] == [0, *ends[:-1]]
    assert whole.state_dict() == {"consumed": ends[-1]}


@pytest.mark.parametrize("state", [{}, {"consumed": -1}, {"consumed": "3"}, {"consumed": True}])
def test_a_checkpoint_that_does_not_say_how_much_was_drawn_is_refused(state: Any) -> None:
    with pytest.raises(ValueError, match=r"algorithm\.sampling_rounds: the checkpoint"):
        sampler_of(Stream([]), rounds=2).load_state_dict(state)


def run(folder: Path, *overrides: str) -> None:
    common = (
        *SMOKE,
        "algorithm=dapo",
        "exploration=entropy_controller",
        "exploration.target=9.0",
        "trainer.steps=2",
        "trainer.eval_every=0",
        "trainer.group_size=3",
        "task.max_response_tokens=12",
        "benchmark.problems=2",
        "benchmark.samples=1",
        "benchmark.ks=[1]",
        "trainer.checkpoint_every=1",
        "trainer.probe_problems=0",
        "algorithm.sampling_rounds=3",
    )
    folder.mkdir(exist_ok=True)
    train(composed(*common, *overrides), folder)


def test_a_killed_run_with_dynamic_sampling_and_a_controller_continues_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "whole")
    rows = metric_rows(tmp_path / "whole")[1:]
    assert rows[0]["sample/prompts"] > 4, "no group was replaced, so nothing would be seen"
    assert [row["explore/entropy_coefficient"] for row in rows] == pytest.approx([0.0, 0.005])
    for row, step in zip(rows, (1, 2), strict=True):
        table = pd.read_parquet(tmp_path / "whole" / "rollouts" / f"step_00000{step}.parquet")
        mixed = table.groupby("problem")["correct"].nunique() == 2
        assert mixed.mean() == pytest.approx(1 - row["sample/filled_up"])

    step = TrainingStep.__call__

    def interrupted(self: TrainingStep, number: int) -> dict[str, float]:
        if number == 2:
            raise KeyboardInterrupt
        return step(self, number)

    monkeypatch.setattr(TrainingStep, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut")
    monkeypatch.setattr(TrainingStep, "__call__", step)
    run(tmp_path / "cut")
    assert untimed_rows(tmp_path / "cut") == untimed_rows(tmp_path / "whole")
    place = Path("checkpoints/step_000002/model.safetensors")
    assert (tmp_path / "cut" / place).read_bytes() == (tmp_path / "whole" / place).read_bytes()
