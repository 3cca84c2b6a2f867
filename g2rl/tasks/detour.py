r"""Detour: walk through a grid of walls to the opposite corner; every grid has many right paths.

The grid has columns a, b, c, ... and rows 1, 2, 3, ...; the walk starts in cell a1. An example on
6 x 6 cells: prompt ``walls b1 a4 d2 f3 c5 e4 ... :`` and one right answer ``D D R R D R D R D R``
(R goes to the next column, D to the next row, L and U back). An answer is right if every step stays
inside the grid and off the walls and the last one ends in the far corner, within `MAX_MOVES` moves.

Every grid has at least `LEAST_PATHS` shortest paths. So one problem has many right answers, and how
many of them a policy still finds can be counted exactly: the answer of a verdict is the walk itself
without its loops, so that going to and fro does not count as a path of its own.

A grid is *hard* if it has only `HARD_PATHS` shortest paths or fewer. Problem number i of a stream
is a function of (seed, i) alone. Held-out grids come from a stream of their own and never occur in
training.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from g2rl.tasks.streams import stream
from g2rl.types import Problem, Verdict

SIZE, WALLS = 6, 10
LEAST_PATHS = 4
"""The fewest shortest paths of a grid."""
MAX_MOVES = 18
HARD_PATHS = 5
"""A grid with so few shortest paths is hard."""

Cell = tuple[int, int]
"""(column, row), from 0."""
MOVES: dict[str, Cell] = {"R": (1, 0), "D": (0, 1), "L": (-1, 0), "U": (0, -1)}

_HELD_OUT_STREAM, _TRAIN_STREAM = 0xDE70, 0xD7A1  # kinds of random streams
_MOST_TRIES = 20_000  # random grids looked at before a shape counts as impossible
_MAX_CHARACTERS = 4 * MAX_MOVES
_COLUMNS = "abcdefghij"


@dataclass(slots=True, frozen=True)
class Grid:
    """A square grid: ``Grid(6, frozenset({(1, 0), (0, 3)}))`` has walls in b1 and a4."""

    size: int
    walls: frozenset[Cell]

    @property
    def goal(self) -> Cell:
        """The far corner."""
        return (self.size - 1, self.size - 1)

    def is_free(self, cell: Cell) -> bool:
        """Whether a cell lies inside and is no wall."""
        # a walk may try to leave the grid on any side
        column, row = cell
        inside = 0 <= column < self.size and 0 <= row < self.size
        return inside and cell not in self.walls


def cell_name(cell: Cell) -> str:
    """The name of a cell: (1, 0) is b1."""
    return f"{_COLUMNS[cell[0]]}{cell[1] + 1}"


def vocabulary() -> list[str]:
    """The words that the policy of the default size needs: for prompts and for moves."""
    cells = [cell_name((column, row)) for row in range(SIZE) for column in range(SIZE)]
    return ["walls", ":", *MOVES, *cells]


def step(cell: Cell, move: str) -> Cell:
    """The cell beside another one, in the direction of a move."""
    right, down = MOVES[move]
    return (cell[0] + right, cell[1] + down)


def shortest_paths(grid: Grid) -> int:
    """The number of paths to the goal that go right and down only; each has 2 (size - 1) moves."""
    ways: dict[Cell, int] = {}
    for row in range(grid.size):
        for column in range(grid.size):
            # the start has one way; any other cell is reached from the left and from above
            cell = (column, row)
            ways[cell] = ways.get((column - 1, row), 0) + ways.get((column, row - 1), 0)
            if cell == (0, 0):
                ways[cell] = 1
            if cell in grid.walls:
                ways[cell] = 0
    return ways[grid.goal]


def search(grid: Grid, preferences: Sequence[str]) -> str:
    """Search for a shortest path by backtracking.

    Args:
        grid: with at least one shortest path.
        preferences: for the cells in the order of their distance from the start, which of "R" and
            "D" is tried first there: 2 (size - 1) letters.

    Returns:
        The path, such as "RRDRDD...".

    Raises:
        ValueError: the grid has no shortest path.
    """
    # moves that are still to be tried, by the number of moves before them
    path = ""
    untried: list[list[str]] = [_ordered(preferences[0])]
    while len(path) < 2 * (grid.size - 1):
        # no move is left here: take the last one back
        if not untried[-1]:
            untried.pop()
            if not untried:
                raise ValueError("the grid has no shortest path")
            path = path[:-1]
            continue

        # try the next move
        move = untried[-1].pop()
        if grid.is_free(walk(path + move)[-1]):
            path += move
            untried.append(_ordered(preferences[min(len(path), len(preferences) - 1)]))
    return path


def _ordered(first: str) -> list[str]:
    """The two forward moves, the one to be tried first at the end of the list."""
    return ["D", "R"] if first == "R" else ["R", "D"]


def walk(moves: str) -> list[Cell]:
    """The cells of a walk from the start, the first one included; walls are not looked at."""
    cells = [(0, 0)]
    for move in moves:
        cells.append(step(cells[-1], move))
    return cells


def without_loops(moves: str) -> str:
    """The walk without its loops: whenever it comes back to a cell, what lay between is left out.

    Two walks have the same result exactly if their loop-free walks are the same path.
    """
    kept = ""
    cells: list[Cell] = [(0, 0)]
    for move in moves:
        cell = step(cells[-1], move)
        if cell in cells:
            # back to an earlier cell
            place = cells.index(cell)
            cells, kept = cells[: place + 1], kept[:place]
        else:
            cells.append(cell)
            kept += move
    return kept


def draw(kind: int, seed: int, index: int, attempt: int, size: int, walls: int) -> Grid:
    """A random grid with at least `LEAST_PATHS` shortest paths.

    Args:
        kind: of the stream, held-out or training.
        seed: of the stream.
        index: of the problem in its stream.
        attempt: another one gives another grid with the same index.
        size, walls: the number of rows, and of wall cells.

    Raises:
        ValueError: such a grid is too rare to be found.
    """
    rng = stream(kind, seed, index, attempt, size, walls)
    cells = [(column, row) for row in range(size) for column in range(size)]
    for _ in range(_MOST_TRIES):
        # the start and the goal are free
        grid = Grid(size, frozenset(rng.sample(cells[1:-1], walls)))
        if shortest_paths(grid) >= LEAST_PATHS:
            return grid
    raise ValueError(
        f"detour: hardly any grid of size {size} with {walls} walls has {LEAST_PATHS} shortest "
        "paths; lower task.source.walls and benchmark.walls"
    )


@lru_cache(maxsize=8)
def held_out_grids(count: int, size: int = SIZE, walls: int = WALLS) -> tuple[Grid, ...]:
    """The first `count` held-out grids, each different from all others.

    Raises:
        ValueError: there are too few different grids of this shape.
    """
    # a grid that comes again is passed over
    grids: dict[Grid, None] = {}
    for index in range(count + _MOST_TRIES):
        if len(grids) == count:
            return tuple(grids)
        grids[draw(_HELD_OUT_STREAM, 0, index, 0, size, walls)] = None
    raise ValueError(
        f"detour: there are fewer than {count} different grids of size {size} with {walls} walls"
    )


def draw_training(
    seed: int, index: int, held_out: int, size: int = SIZE, walls: int = WALLS
) -> Grid:
    """Training grid `index` of the stream `seed`, which is none of the first held-out grids.

    Raises:
        ValueError: nearly every grid of this shape is held out.
    """
    # another attempt is another grid with the same number
    avoided = _avoided(held_out, size, walls)
    for attempt in range(_MOST_TRIES):
        grid = draw(_TRAIN_STREAM, seed, index, attempt, size, walls)
        if grid not in avoided:
            return grid
    raise ValueError(
        f"detour: nearly all grids of size {size} with {walls} walls are held out; lower "
        "task.source.held_out"
    )


@lru_cache(maxsize=8)
def _avoided(held_out: int, size: int, walls: int) -> frozenset[Grid]:
    """The held-out grids that training must avoid, as a set."""
    return frozenset(held_out_grids(held_out, size, walls))


def prompt_of(grid: Grid) -> str:
    """The prompt: the wall cells, row by row."""
    walls = sorted(grid.walls, key=lambda cell: (cell[1], cell[0]))
    return f"walls {' '.join(cell_name(cell) for cell in walls)} :"


def _problem(id_: str, grid: Grid) -> Problem:
    """The record of a grid; its walls travel with it for the verifier.

    The gold answer is one of the shortest paths, the one that the right-first search finds.
    """
    # any shortest path would do as the gold answer
    gold = search(grid, "R" * (2 * (grid.size - 1)))
    paths = shortest_paths(grid)
    meta = {
        "size": grid.size,
        "walls": sorted(list(cell) for cell in grid.walls),
        "paths": paths,
        "group": "hard" if paths <= HARD_PATHS else "easy",
    }
    return Problem(id_, prompt_of(grid), gold, meta)


def held_out_problems(count: int, size: int = SIZE, walls: int = WALLS) -> list[Problem]:
    """The first `count` held-out problems, the same in every run."""
    problems: list[Problem] = []
    for index, grid in enumerate(held_out_grids(count, size, walls)):
        problems.append(_problem(f"detour/heldout/{index}", grid))
    return problems


class DetourVerifier:
    """An answer is right if its moves lead from a1 to the far corner without touching a wall.

    The whole response is read as moves, one letter each, with or without spaces between them.
    """

    bounded = True

    def grade(self, completion: str, problem: Problem) -> Verdict:
        """Judge one completion. The verdict's answer is the walk without its loops."""
        start = time.perf_counter()

        # anything but a list of moves is no answer
        moves = self._moves(completion)
        if moves is None:
            return Verdict(False, None, "unparsed", time.perf_counter() - start)

        # a walk that leaves the grid or touches a wall is a wrong answer like any other
        walls = frozenset((column, row) for column, row in problem.meta["walls"])
        grid = Grid(problem.meta["size"], walls)
        cells = walk(moves)
        correct = cells[-1] == grid.goal and all(grid.is_free(cell) for cell in cells)
        return Verdict(correct, without_loops(moves), "path", time.perf_counter() - start)

    def _moves(self, completion: str) -> str | None:
        """The moves of a response, or None if it is anything else, or too long."""
        # longer texts are not worth the time of splitting them
        if len(completion) > _MAX_CHARACTERS:
            return None

        # with or without spaces
        moves = "".join(completion.split())
        if not 0 < len(moves) <= MAX_MOVES or not set(moves) <= set(MOVES):
            return None
        return moves

    def key(self, answer: str) -> str:
        """The answer itself, which is already free of loops."""
        return answer

    def equivalent(self, left: str, right: str) -> bool:
        """Whether two paths are the same."""
        return left == right


