"""Countdown: the grammar against random trees of known value, solvable problems, disjoint held-out
ones."""

from __future__ import annotations

import random
import time
from collections import Counter
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from g2rl.tasks.countdown import (
    Countdown,
    CountdownVerifier,
    Step,
    combine,
    draw_training,
    held_out_problems,
    signature,
)
from g2rl.tasks.countdown_grammar import GrammarError, parse
from g2rl.tasks.countdown_traces import expression_of, trace
from g2rl.types import Problem

Tree = int | tuple[str, "Tree", "Tree"]
trees = st.recursive(
    st.integers(0, 12), lambda inner: st.tuples(st.sampled_from("+-*/"), inner, inner), max_leaves=9
)
LEVEL = {"+": 1, "-": 1, "*": 2, "/": 2}


def value_of(tree: Tree) -> Fraction | None:
    """Exact value of a tree, None where it divides by zero."""
    if isinstance(tree, int):
        return Fraction(tree)
    op, left, right = tree[0], value_of(tree[1]), value_of(tree[2])
    if left is None or right is None or (op == "/" and right == 0):
        return None
    return {"+": left + right, "-": left - right, "*": left * right, "/": left / (right or 1)}[op]


def numbers_of(tree: Tree) -> list[int]:
    return [tree] if isinstance(tree, int) else numbers_of(tree[1]) + numbers_of(tree[2])


def text_of(tree: Tree, rng: random.Random) -> str:
    """Infix text with random spaces and superfluous parentheses; the necessary ones are always
    there."""
    if isinstance(tree, int):
        text = str(tree)
    else:
        op, left, right = tree
        parts = [text_of(left, rng), text_of(right, rng)]
        if not isinstance(left, int) and LEVEL[left[0]] < LEVEL[op]:
            parts[0] = f"({parts[0]})"
        if not isinstance(right, int) and LEVEL[right[0]] <= LEVEL[op]:
            parts[1] = f"({parts[1]})"
        text = f"{parts[0]}{rng.choice(['', ' '])}{op}{rng.choice(['', ' '])}{parts[1]}"
        if rng.random() < 0.2:
            return f"({text})" if rng.random() < 0.5 else f"(( {text} ) )"
    return text


@settings(max_examples=150, deadline=None)
@given(trees, st.randoms(use_true_random=False))
def test_parse_reads_the_value_and_the_numbers_of_a_random_tree(
    tree: Tree, rng: random.Random
) -> None:
    text = text_of(tree, rng)
    if len(text) > 512 or sum(text.count(c) for c in "+-*/()") + len(numbers_of(tree)) > 64:
        return
    found = parse(text)
    assert found.value == value_of(tree)
    assert found.numbers == tuple(sorted(numbers_of(tree)))


def commuted(tree: Tree, rng: random.Random) -> Tree:
    """The same tree with the operands of + and * swapped at random."""
    if isinstance(tree, int):
        return tree
    op, left, right = tree[0], commuted(tree[1], rng), commuted(tree[2], rng)
    return (op, right, left) if op in "+*" and rng.random() < 0.5 else (op, left, right)


@settings(max_examples=200, deadline=None)
@given(trees, st.randoms(use_true_random=False))
def test_canonical_does_not_change_when_operands_are_swapped(
    tree: Tree, rng: random.Random
) -> None:
    texts = [text_of(tree, rng), text_of(commuted(tree, rng), rng)]
    if max(map(len, texts)) > 120:
        return
    assert parse(texts[0]).canonical == parse(texts[1]).canonical


small = st.recursive(
    st.integers(1, 3), lambda inner: st.tuples(st.sampled_from("+-*/"), inner, inner), max_leaves=4
)


