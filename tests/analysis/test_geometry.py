"""Cells of temperatures, strategies and solutions, on the tiny policy and on cases worked by
hand."""

from __future__ import annotations

from contextlib import nullcontext
from random import Random

import numpy as np
import pandas as pd
import pytest
import torch

from g2rl.analysis.captions import conditions
from g2rl.analysis.geometry.measure import (
    Geometry,
    add_set,
    classes_of,
    scoring_temperatures,
)
from g2rl.analysis.geometry.report import markdown, summary
from g2rl.analysis.geometry.strategies import (
    distinct_interval,
    distinct_solutions,
    style_of,
    style_shares,
)
from g2rl.analysis.groups import GradedGroups, sample_groups
from g2rl.engines.rollouts import Rollouts
from g2rl.engines.transformers import TransformersEngine
from g2rl.exploration.encoders.ngram import NgramHashing
from g2rl.policy.loading import LoadedModel
from g2rl.policy.policy import Policy
from g2rl.policy.scoring import ScoreRequest, score
from g2rl.tasks.benchmarks.countdown import countdown_benchmark
from g2rl.tasks.countdown import CountdownVerifier, draw_training, held_out_problems
from g2rl.tasks.countdown_traces import STYLE_ODDS, STYLES, write_trace
from g2rl.tasks.grading.grader import Grader
from g2rl.types import Completion, SamplingParams


def test_styles_are_those_that_wrote_the_traces() -> None:
    seen = set()
    for seed in range(40):
        numbers, steps = draw_training(0, seed, 8)
        style = Random(seed).choices(STYLES, STYLE_ODDS)[
            0
        ]  # the first thing that write_trace draws
        assert style_of(write_trace(numbers, steps, Random(seed))) == style
        seen.add(style)
    assert seen == set(STYLES)
    assert [style_of(text) for text in ("", "direct 3", "The answer", "\\boxed 3")] == ["other"] * 4


def test_solutions_count_once_up_to_commutativity() -> None:
    problem = held_out_problems(1)[0]
    numbers = {"numbers": [3, 4, 2], "target": 11}
    problem = type(problem)("p", "use 3 4 2 make 11 :", "11", numbers)
    texts = ["3 + 4 * 2", "2 * 4 + 3", "( 4 * 2 ) + 3", "4 + 3 * 2", "3 + 4 + 2 + 2", "nonsense"]
    completions = [
        Completion(text=f"\\boxed{{ {text} }}", token_ids=[1], finish="stop") for text in texts
    ]
    grader = Grader(CountdownVerifier(), workers=1)
    verdicts = grader.grade([(c.text, problem) for c in completions])
    groups = GradedGroups(Rollouts([problem], [[1]], [completions]), [verdicts])
    classes = classes_of(groups, grader)[0]
    grader.close()
    table = pd.DataFrame(
        {"problem": "p", "correct": [v.correct for v in verdicts], "answer_class": classes}
    )
    assert table["correct"].tolist() == [True, True, True, False, False, False]
    assert distinct_solutions(table).to_dict() == {"p": 1}
    more = pd.DataFrame(
        {"problem": ["q"] * 4, "correct": [True, True, False, True], "answer_class": [0, 1, 2, -1]}
    )
    none = pd.DataFrame({"problem": ["r"] * 2, "correct": [False, False], "answer_class": [0, -1]})
    assert distinct_solutions(pd.concat([table, none, more])).to_dict() == {"p": 1, "r": 0, "q": 2}
    assert distinct_interval(pd.concat([table, none, more])).value == pytest.approx(1)


def test_style_shares_by_hand() -> None:
    frame = pd.DataFrame(
        {
            "problem": ["a", "a", "b", "b"],
            "style": ["try", "calc", "try", "try"],
            "correct": [True, True, False, True],
        }
    )
    found = style_shares(frame).set_index("style")
    assert found["value"].to_dict() == {"direct": 0, "calc": 0.25, "back": 0, "try": 0.75}
    assert found.loc["try", ["low", "high", "responses"]].tolist() == [0.5, 1, 3]
    assert found.loc["try", "accuracy"] == pytest.approx(2 / 3)
    assert np.isnan(found.loc["back", "accuracy"])
    assert "other" in set(style_shares(frame.assign(style="other"))["style"])


def test_null_is_the_sampling_temperature_and_no_cell_comes_twice() -> None:
    assert scoring_temperatures(1.0, [None, 0.6, 1.0, 0.6]) == [1.0, 0.6]
    assert scoring_temperatures(0.6, [1, None]) == [1.0, 0.6]


