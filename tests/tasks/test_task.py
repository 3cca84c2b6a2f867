"""What every task says of the problems of every benchmark, and what helps against a leak."""

from __future__ import annotations

from itertools import permutations

import pytest

from g2rl.tasks.arithmetic import FORMS, Arithmetic
from g2rl.tasks.arithmetic import problems as arithmetic_problems
from g2rl.tasks.countdown import Countdown, held_out_problems
from g2rl.tasks.countdown_hard import CountdownHard
from g2rl.tasks.countdown_hard import problems as countdown_hard_problems
from g2rl.tasks.detour import Detour
from g2rl.tasks.detour import held_out_problems as detour_problems
from g2rl.tasks.forked_skills import ForkedSkills
from g2rl.tasks.forked_skills import problems as forked_skills_problems
from g2rl.tasks.task import Task, fit_prompts, refuse_leaks
from g2rl.types import Problem

TASKS: dict[str, Task] = {
    **{f"arithmetic_{form}": Arithmetic(form) for form in FORMS},
    "countdown": Countdown(held_out=0),
    "countdown_hard": CountdownHard(),
    "detour": Detour(held_out=0),
    "forked_skills": ForkedSkills(),
}


def problems_of(name: str) -> list[Problem]:
    """Training and held-out problems of a built-in task."""
    if name.startswith("arithmetic_"):
        form = name.removeprefix("arithmetic_")
        return arithmetic_problems(form, False) + arithmetic_problems(form, True)
    if name == "countdown":
        return held_out_problems(256)
    if name == "countdown_hard":
        return countdown_hard_problems("train") + countdown_hard_problems("heldout")
    if name == "detour":
        return detour_problems(64)
    return forked_skills_problems(False) + forked_skills_problems(True)


@pytest.mark.parametrize(("task", "other"), [*permutations(TASKS, 2)])
def test_no_task_takes_problems_of_another_for_its_own(task: str, other: str) -> None:
    leaked = [problem for problem in problems_of(other) if TASKS[task].may_draw(problem)]
    # the stream of Countdown may meet problems of its hard sibling
    assert bool(leaked) == ((task, other) == ("countdown", "countdown_hard"))


def test_where_no_prompt_fits_dropping_them_is_no_advice() -> None:
    lengths = {problem.id: 5 + place for place, problem in enumerate(Arithmetic("sum").problems)}
    for overlong, limit, advised in (("drop", 4, False), ("error", 4, False), ("error", 9, True)):
        with pytest.raises(ValueError, match="raise the limit") as refused:
            fit_prompts(Arithmetic("sum"), lambda one: lengths[one.id], limit, overlong)
        assert ("task.overlong=drop" in str(refused.value)) == advised


def test_the_advice_names_only_settings_that_the_task_has() -> None:
    task = Arithmetic("sum")
    with pytest.raises(ValueError, match=r"2048 of 2048 .*; choose another") as refused:
        refuse_leaks(task, task.problems, "mine", can_hold_out=False)
    assert "held_out" not in str(refused.value)
    with pytest.raises(ValueError, match=r"name other rows, benchmark\.source=FILE, choose"):
        refuse_leaks(task, task.problems, "mine", can_hold_out=False, can_name_rows=True)
    with pytest.raises(ValueError, match=r"raise task\.source\.held_out"):
        refuse_leaks(Countdown(held_out=0), held_out_problems(3), "countdown")