@settings(max_examples=250, deadline=None)
@given(small, small, st.randoms(use_true_random=False))
def test_equal_canonical_forms_have_equal_values(a: Tree, b: Tree, rng: random.Random) -> None:
    """Different solutions must never be merged into one of another value (where both are
    defined)."""
    left, right = parse(text_of(a, rng)), parse(text_of(b, rng))
    if left.canonical == right.canonical and None not in (left.value, right.value):
        assert left.value == right.value
        assert left.numbers == right.numbers


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("3 + 4 * 2", "2 * 4 + 3"),
        ("1 + (2 + 3)", "3 + 1 + 2"),
        ("8 * 3 + 7 - 2", "7 - 2 + 3 * 8"),
        ("9 - (3 - 2)", "9 + 2 - 3"),
        ("8 / (4 / 2)", "8 / 4 * 2"),
        ("((5))", "05"),
        ("2 × 3 ÷ 1", "2 \\times 3 \\div 1"),
        ("5 − 3", "\\left( 5 - 3 \\right)"),
    ],
)
def test_canonical_equal(left: str, right: str) -> None:
    assert parse(left).canonical == parse(right).canonical
    assert parse(left).value == parse(right).value


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("3 - 2", "2 - 3"),
        ("6 / 2", "2 / 6"),
        ("2 * (3 + 4)", "2 * 3 + 4"),
        ("8 / 4 / 2", "8 / (4 / 2)"),
        ("9 - 3 - 2", "9 - (3 - 2)"),
        ("12 + 3", "1 + 23"),
        ("2 + 2", "2 * 2"),
    ],
)
def test_canonical_different(left: str, right: str) -> None:
    assert parse(left).canonical != parse(right).canonical


def test_division_by_zero_has_no_value() -> None:
    assert parse("1 / (2 - 2)").value is None
    assert parse("3 + 1 / 0 * 5").value is None


HOSTILE = [
    "",
    " ",
    "+",
    "1 +",
    "* 2",
    "1 2",
    "()",
    "(1",
    "1)",
    ")(",
    "1 + + 2",
    "-1",
    "3 - -1",
    "(-1)",
    "+1",
    "2 ** 3",
    "2 // 3",
    "7 % 2",
    "2 ^ 3",
    "1.5",
    "1e3",
    "0x10",
    "1_000",
    "__import__('os')",
    "__import__('os').system('x')",
    "exec(1)",
    "a",
    "x + 1",
    "lambda: 1",
    "[1]",
    "{1}",
    "1²",
    "1٣ + 2",
    "²",
    "1 + ²",
    "٣ + 1",
    "１ + 2",
    "\u0661",
    "1\x00+2",
    "1\u00a0+ 2",
    "\\frac{1}{2}",
    "1 = 1",
    "1;2",
    "1,2",
    "1234567",
    "9" * 400,
    "1" + "+1" * 40,
    "(" * 70 + "1" + ")" * 70,
    "(" * 500,
    "1" * 100_000,
    "+" * 100_000,
    "(" * 100_000,
    " " * 1_000_000,
    "9**9**9**9",
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_input_is_refused_quickly(text: str) -> None:
    started = time.thread_time()  # a busy machine may take its time by the clock
    with pytest.raises(GrammarError):
        parse(text)
    assert time.thread_time() - started < 0.1


PROBLEM = Problem("p", "use 8 3 7 2 make 29 :", "29", {"numbers": [8, 3, 7, 2], "target": 29})


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(
        st.text(), st.text(alphabet="0123456789+-*/() {}\\boxed").map(lambda s: f"\\boxed{{{s}}}")
    )
)
def test_grading_never_raises(text: str) -> None:
    verdict = CountdownVerifier().grade(text, PROBLEM)
    assert verdict.route in ("unparsed", "expression")
    assert (verdict.answer is None) == (verdict.route == "unparsed")