@pytest.fixture(scope="module")
def measured(tiny: LoadedModel) -> tuple[Geometry, GradedGroups, Policy]:
    """Four problems, six responses, sampled at 1 and scored at 1 and 0.5."""
    policy = Policy(tiny.model)
    engine = TransformersEngine(policy, tiny.tokenizer, tiny.stop_ids)
    grader = Grader(CountdownVerifier(), workers=1)
    groups = sample_groups(
        countdown_benchmark(4),
        engine,
        grader,
        tiny.tokenizer,
        problems=4,
        responses=6,
        params=SamplingParams(1.0, max_tokens=40),
        chat=True,
        seed=3,
    )
    found = Geometry()
    add_set(
        found,
        policy,
        groups,
        classes_of(groups, grader),
        sampled_at=1.0,
        scored_at=[None, 0.5],
        threshold=0.1,
        token_budget=2048,
        encoder=NgramHashing(),
        phase=lambda name, total: nullcontext(lambda count: None),
    )
    grader.close()
    return found, groups, policy


def test_cells_hold_the_cosines_of_features_at_their_scoring_temperature(
    measured: tuple[Geometry, GradedGroups, Policy],
) -> None:
    found, groups, policy = measured
    tables = found.tables()
    for scored_at in (1.0, 0.5):
        scores = score(
            policy,
            groups.rollouts.sequences,
            ScoreRequest(
                temperature=1.0, token_budget=512, features=True, feature_temperature=scored_at
            ),
        )
        features = scores.features_ND.double().view(4, 6, -1)
        expected = torch.cosine_similarity(features.unsqueeze(2), features.unsqueeze(1), dim=-1)
        mine = tables["pairs"].query("scored_at == @scored_at")
        assert len(mine) == 4 * 15
        for _, row in mine.iterrows():
            p = [problem.id for problem in groups.rollouts.problems].index(row["problem"])
            assert row["cosine"] == pytest.approx(
                expected[p, row["first"], row["second"]].item(), abs=1e-5
            )
        responses = tables["responses"].query("scored_at == @scored_at")
        np.testing.assert_allclose(
            responses["feature_norm"], features.flatten(0, 1).norm(dim=1), rtol=1e-4
        )
        np.testing.assert_allclose(
            responses["entropy"], scores.mean_entropy_N, rtol=1e-4, err_msg="at 1.0 always"
        )
    cosines = tables["pairs"].pivot(
        index=["problem", "first", "second"], columns="scored_at", values="cosine"
    )
    assert (cosines[1.0] - cosines[0.5]).abs().max() > 0.05, "the scoring temperature matters"


def test_semantic_cosines_are_the_encoders_and_know_no_scoring_temperature(
    measured: tuple[Geometry, GradedGroups, Policy],
) -> None:
    found, groups, _ = measured
    tables = found.tables()
    texts = [completion.text for completion in groups.rollouts.completions[0]]
    expected = NgramHashing().encode(texts)
    mine = tables["pairs"].query("scored_at == 0.5").iloc[:15]
    dots = [
        (expected[i] @ expected[j]).item()
        for i, j in zip(mine["first"], mine["second"], strict=True)
    ]
    np.testing.assert_allclose(mine["semantic"], dots, atol=1e-6)
    semantic = tables["numbers"].query(
        "space == 'semantic' and metric == 'mean_cosine' and pair == 'all'"
    )
    assert len(semantic) == 1
    assert semantic["value"].item() == pytest.approx(
        tables["pairs"].query("scored_at == 1")["semantic"].mean()
    )
    pearson = (
        tables["numbers"].query("metric == 'semantic_pearson' and scored_at == 1.0")["value"].item()
    )
    one = tables["pairs"].query("scored_at == 1.0")
    assert pearson == pytest.approx(np.corrcoef(one["semantic"], one["cosine"])[0, 1])


def test_every_table_says_how_it_was_sampled_and_scored(
    measured: tuple[Geometry, GradedGroups, Policy],
) -> None:
    tables = measured[0].tables()
    about = {
        "model": "tiny",
        "benchmark": "countdown",
        "problems": 4,
        "responses": 6,
        "max_tokens": 40,
        "top_p": 0.9,
        "top_k": 0,
        "seed": 3,
        "near_orthogonal": 0.1,
        "encoder": "ngram",
    }
    assert conditions(about, 1.0, 0.5) == (
        "sampled at temperature 1, top-p 0.9; p_t scored at temperature 0.5"
    )
    text = markdown(tables, about)
    for scored_at in (1.0, 0.5):
        assert f"## {conditions(about, 1.0, scored_at)}" in text
    plain = summary(tables, about)
    assert [(c["sampled_at"], c["scored_at"]) for c in plain["cells"]] == [(1.0, 1.0), (1.0, 0.5)]
    assert all(conditions(about, 1.0, c["scored_at"]) in c["caption"] for c in plain["cells"])
    rows = {(r["pair"], r["metric"]): r for r in plain["cells"][0]["gradient"]}
    mine = tables["pairs"].query("scored_at == 1.0")["cosine"]
    assert rows["all", "mean_cosine"]["value"] == pytest.approx(mine.mean())
    assert rows["all", "negative_ratio"]["value"] == pytest.approx((mine < 0).mean())
    assert rows["all", "mean_cosine"]["low"] <= mine.mean() <= rows["all", "mean_cosine"]["high"]
