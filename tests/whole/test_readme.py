"""What the README shows works as shown."""

from __future__ import annotations

import re
from typing import Any

import torch

from g2rl.cli.config.choices import choices
from g2rl.cli.config.mistakes import groups
from g2rl.exploration.signal import NEEDS
from g2rl.exploration.token_plan import TokenView
from g2rl.types import GroupBatch
from tests.support import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_signal_of_25_lines_is_a_signal() -> None:
    """r~ = r + weight * (1 - minmax(length)) on correct responses, by hand."""
    [code] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 25
    scope: dict[str, Any] = {}
    exec(code, scope)
    batch = GroupBatch(
        rewards_PG=torch.tensor([[1.0, 1.0, -1.0]]),
        correct_PG=torch.tensor([[True, True, False]]),
        lengths_PG=torch.tensor([[10, 30, 20]]),
        entropy_PG=torch.zeros(1, 3),
    )
    shaped = scope["Brevity"](weight=0.5)(batch)
    assert shaped.rewards_PG.tolist() == [[1.5, 1.0, -1.0]]
    assert shaped.diagnostics["brevity"].shape == (1, 3)


def test_every_choice_that_is_named_exists() -> None:
    for group, choice in re.findall(r"\b(\w+)=(\w+)", README):
        if group in groups() and (group, choice) != ("exploration", "brevity"):
            assert choice in choices(group), f"{group}={choice}"


def test_every_file_that_is_linked_exists() -> None:
    for target in re.findall(r"\]\(((?!http)[^)#]+)", README):
        assert (ROOT / target).exists(), target


SIGNALS = (ROOT / "docs" / "signals.md").read_text(encoding="utf-8")


WRITE = (ROOT / "docs" / "write_a_signal.md").read_text(encoding="utf-8")


def signals_shown() -> dict[str, Any]:
    """What the examples of docs/write_a_signal.md define."""
    scope: dict[str, Any] = {}
    for code in re.findall(r"```python\n(.*?)```", WRITE, re.DOTALL):
        assert len([line for line in code.splitlines() if line.strip()]) <= 25
        exec(code, scope)
    return scope


def test_the_example_that_shapes_rewards() -> None:
    """Mean log-probabilities -1, -3, -2: min-max 1, 0, 1/2."""
    batch = GroupBatch(
        rewards_PG=torch.tensor([[1.0, 1.0, -1.0]]),
        correct_PG=torch.tensor([[True, True, False]]),
        lengths_PG=torch.tensor([[2, 1, 1]]),
        logp_sum_PG=torch.tensor([[-2.0, -3.0, -2.0]]),
    )
    shown = signals_shown()
    assert shown["Surprise"]()(batch).rewards_PG.tolist() == [[1.0, 1.5, -1.0]]
    shown["test_surprise"]()  # the page's own test says the same


def test_the_example_that_gives_advantages() -> None:
    """The 0.4-quantile of 0, 0, 0, 1 is 0 and of 0, 1, 1, 1 is 1: rare events of either kind."""
    correct_PG = torch.tensor([[True, False, False, False], [True, True, True, False]])
    batch = GroupBatch(
        rewards_PG=correct_PG.float() * 2 - 1,
        correct_PG=correct_PG,
        lengths_PG=torch.ones(2, 4, dtype=torch.int64),
    )
    found = signals_shown()["QuantileBaseline"]()(batch).advantages_PG
    assert found.tolist() == [[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, -1.0]]


def test_the_example_that_plans_tokens() -> None:
    tokens = {"advantages_T": torch.ones(3), "old_logps_T": -torch.ones(3)}
    view = TokenView(
        **tokens,
        entropy_T=torch.tensor([0.5, 0.01, 0.05]),
        segments_T=torch.tensor([0, 0, 1]),
        group_B=torch.tensor([0, 0]),
    )
    plan = signals_shown()["Uncertain"]().tokens(view)
    plan.check("uncertain", 3)
    assert plan.weight_T.tolist() == [1.0, 0.0, 1.0]


def test_every_need_is_in_the_table() -> None:
    """The page lists what a signal may ask for, with fields that a batch has."""
    table = WRITE.partition("| in `needs` |")[2].partition("\n\n")[0]
    assert set(re.findall(r'`"(\w+)"`', table)) == NEEDS
    for fields in re.findall(r"(?m)^\|[^|]*\|([^|]*)\|", table)[1:]:
        for name in re.findall(r"`(\w+)`", fields):
            assert hasattr(GroupBatch, name), name


def test_every_signal_and_partition_is_in_the_table() -> None:
    for group in ("exploration", "partition"):
        table = SIGNALS.partition(f"| `{group}=` |")[2].partition("\n\n")[0]
        named = re.findall(r"(?m)^\| `(\w+)` \|", table)
        assert sorted(named) == choices(group)