@pytest.mark.parametrize(
    ("text", "correct", "route"),
    [
        ("\\boxed{ 8 * 3 + 7 - 2 }", True, "expression"),
        ("calc so \\boxed{7 - 2 + 3*8}", True, "expression"),
        ("\\boxed{1} no, \\boxed{8 * 3 + 7 - 2}", True, "expression"),  # the last box counts
        ("\\boxed{8 * 3 + 7 - 2} or \\boxed{29}", False, "expression"),
        ("\\boxed{29}", False, "expression"),  # the target without the numbers
        ("\\boxed{8 * 3 + 7 - 2 + 7 - 7}", False, "expression"),  # a number used thrice
        ("\\boxed{8 * 3 + 5}", False, "expression"),  # numbers not given
        ("\\boxed{8 * 3 + 7 + 2}", False, "expression"),
        ("\\boxed{8 * 3 / (7 - 7)}", False, "expression"),
        ("8 * 3 + 7 - 2", False, "unparsed"),
        ("\\boxed{8 * 3 + 7 - 2", False, "unparsed"),
        ("\\boxed{8 * 3 + 7 - 2 = 29}", False, "unparsed"),
        ("", False, "unparsed"),
    ],
)
def test_grading_by_hand(text: str, correct: bool, route: str) -> None:
    verdict = CountdownVerifier().grade(text, PROBLEM)
    assert (verdict.correct, verdict.route) == (correct, route)


def test_equal_answers_have_equal_keys() -> None:
    verifier = CountdownVerifier()
    one, other, third = (
        verifier.grade(f"\\boxed{{{text}}}", PROBLEM).answer
        for text in ("8*3+7-2", "7 + 3 * 8 - 2", "8 + 3 * 7 + 2 - 2")
    )
    assert verifier.key(one) == verifier.key(other)
    assert verifier.equivalent(one, other)
    assert not verifier.equivalent(one, third)


@pytest.mark.parametrize(("left", "right"), list(product(range(1, 61, 7), range(1, 11))))
def test_combine_stays_within_bounds_and_exact(left: int, right: int) -> None:
    for op in "+-*/":
        exact = value_of((op, left, right))
        inside = exact.denominator == 1 and 1 <= exact <= 60
        assert combine(left, op, right) == (int(exact) if inside else None)


DRAWS = 2500


@pytest.fixture(scope="module")
def training() -> list[tuple[list[int], list[Step]]]:
    return [draw_training(3, index, 512) for index in range(DRAWS)]


def check_derivation(numbers: list[int], steps: list[Step]) -> None:
    """Every step takes two values that are there; values stay within 1..60 and division is
    exact."""
    pool = Counter(numbers)
    for step in steps:
        for used in (step.left, step.right):
            assert pool[used] > 0
            pool[used] -= 1
        assert value_of((step.op, step.left, step.right)) == step.result
        assert 1 <= step.result <= 60
        pool[step.result] += 1
    assert +pool == Counter([steps[-1].result])


def test_training_problems_are_solvable_within_bounds(
    training: list[tuple[list[int], list[Step]]],
) -> None:
    for numbers, steps in training:
        check_derivation(numbers, steps)
        target = steps[-1].result
        assert 10 <= target <= 60
        assert target not in numbers
        assert len(numbers) in (3, 4)
        assert all(1 <= n <= 10 for n in numbers)
    three = sum(len(numbers) == 3 for numbers, _ in training)
    assert 0.2 * DRAWS < three < 0.8 * DRAWS


def test_the_written_derivation_solves_its_problem(
    training: list[tuple[list[int], list[Step]]],
) -> None:
    """The minimal parentheses of `expression_of` keep the value, and the verifier accepts the
    text."""
    for numbers, steps in training[:800]:
        target = steps[-1].result
        problem = Problem("p", "", str(target), {"numbers": numbers, "target": target})
        assert (
            CountdownVerifier()
            .grade(f"\\boxed{{ {expression_of(numbers, steps)} }}", problem)
            .correct
        )


