"""Detour: the grid against brute force, loop-free answers, disjoint held-out grids, the shipped
policy."""

from __future__ import annotations

from itertools import product
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from g2rl.policy.loading import ModelError, load
from g2rl.policy.prompts import encode_prompt
from g2rl.tasks.benchmarks.detour import detour_benchmark
from g2rl.tasks.detour import (
    LEAST_PATHS,
    MAX_MOVES,
    Detour,
    DetourVerifier,
    Grid,
    draw_training,
    held_out_grids,
    held_out_problems,
    prompt_of,
    search,
    shortest_paths,
    vocabulary,
    without_loops,
)
from g2rl.tasks.detour_traces import SLIP_ODDS, trace, write_trace
from g2rl.tasks.task import refuse_leaks
from g2rl.types import Problem

STEPS = {"R": (1, 0), "D": (0, 1), "L": (-1, 0), "U": (0, -1)}


def grids(count: int, size: int = 4, walls: int = 4) -> list[Grid]:
    """Random small grids, solvable or not."""
    rng = Random(3)
    cells = [(x, y) for x, y in product(range(size), repeat=2)][1:-1]
    return [Grid(size, frozenset(rng.sample(cells, walls))) for _ in range(count)]


def end_of(grid: Grid, moves: str) -> tuple[int, int] | None:
    """Where a walk ends; None if it leaves the grid or meets a wall."""
    x = y = 0
    for move in moves:
        x, y = x + STEPS[move][0], y + STEPS[move][1]
        if not (0 <= x < grid.size and 0 <= y < grid.size) or (x, y) in grid.walls:
            return None
    return x, y


def forward_paths(grid: Grid) -> list[str]:
    """Every path of right and down moves that reaches the goal, by trying all words."""
    words = map("".join, product("DR", repeat=2 * (grid.size - 1)))
    return [word for word in words if end_of(grid, word) == (grid.size - 1, grid.size - 1)]


def test_paths_are_counted_and_found_as_brute_force_does() -> None:
    solvable = 0
    for grid in grids(300):
        paths = forward_paths(grid)
        assert shortest_paths(grid) == len(paths)
        if not paths:
            with pytest.raises(ValueError, match="no shortest path"):
                search(grid, "R" * 6)
            continue

        # right first is the last word in the alphabet, down first the first one
        solvable += 1
        assert search(grid, "R" * 6) == max(paths)
        assert search(grid, "D" * 6) == min(paths)
        assert search(grid, "RDRDRD") in paths
    assert solvable > 50


def test_a_hard_grid_has_few_paths() -> None:
    problems = held_out_problems(200)
    for grid, problem in zip(held_out_grids(200), problems, strict=True):
        assert problem.meta["paths"] == shortest_paths(grid) >= LEAST_PATHS
        assert (problem.meta["group"] == "hard") == (len(forward_paths(grid)) <= 5)
    hard = detour_benchmark(subset="hard").problems
    assert 20 <= len(hard) <= 70
    assert hard == [problem for problem in problems if problem.meta["paths"] <= 5]


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="RDLU", max_size=MAX_MOVES))
def test_answers_are_free_of_loops(moves: str) -> None:
    path = without_loops(moves)
    cells = [(0, 0)]
    for move in path:
        cells.append((cells[-1][0] + STEPS[move][0], cells[-1][1] + STEPS[move][1]))

    # a simple path to the same end, which visits only cells of the walk
    visited = [(0, 0)]
    for move in moves:
        visited.append((visited[-1][0] + STEPS[move][0], visited[-1][1] + STEPS[move][1]))
    assert len(set(cells)) == len(cells)
    assert cells[-1] == visited[-1]
    assert set(cells) <= set(visited)
    assert without_loops(path) == path
    if len(set(visited)) == len(visited):
        assert path == moves


def test_going_to_and_fro_is_no_path_of_its_own() -> None:
    [problem] = held_out_problems(1)
    verifier = DetourVerifier()
    straight = verifier.grade(" ".join(problem.answer), problem)
    wiggle = problem.answer[0] + {"R": "L", "D": "U"}[problem.answer[0]] + problem.answer
    assert straight.correct
    assert straight.answer == problem.answer
    assert verifier.grade(wiggle, problem).correct
    assert verifier.grade(wiggle, problem).answer == straight.answer
    assert not verifier.equivalent("RD", "DR")


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 30), st.text(alphabet="RD", min_size=6, max_size=6), st.booleans())
def test_the_verifier_agrees_with_a_simulation(number: int, moves: str, spaced: bool) -> None:
    grid = grids(31)[number]
    meta = {"size": 4, "walls": [list(cell) for cell in grid.walls]}
    verdict = DetourVerifier().grade(
        " ".join(moves) if spaced else moves, Problem("x", "", "", meta)
    )
    assert verdict.correct == (end_of(grid, moves) == (3, 3))
    assert verdict.route == "path"