class Detour:
    """The task as an endless stream of grids.

    Args:
        size: rows and columns of a grid, 2 to 6 for the policy that ships with g2rl.
        walls: the number of wall cells.
        held_out: the first so many held-out grids never occur in training.

    Raises:
        ValueError: a grid of this size cannot have so many walls.
    """

    name = "detour"

    def __init__(self, size: int = SIZE, walls: int = WALLS, held_out: int = 256) -> None:
        check_shape(size, walls)
        self.size = size
        self.walls = walls
        self.held_out = held_out
        self.verifier = DetourVerifier()

    def may_draw(self, problem: Problem) -> bool:
        """Whether training could meet a problem: a grid of this shape that is not held out."""
        # problems of other tasks, and grids of another shape, cannot be drawn
        meta = problem.meta
        if "walls" not in meta or meta["size"] != self.size or len(meta["walls"]) != self.walls:
            return False
        grid = Grid(self.size, frozenset((column, row) for column, row in meta["walls"]))
        return grid not in _avoided(self.held_out, self.size, self.walls)

    def batch(self, seed: int, start: int, size: int) -> list[Problem]:
        """Problems number `start` to `start + size` of the stream with this seed."""
        problems: list[Problem] = []
        for index in range(start, start + size):
            grid = draw_training(seed, index, self.held_out, self.size, self.walls)
            problems.append(_problem(f"detour/train/{seed}/{index}", grid))
        return problems


def check_shape(size: int, walls: int) -> None:
    """Refuse grids that cannot be drawn.

    Raises:
        ValueError: the size is out of range, or there are more walls than cells for them.
    """
    # a column is named by one letter
    if not 3 <= size <= len(_COLUMNS):
        raise ValueError(f"detour: size must be 3 to {len(_COLUMNS)}, got {size}")

    # the start and the goal stay free
    if not 0 <= walls <= size * size - 2:
        raise ValueError(
            f"detour: walls must be 0 to {size * size - 2} on a grid of size {size}, got {walls}"
        )