def test_training_never_contains_a_held_out_problem(
    training: list[tuple[list[int], list[Step]]],
) -> None:
    held = {(p.meta["target"], *sorted(p.meta["numbers"])) for p in held_out_problems(512)}
    assert len(held) == 512  # no problem twice
    assert not held & {(steps[-1].result, *sorted(numbers)) for numbers, steps in training}
    undisturbed = {
        (s[-1].result, *sorted(n)) for n, s in (draw_training(3, i, 0) for i in range(DRAWS))
    }
    assert held & undisturbed  # without the exclusion they would collide


def test_held_out_problems_are_solvable_and_a_longer_list_begins_with_the_shorter() -> None:
    """Solvable by exhaustive search over all trees with intermediate values in 1..60."""
    problems = held_out_problems(60)
    assert held_out_problems(20) == problems[:20]
    for problem in problems[:20]:
        assert problem.meta["target"] in reachable(tuple(sorted(problem.meta["numbers"])))
        assert problem.answer == str(problem.meta["target"])


def reachable(pool: tuple[int, ...]) -> set[int]:
    """All final values of combining the pool pair by pair."""
    if len(pool) == 1:
        return {pool[0]}
    found: set[int] = set()
    for i, j in product(range(len(pool)), repeat=2):
        if i == j:
            continue
        rest = [v for k, v in enumerate(pool) if k not in (i, j)]
        for op in "+-*/":
            value = value_of((op, pool[i], pool[j]))
            if value is not None and value.denominator == 1 and 1 <= value <= 60:
                found |= reachable(tuple(sorted([*rest, int(value)])))
    return found


def test_signature_is_the_multiset_and_the_target() -> None:
    assert signature([3, 1, 2], 13) == signature([2, 3, 1], 13)
    assert signature([3, 1, 2], 13) != signature([3, 1, 2], 14)
    assert signature([3, 3, 2], 13) != signature([3, 2, 2], 13)


def test_batches_are_a_function_of_seed_and_position() -> None:
    task = Countdown()
    whole = task.batch(5, 100, 30)
    assert whole == task.batch(5, 100, 13) + task.batch(5, 113, 17) == Countdown().batch(5, 100, 30)
    assert len({p.id for p in whole}) == 30
    assert [p.prompt for p in whole] != [p.prompt for p in task.batch(6, 100, 30)]
    first = whole[0]
    assert first.prompt == f"use {' '.join(map(str, first.meta['numbers']))} make {first.answer} :"


def test_a_template_names_numbers_and_target() -> None:
    assert Countdown("$target from $numbers").batch(0, 0, 1)[0].prompt.split(" from ")[0].isdigit()
    with pytest.raises(ValueError, match="numbers"):
        Countdown("only $target")


def test_traces_parse_and_seven_in_ten_are_right() -> None:
    """Every trace ends in one readable box; the share of right ones is 0.7 within four standard
    errors."""
    count, right, styles = 1500, 0, Counter()
    for index in range(count):
        prompt, text = trace(9, index, 512)
        left, _, target = prompt.removeprefix("use ").removesuffix(" :").partition(" make ")
        problem = Problem(
            "p", prompt, target, {"numbers": [int(n) for n in left.split()], "target": int(target)}
        )
        verdict = CountdownVerifier().grade(text, problem)
        assert text.count("\\boxed{") == 1
        assert verdict.route == "expression"
        right += verdict.correct
        styles[text.split()[0]] += 1
    assert abs(right / count - 0.7) < 4 * np.sqrt(0.7 * 0.3 / count)
    for style, share in (("\\boxed{", 0.15), ("calc", 0.35), ("back", 0.25), ("try", 0.25)):
        assert abs(styles[style] / count - share) < 4 * np.sqrt(share / count)


def test_the_claims_of_right_forward_traces_are_true() -> None:
    """`a op b = c` holds literally in every calc trace, right or wrong: only the target is
    missed."""
    for index in range(200):
        _, text = trace(4, index, 0)
        if text.startswith("calc "):
            for claim in text.removeprefix("calc ").split(" so ")[0].split(" , "):
                expression, _, result = claim.partition(" = ")
                assert parse(expression).value == int(result)