@pytest.mark.parametrize(
    "text",
    ["", "   ", "R" * (MAX_MOVES + 1), "R D X", "r d", "R" * 10**6, "\x00", "RD\ud800", "walls R"],
)
def test_anything_but_moves_is_unparsed(text: str) -> None:
    verdict = DetourVerifier().grade(text, held_out_problems(1)[0])
    assert (verdict.correct, verdict.answer, verdict.route) == (False, None, "unparsed")


def test_a_walk_through_a_wall_past_the_goal_or_out_of_the_grid_is_wrong() -> None:
    problem = Problem("x", "", "", {"size": 3, "walls": [[1, 0]]})
    grade = DetourVerifier().grade
    assert grade("D D R R", problem).correct
    assert not grade("R R D D", problem).correct, "b1 is a wall"
    assert not grade("D D R", problem).correct, "not there yet"
    assert not grade("D D R R L", problem).correct, "left again"
    assert not grade("L R D D R R", problem).correct, "outside"


def test_held_out_grids_differ_and_are_never_drawn() -> None:
    task = Detour(held_out=100)
    held_out = held_out_problems(100)
    assert len(set(held_out_grids(100))) == 100
    assert held_out_problems(50) == held_out[:50]
    assert all(shortest_paths(grid) >= LEAST_PATHS for grid in held_out_grids(100))
    refuse_leaks(task, held_out, "detour")
    with pytest.raises(ValueError, match=r"raise task\.source\.held_out"):
        refuse_leaks(task, held_out_problems(101), "detour")
    assert all(task.may_draw(problem) for problem in task.batch(0, 0, 20))
    assert not task.may_draw(Problem("x", "", "", {}))

    # on grids so small that drawing meets held-out ones all the time
    few = [draw_training(0, index, 8, size=4, walls=2) for index in range(60)]
    assert not set(few) & set(held_out_grids(8, 4, 2))
    assert set(few) & set(held_out_grids(40, 4, 2))


def test_problems_are_a_function_of_seed_and_number() -> None:
    task = Detour()
    assert task.batch(1, 5, 5)[2:] == task.batch(1, 7, 3)
    assert task.batch(1, 0, 3) != task.batch(2, 0, 3)


@pytest.mark.parametrize(
    ("size", "walls", "complaint"),
    [(2, 0, "size must be"), (11, 3, "size must be"), (4, 15, "walls must be"), (4, -1, "walls")],
)
def test_impossible_grids_are_refused(size: int, walls: int, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Detour(size, walls)
    with pytest.raises(ValueError, match=complaint):
        detour_benchmark(size=size, walls=walls)


def test_shapes_with_too_few_grids_are_refused() -> None:
    with pytest.raises(ValueError, match="fewer than 9 different grids"):
        detour_benchmark(problems=9, size=3, walls=0)
    with pytest.raises(ValueError, match="hardly any grid"):
        detour_benchmark(problems=1, size=3, walls=6)
    with pytest.raises(ValueError, match="nearly all grids"):
        Detour(3, 0, held_out=1).batch(0, 0, 1)


def test_demonstrations_are_paths_with_slips() -> None:
    # without slips every demonstration is a shortest path, in more than one style
    rng = Random(0)
    paths: set[str] = set()
    slips = total = 0
    grid = held_out_grids(1)[0]
    valid = set(forward_paths(grid))
    right = 0
    for _ in range(2_000):
        moves = write_trace(grid, rng).replace(" ", "")
        assert len(moves) == 10
        paths.add(moves)
        right += moves in valid
        slips += sum(move in "LU" for move in moves)
        total += len(moves)
    assert len(paths & valid) >= 2
    # half of all slips are L or U, and three of four change the move; standard errors 0.0017, 0.011
    assert abs(slips / total - SLIP_ODDS / 2) < 0.007
    assert right / 2_000 > (1 - SLIP_ODDS) ** 10 - 0.04


def test_demonstrations_avoid_held_out_grids_and_speak_the_vocabulary() -> None:
    words = {*vocabulary()}
    held_out = {prompt_of(grid) for grid in held_out_grids(512)}
    for index in range(200):
        prompt, moves = trace(1, index, 512)
        assert prompt not in held_out
        assert set(f"{prompt} {moves}".split()) <= words
    assert trace(1, 7, 512) == trace(1, 7, 512) != trace(1, 8, 512)


def test_another_policy_is_refused_by_name() -> None:
    [problem] = held_out_problems(1)
    with pytest.raises(ModelError, match="pick another model="):
        encode_prompt(load("builtin:tiny", device="cpu").tokenizer, problem.prompt, chat=True)
    tokenizer = load("builtin:detour", device="cpu").tokenizer
    assert len(encode_prompt(tokenizer, problem.prompt, chat=True)) == 13
