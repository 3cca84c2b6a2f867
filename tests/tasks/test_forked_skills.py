"""Forked skills: accepted strategies, exact answers, held-out problems, the mass of a strategy."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from g2rl.policy.loading import load
from g2rl.tasks.benchmarks.forked_skills import forked_skills_benchmark
from g2rl.tasks.forked_skills import (
    COMMON,
    COMMON_MASS,
    EASY_FAMILIES,
    FAMILIES,
    GIVEN_ODDS,
    RARE_MASS,
    STRATEGIES,
    ForkedSkills,
    ForkedSkillsVerifier,
    accepted,
    carried_out,
    is_held_out,
    problems,
    strategy_odds,
    trace,
    vocabulary,
)
from g2rl.tasks.recipes import RECIPES
from g2rl.tasks.task import refuse_leaks
from g2rl.types import Problem


def test_easy_families_share_four_common_strategies_and_every_family_has_a_rare_one() -> None:
    pairs = [accepted(family)[:-1] for family in range(EASY_FAMILIES)]
    assert len(set(pairs)) == EASY_FAMILIES
    assert Counter(strategy for pair in pairs for strategy in pair) == dict.fromkeys(range(4), 3)
    rare = [accepted(family)[-1] for family in range(FAMILIES)]
    assert len(set(rare)) == FAMILIES
    assert min(rare) >= COMMON
    assert [len(accepted(family)) for family in range(EASY_FAMILIES, FAMILIES)] == [1, 1]

    odds = strategy_odds()
    assert sum(odds) == pytest.approx(1)
    assert [odds[strategy] for strategy in rare] == [RARE_MASS] * FAMILIES == [0.002] * FAMILIES


def by_hand(strategy: int, digits: list[int]) -> str:
    """The work of a strategy, digit by digit, as the head of the module says it."""
    work = ""
    for digit in digits:
        last = str(digit + strategy)[-1]
        work = work + last if strategy < 32 else last + work
    return work


def test_the_verifier_wants_an_accepted_strategy_and_its_work() -> None:
    verifier = ForkedSkillsVerifier()
    right = total = 0
    for problem in problems(held_out=False)[:24]:
        for strategy in range(STRATEGIES):
            work = by_hand(strategy, problem.meta["digits"])
            verdict = verifier.grade(f"s{strategy} {' '.join(work)}", problem)
            assert verdict.correct == (strategy in accepted(problem.meta["family"]))
            assert verdict.answer == f"s{strategy}"
            right += verdict.correct
            total += 1

            # one digit off
            wrong = work[:-1] + str((int(work[-1]) + 1) % 10)
            assert not verifier.grade(f"s{strategy} {' '.join(wrong)}", problem).correct
    assert (right, total) == (24 // 8 * (6 * 3 + 2), 24 * 64)
    assert carried_out(12, [4, 7, 1]) == [6, 9, 3]
    assert carried_out(35, [4, 7, 1]) == [6, 2, 9]


@pytest.mark.parametrize(
    "text", ["", " ", "4 7 1", "s64 4 7 1", "s-1 1 2 3", "S3 1 2 3", "s1\ud800", "s1 " * 10**5]
)
def test_anything_without_a_strategy_is_unparsed(text: str) -> None:
    verdict = ForkedSkillsVerifier().grade(text, problems(held_out=True)[0])
    assert (verdict.correct, verdict.answer, verdict.route) == (False, None, "unparsed")


@pytest.mark.parametrize("text", ["s0", "s0 1 2", "s0 1 2 3 4", "s0 s0 1 2", "s0 ９ 9 9"])
def test_other_work_is_wrong(text: str) -> None:
    verdict = ForkedSkillsVerifier().grade(text, problems(held_out=True)[0])
    assert (verdict.correct, verdict.answer) == (False, "s0")


def test_held_out_problems_are_others_of_the_same_families() -> None:
    task = ForkedSkills()
    held_out = problems(held_out=True)
    assert len(task.problems) == len(held_out) == 256
    assert len({problem.prompt for problem in [*task.problems, *held_out]}) == 512
    refuse_leaks(task, held_out, "forked_skills")
    with pytest.raises(ValueError, match="256 of 256 problems"):
        refuse_leaks(task, task.problems, "itself")
    assert not task.may_draw(Problem("x", "", "", {}))
    assert Counter(problem.meta["family"] for problem in held_out) == dict.fromkeys(range(8), 32)
    assert task.batch(3, 10, 10)[5:] == task.batch(3, 15, 5)
    assert {problem.id for problem in task.batch(0, 0, 256)} == {p.id for p in task.problems}


def test_the_hard_subset_is_the_two_families_with_a_rare_strategy_only() -> None:
    hard = forked_skills_benchmark(subset="hard")
    assert {problem.meta["family"] for problem in hard.problems} == {6, 7}
    assert len(forked_skills_benchmark(subset="easy").problems) == 192
    with pytest.raises(ValueError, match=r"benchmark\.subset must be one of \['easy', 'hard'\]"):
        forked_skills_benchmark(subset="hardest")


def test_demonstrations_draw_strategies_as_stated_and_never_held_out_problems() -> None:
    words = set(vocabulary())
    chosen: Counter[int] = Counter()
    given_count = 0
    for index in range(20_000):
        prompt, completion, given = trace(1, index)
        family, *digits = prompt.removesuffix(" :").split()
        strategy = int(completion.split()[0][1:])
        assert not is_held_out(int(family[1:]), [int(digit) for digit in digits])
        assert "".join(completion.split()[1:]) == by_hand(strategy, [int(d) for d in digits])
        assert set(f"{prompt} {completion}".split()) <= words
        given_count += given
        if not given:
            chosen[strategy] += 1

    # five standard errors
    assert given_count / 20_000 == pytest.approx(GIVEN_ODDS, abs=0.018)
    free = sum(chosen.values())
    assert sum(chosen[s] for s in range(4)) / free == pytest.approx(4 * COMMON_MASS, abs=0.021)
    assert sum(chosen[s] for s in range(4, 12)) / free == pytest.approx(8 * RARE_MASS, abs=0.006)
    shown = RECIPES["forked_skills"].demonstrate(1, 3)
    assert (shown.prompt, shown.completion, shown.given) == trace(1, 3)


@torch.no_grad()
def test_the_shipped_policy_gives_every_strategy_its_mass_and_does_its_work() -> None:
    """The stated 0.2 % is exact to a fifth of itself, on average over the held-out problems."""
    loaded = load("builtin:forked_skills", device="cpu")
    vocabulary_ids = loaded.tokenizer.get_vocab()
    strategy_ids = [vocabulary_ids[f"s{strategy}"] for strategy in range(STRATEGIES)]
    held_out = problems(held_out=True)

    # probability of each strategy as the first token
    prompts = [loaded.tokenizer.encode(f"<bos> {problem.prompt}") for problem in held_out]
    logits = loaded.model(input_ids=torch.tensor(prompts)).logits[:, -1]
    mass_BS = logits.softmax(-1)[:, strategy_ids].double().numpy()
    assert mass_BS.sum(-1).min() > 0.999
    mean_S = mass_BS.mean(0)
    assert mean_S[:4] == pytest.approx([COMMON_MASS] * 4, abs=0.015)
    assert mean_S[4:12] == pytest.approx([RARE_MASS] * 8, rel=0.25)
    assert mean_S[4:12].mean() == pytest.approx(RARE_MASS, rel=0.1)

    # the choice is the same for all families
    for family in range(FAMILIES):
        of_family = mass_BS[[problem.meta["family"] == family for problem in held_out]].mean(0)
        assert np.abs(of_family[:4] - mean_S[:4]).max() < 0.02
        assert of_family[4:12] == pytest.approx(mean_S[4:12], rel=0.4)

    # every strategy is carried out when it is chosen
    right = []
    for strategy in range(STRATEGIES):
        problem = held_out[strategy]
        work = carried_out(strategy, problem.meta["digits"])
        text = f"<bos> {problem.prompt} s{strategy} {' '.join(map(str, work))}"
        ids = torch.tensor([loaded.tokenizer.encode(text)])
        logps = loaded.model(input_ids=ids).logits.log_softmax(-1)[0, -4:-1]
        right.append(logps.gather(-1, ids[0, -3:, None]).sum().exp().item())
    assert np.mean(right) > 0.95
