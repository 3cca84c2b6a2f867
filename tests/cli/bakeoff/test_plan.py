"""The plan of the bake-off: complete, composable, and in the order that it states."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from g2rl.analysis.bakeoff.rows import Row, Rows
from g2rl.cli.bakeoff.plan import Plan, PlannedRun, read_plan
from g2rl.cli.build.signals import build_signal
from g2rl.cli.config.choices import choices
from tests.support import ROOT, composed

PLAN = ROOT / "experiments" / "bakeoff" / "plan.yaml"
NOT_COMPARED = {"kl_cov", "combined"}
"""kl_cov does nothing in one update a batch, says the plan; combined is what its parts are."""

VARIANTS = [name for name, words in read_plan(PLAN).arms.items() if len(words) > 1]
"""Arms with settings; a bare signal composes in tests/cli/config/test_compose.py."""


@pytest.fixture(scope="module")
def plan() -> Plan:
    return read_plan(PLAN)


def row_of(run: PlannedRun, pass_1: float) -> Row:
    last = {"step": 9, "pass@1": pass_1, "pass@32": 0.5}
    return {**run.identity, "curve": [{"step": 0}, last]}


def rows_of(*rows: Row) -> Rows:
    return Rows({(row["task"], row["arm"], row["rate"], row["seed"]): row for row in rows})


def test_every_signal_is_in_the_plan(plan: Plan) -> None:
    compared = {words[0].partition("=")[2] for words in plan.arms.values()}
    assert compared == set(choices("exploration")) - NOT_COMPARED
    assert "kl_cov" in PLAN.read_text().partition("Not in it")[2]


@pytest.mark.parametrize("arm", VARIANTS)
def test_an_arm_with_settings_composes_to_its_signal(plan: Plan, arm: str) -> None:
    run = plan.run(plan.tasks["detour"], arm, "1e-3", 4)
    config = composed(*run.words)
    assert build_signal(config.exploration).name == plan.arms[arm][0].partition("=")[2]
    assert (config.seed, config.optimizer.lr, config.task.name) == (4, 1e-3, "detour")
    assert (config.algorithm.kl_coef, config.optimizer.mini_batches) == (0, 1)


def test_every_task_has_enough_samples_and_its_own_experiment(plan: Plan) -> None:
    for name, task in plan.tasks.items():
        config = composed(f"experiment={task.experiment}")
        assert config.task.name == config.benchmark.name == name
        assert config.benchmark.samples >= 64
        assert config.trainer.eval_samples == 32
        assert len(task.rates) == 3
        assert float(task.rates[1]) < float(task.rates[0]) < float(task.rates[2])
    assert len({task.protocol for task in plan.tasks.values()}) == 3


def test_rates_come_breadth_first_on_a_seed_that_is_not_reported(plan: Plan) -> None:
    task = plan.tasks["detour"]
    runs = plan.runs_of(task, "rates", rows_of())
    arms = list(plan.arms)
    assert [run.arm for run in runs] == arms * 3
    assert [run.rate for run in runs[:: len(arms)]] == list(task.rates)
    assert {run.seed for run in runs} == {100}
    assert plan.runs_of(task, "middle", rows_of()) == runs[: len(arms)]
    assert 100 not in plan.seeds


def test_reported_seeds_take_the_best_rate_of_the_arms_that_have_one(plan: Plan) -> None:
    task = plan.tasks["detour"]
    middle, low, high = (plan.run(task, "maxrl", rate, 100) for rate in task.rates)
    unfinished = plan.run(task, "passk", task.rates[0], 100)
    rows = rows_of(
        row_of(middle, 0.5), row_of(low, 0.8), row_of(high, 0.4), row_of(unfinished, 0.9)
    )
    runs = plan.seed_runs(task, rows)
    assert [(run.arm, run.rate) for run in runs] == [("maxrl", task.rates[1])] * 5
    assert [run.seed for run in runs] == [0, 1, 2, 3, 4]


def test_the_first_sitting_is_the_plan_at_one_rate(plan: Plan) -> None:
    sitting = read_plan(PLAN.with_name("first_sitting.yaml"))
    for name, task in plan.tasks.items():
        assert sitting.tasks[name] == replace(task, rates=task.rates[:1])
    assert replace(sitting, tasks=plan.tasks) == plan

    # its rows are rows of the whole plan
    own, whole = (one.run(one.tasks["detour"], "grpo", "0.0005", 1) for one in (sitting, plan))
    assert own.identity == whole.identity


def test_the_claims_name_arms_and_metrics(plan: Plan) -> None:
    claims = plan.study(plan.tasks["detour"]).claims
    assert claims is not None
    assert {claims.arm, *claims.against} <= set(plan.arms)
    assert claims.arm not in claims.against
    assert plan.study(plan.tasks["forked_skills"]).claims is None


def test_some_arms_and_an_own_one(plan: Plan) -> None:
    assert list(plan.only(["maxrl", "grpo"]).arms) == ["maxrl", "grpo"]
    with pytest.raises(ValueError, match="no arm 'maxlr'; it has grpo, "):
        plan.only(["maxlr"])
    own = plan.with_own_arm("mine", ["exploration=maxrl", "+exploration.order=2"])
    assert list(own.arms)[-1] == "mine"
    assert own.run(plan.tasks["detour"], "mine", "1e-3", 0).words[1:3] == list(own.arms["mine"])
    with pytest.raises(ValueError, match="'grpo' already"):
        plan.with_own_arm("grpo", ["exploration=none"])


def test_a_command_makes_one_run_again(plan: Plan) -> None:
    run = plan.run(plan.tasks["detour"], "g2rl_01_lam3", "5e-4", 2)
    assert run.command == (
        "g2rl-train experiment=bakeoff_detour exploration=g2rl exploration.reward=01 "
        "exploration.spread=none exploration.clip=null exploration.lam=3 "
        "algorithm.uniform_groups=drop optimizer.lr=5e-4 seed=2"
    )
    assert run.folder == Path("detour/g2rl_01_lam3-lr5e-4-seed2")


def test_rates_are_called_as_stored_rows_call_them(plan: Plan) -> None:
    assert plan.tasks["detour"].rates == ("0.0005", "0.00025", "0.001")


@pytest.mark.parametrize("word", ["partition=answer", "encoder=ngram", "+exploration.weight=2"])
def test_an_own_arm_may_choose_what_signals_alone_look_at(plan: Plan, word: str) -> None:
    assert plan.with_own_arm("mine", [word]).arms["mine"] == (word,)


@pytest.mark.parametrize(
    "word", ["seed=3", "+exploration@optimizer=mine", "model@exploration=tiny"]
)
def test_an_own_arm_changes_nothing_of_the_protocol(plan: Plan, word: str) -> None:
    with pytest.raises(ValueError, match="would change the protocol"):
        plan.with_own_arm("mine", [word])


@pytest.mark.parametrize("name", ["", "a/b", "..", "a b", "-a", "a\nb"])
def test_an_own_arm_has_a_name_for_files(plan: Plan, name: str) -> None:
    with pytest.raises(ValueError, match="is no name for files and commands"):
        plan.with_own_arm(name, ["exploration=none"])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("baseline: grpo", "baseline: gone", "the baseline 'gone' is none of the arms"),
        ("rates_seed: 100", "rates_seed: 3", "seed 3, which must not be reported"),
        ("seeds: [0, 1, 2, 3, 4]", "", "says nothing of seeds"),
        ("seeds: [0, 1,", "seeds: [0, 0,", "seeds must be a list of different whole numbers"),
        ("seeds: [0, 1, 2, 3, 4]", "seeds: 5", "whole numbers, got 5"),
        ("seeds: [0, 1, 2, 3, 4]", "seeds: [true]", r"whole numbers, got \[True\]"),
        ("seeds: [0, 1, 2, 3, 4]", "seeds: [", "cannot be read as YAML: while parsing"),
        ("rates_seed: 100", "rates_seed: last", "rates_seed must be a whole number, got 'last'"),
        ("tasks:", "tasks: []\nmore:", r"tasks must have entries NAME: \.\.\., got \[\]"),
        ("  detour:  ", "  a/b:  ", "tasks: 'a/b' is no name for files and commands"),
        ("    primary: pass@32\n", "", "tasks.detour says nothing of primary"),
        (
            "choose_by: [pass@1, pass@32]",
            "choose_by: pass@1",
            "as a list in choose_by, got 'pass@1'",
        ),
        ("rates: [2e-4, 1e-4, 4e-4]", "rates: 2e-4", "as a list in rates, got 0.0002"),
        (
            "claims:\n",
            "claims:\n  arm: grpo\nmore:\n",
            "claims say nothing of task, against, metrics",
        ),
        ("rates_seed: 100", "base: plan.yaml", "builds upon itself by way of base"),
    ],
)
def test_a_plan_that_contradicts_itself_is_refused(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    text = PLAN.read_text()
    assert old in text
    (tmp_path / "plan.yaml").write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=message):
        read_plan(tmp_path / "plan.yaml")
    with pytest.raises(ValueError, match=r"there is no file .*--plan"):
        read_plan(tmp_path / "none.yaml")
