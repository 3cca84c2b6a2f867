"""countdown_hard: the list that ships is what the rule says, solvable, and divided."""

from __future__ import annotations

import json
from itertools import permutations, product
from pathlib import Path
from random import Random

import pytest

from g2rl.cli import hard_problems
from g2rl.formulas.estimators import pass_at_k
from g2rl.tasks.benchmarks.countdown_hard import countdown_hard_benchmark
from g2rl.tasks.countdown import Countdown, signature
from g2rl.tasks.countdown_grammar import parse
from g2rl.tasks.countdown_hard import FILE, SAMPLES, CountdownHard, problems
from g2rl.tasks.countdown_solutions import solutions
from g2rl.tasks.task import refuse_leaks
from g2rl.types import Problem


def values(numbers: tuple[int, ...]) -> set[int]:
    """Every whole value that Countdown steps can make of all the numbers, by trying them all."""
    if len(numbers) == 1:
        return {numbers[0]}
    made: set[int] = set()
    for i, left in enumerate(numbers):
        for j, right in enumerate(numbers):
            if i == j:
                continue
            rest = tuple(n for k, n in enumerate(numbers) if k not in (i, j))
            results = [left + right, left - right, left * right]
            if right and left % right == 0:
                results.append(left // right)
            for result in results:
                if result >= 1:
                    made |= values((result, *rest))
    return made


def test_every_problem_was_solved_sometimes_and_seldom() -> None:
    chosen = json.loads(FILE.read_text(encoding="utf-8"))
    assert {part: len(rows) for part, rows in chosen.items()} == {"train": 512, "heldout": 256}
    for rows in chosen.values():
        for row in rows:
            assert len(row["numbers"]) == 4
            assert 0 < pass_at_k(SAMPLES, row["right"], 16) <= 0.5
            assert hard_problems.is_wanted(row["right"])
    assert not hard_problems.is_wanted(0)
    assert not hard_problems.is_wanted(5)


def test_problems_can_be_solved() -> None:
    for problem in [*problems("train")[::16], *problems("heldout")[::16]]:
        assert problem.meta["target"] in values(tuple(problem.meta["numbers"]))


def all_expressions(numbers: list[int]) -> set[str]:
    """Texts of all bracketings, orders and operators of three numbers."""
    texts = set()
    for a, b, c in permutations(numbers):
        for first, second in product("+-*/", repeat=2):
            texts |= {f"( {a} {first} {b} ) {second} {c}", f"{a} {first} ( {b} {second} {c} )"}
    return texts


def test_solutions_are_those_of_brute_force() -> None:
    rng = Random(5)
    counts = set()
    for _ in range(40):
        numbers, target = [rng.randint(1, 9) for _ in range(3)], rng.randint(1, 20)
        expected = set()
        for text in all_expressions(numbers):
            expression = parse(text)
            if expression.value == target:
                expected.add(expression.canonical)
        assert solutions(numbers, target) == expected
        counts.add(len(expected))
    assert len(counts) >= 3

    # what the file says of its problems
    for problem in problems("heldout")[::32]:
        found = solutions(problem.meta["numbers"], problem.meta["target"])
        assert len(found) == problem.meta["solutions"] >= 1


def test_held_out_problems_are_never_drawn_whatever_their_order() -> None:
    task = CountdownHard()
    held_out = problems("heldout")
    marks = {signature(p.meta["numbers"], p.meta["target"]) for p in [*task.problems, *held_out]}
    assert len(marks) == 512 + 256
    refuse_leaks(task, held_out, "countdown_hard")
    turned = [
        Problem(p.id, p.prompt, p.answer, {**p.meta, "numbers": p.meta["numbers"][::-1]})
        for p in task.problems
    ]
    with pytest.raises(ValueError, match="512 of 512"):
        refuse_leaks(task, turned, "turned")
    assert not task.may_draw(Problem("x", "", "", {}))
    # the stream of Countdown itself may meet them
    assert any(Countdown().may_draw(problem) for problem in task.problems)


def test_answers_are_canonical_expressions_and_the_hard_subset_has_one_solution() -> None:
    task = CountdownHard()
    assert task.batch(1, 510, 6)[2:] == task.batch(1, 512, 4)
    problem = Problem("x", "", "29", {"numbers": [8, 3, 7, 2], "target": 29})
    one, two = (
        task.verifier.grade(f"\\boxed{{ {text} }}", problem)
        for text in ("8 * 3 + 7 - 2", "( 7 - 2 ) + 3 * 8")
    )
    assert one.correct
    assert one.answer == two.answer == parse("8 * 3 + 7 - 2").canonical
    rows = json.loads(FILE.read_text(encoding="utf-8"))["heldout"]
    hard = countdown_hard_benchmark(subset="hard")
    assert len(hard.problems) == sum(row["solutions"] == 1 for row in rows) > 50
    assert len(countdown_hard_benchmark(limit=7).problems) == 7


def test_the_command_writes_what_the_task_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a sampler that always counts the same, the first candidates are taken."""

    class Counting:
        def __init__(self, seed: int) -> None:
            self.seed = seed

        def right(self, batch: list[Problem], samples: int) -> list[int]:
            return [1 if problem.meta["target"] % 2 else 9 for problem in batch]

    monkeypatch.setattr(hard_problems, "Sampler", Counting)
    monkeypatch.setattr(hard_problems, "HELD_OUT_CANDIDATES", 60)
    out = tmp_path / "problems.json"
    words = ["--out", str(out), "--training", "20", "--held-out", "5"]
    assert hard_problems.main(words) == 0
    written = json.loads(out.read_text())
    assert [len(written[part]) for part in ("train", "heldout")] == [20, 5]
    for row in [*written["train"], *written["heldout"]]:
        assert row["target"] % 2 == 1
        assert len(row["numbers"]) == 4
    with pytest.raises(ValueError, match=r"of 500 problems among the candidates"):
        hard_problems.main(["--out", str(out), "--training", "1", "--held-out", "500"])
