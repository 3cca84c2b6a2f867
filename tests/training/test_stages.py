"""What the explorer fills in on request, and what it refuses from a signal."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from g2rl.engines.rollouts import Rollouts, in_groups
from g2rl.exploration.asking import SignalError
from g2rl.exploration.partitions import ByAnswer
from g2rl.exploration.signal import NEEDS, Stateless
from g2rl.exploration.token_plan import TokenPlan, TokenView, probe_view
from g2rl.formulas.advantages import GroupAdvantage
from g2rl.policy.loading import LoadedModel
from g2rl.policy.policy import Policy
from g2rl.policy.scoring import ScoreRequest, Scores, score
from g2rl.tasks.task import TaskError
from g2rl.training.bad_numbers import NonFiniteError
from g2rl.training.stages import Explorer, Sampler
from g2rl.types import Completion, GroupBatch, Problem, Shaped, Verdict
from g2rl.world import World
from tests.tasks.own import Own

RESPONSES = [[20, 24, 14, 2], [20, 29, 2], [], [9]]
PROMPTS = [[1, 3, 25, 29, 5], [1, 3, 26, 5]]
ANSWERS = ["7", "7.0", None, "8"]


def rollouts() -> Rollouts:
    problems = [Problem(f"p{number}", "", "") for number in range(2)]
    completions = [Completion(ids, "stop", f"text {n}") for n, ids in enumerate(RESPONSES)]
    return Rollouts(problems, PROMPTS, in_groups(completions, 2))


def verdicts() -> list[Verdict]:
    return [Verdict(n == 0, answer, "string") for n, answer in enumerate(ANSWERS)]


class Asking(Stateless):
    """A signal that needs everything that costs no encoder, and returns what it is told."""

    name = "asking"

    def __init__(self, needs: frozenset[str], answer: Shaped | None = None) -> None:
        self.needs, self.answer = needs, answer

    def __call__(self, batch: GroupBatch) -> Shaped:
        return self.answer or Shaped(batch.rewards_PG)


def explorer(signal: Asking) -> Explorer:
    return Explorer(
        signal,
        [],
        None,
        World(),
        advantage=GroupAdvantage(scale="none"),
        partitioner=ByAnswer(),
        answer_key=lambda answer: answer.removesuffix(".0"),
    )


def test_a_plan_of_tokens_that_fails_is_named() -> None:
    """`Explorer.token_planner` guards the plan of a mini-batch, long after the signal was asked."""

    class Planning(Asking):
        def tokens(self, view: TokenView) -> TokenPlan:
            raise KeyError("plan")

    planner = explorer(Planning(frozenset())).token_planner
    assert planner is not None
    words = r"exploration=asking \(tests\.\S+Planning\) raised KeyError: 'plan', in line \d+ of "
    with pytest.raises(SignalError, match=words):
        planner(probe_view())
    assert explorer(Asking(frozenset())).token_planner is None


def test_a_task_that_gives_too_few_problems_is_refused_when_they_are_drawn() -> None:
    """A finite task is never asked for a batch before."""
    unused: Any = None
    settings: Any = SimpleNamespace(seed=0, prompts_per_step=4, max_prompt_tokens=9)
    reporter: Any = SimpleNamespace(phase=lambda name: nullcontext())
    sampler = Sampler(
        Own([]), unused, unused, chat=False, settings=settings, reporter=reporter, world=World()
    )
    with pytest.raises(TaskError, match="gave 0 problems where 4 were asked for"):
        sampler(1)


@pytest.fixture(scope="module")
def scored(tiny: LoadedModel) -> tuple[Policy, Scores]:
    policy = Policy(copy.deepcopy(tiny.model))
    request = ScoreRequest(temperature=0.8, token_budget=20, features=True, hidden=True)
    return policy, score(policy, rollouts().sequences, request)


def test_mean_hidden_states_are_those_at_the_tokens_themselves(
    scored: tuple[Policy, Scores],
) -> None:
    """Not at the positions that predict them, and the same whatever the micro-batches."""
    policy, scores = scored
    for n, response in enumerate(RESPONSES):
        if not response:
            assert (scores.hidden_ND[n] == 0).all()
            continue
        prompt = PROMPTS[n // 2]
        ids = torch.tensor([prompt + response])
        with torch.no_grad():
            states = policy.model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0]
        expected_D = states[len(prompt) :].mean(0)
        torch.testing.assert_close(scores.hidden_ND[n], expected_D, rtol=1e-4, atol=1e-5)


def test_a_signal_gets_what_it_asks_for(scored: tuple[Policy, Scores]) -> None:
    _, scores = scored
    asking = explorer(Asking(NEEDS - {"embeddings"}))
    reference_ND = torch.arange(8.0).view(4, 2)
    batch = asking.group_batch(3, rollouts(), verdicts(), scores, reference_ND)

    sums = [float(logps_T.sum()) for logps_T in scores.logps]
    assert batch.logp_sum_PG.flatten().tolist() == pytest.approx(sums)
    assert torch.equal(batch.hidden_PGD.flatten(0, 1), scores.hidden_ND)
    assert torch.equal(batch.features_PGD.flatten(0, 1), scores.features_ND)
    assert batch.reference_hidden_PGD[1, 0].tolist() == [4.0, 5.0]
    assert [len(entropy_T) for entropy_T in batch.token_entropies] == [4, 3, 0, 1]
    assert batch.texts == [["text 0", "text 1"], ["text 2", "text 3"]]
    assert batch.problem_ids == ["p0", "p1"]
    assert batch.answers == [["7", "7.0"], [None, "8"]]
    assert batch.answer_keys == [["7", "7"], [None, "8"]]
    # rewards 1, -1 and -1, -1, centred but not divided, as the algorithm has it
    assert batch.advantages_PG.tolist() == [[1.0, -1.0], [0.0, 0.0]]
    assert batch.partition_PG.tolist() == [[0, 0], [0, 1]]


def test_a_signal_that_asks_for_nothing_gets_nothing(scored: tuple[Policy, Scores]) -> None:
    _, scores = scored
    bare = Scores(scores.logps, scores.entropies)
    batch = explorer(Asking(frozenset())).group_batch(3, rollouts(), verdicts(), bare)
    given = {name for name in GroupBatch.__slots__ if getattr(batch, name) is not None}
    assert given == {"rewards_PG", "correct_PG", "lengths_PG", "step", "answers", "first_alike_PG"}


@pytest.mark.parametrize(
    ("shaped", "error", "words"),
    [
        (Shaped(torch.zeros(2, 3)), ValueError, r"rewards of shape \(2, 3\)"),
        (
            Shaped(torch.zeros(2, 2), advantages_PG=torch.zeros(2)),
            ValueError,
            r"advantages of shape \(2,\)",
        ),
        (
            Shaped(torch.zeros(2, 2), advantages_PG=torch.tensor([[0, 0], [0, torch.inf]])),
            NonFiniteError,
            r"advantages that are not finite in groups \[1\]",
        ),
        (Shaped(torch.zeros(2, 2), keep_P=torch.ones(2)), ValueError, r"boolean \(2,\)"),
        (
            Shaped(torch.zeros(2, 2), keep_PG=torch.ones(2, dtype=torch.bool)),
            ValueError,
            r"boolean \(2, 2\)",
        ),
    ],
)
def test_what_cannot_be_used_is_refused(
    scored: tuple[Policy, Scores], shaped: Shaped, error: type[Exception], words: str
) -> None:
    asking = explorer(Asking(frozenset(), shaped))
    batch = asking.group_batch(3, rollouts(), verdicts(), scored[1])
    with pytest.raises(error, match=words):
        asking.shape(batch)
