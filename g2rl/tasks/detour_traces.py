"""Demonstrations for the warm start of the detour policy: two styles of search, with slips.

A demonstration is a shortest path found by backtracking (only the path is written, not the search).
Most searches try right first, some down first, and a few prefer either at random from cell to cell.
So the base policy knows every direction, but has a habit. Then each move is replaced at random with
probability `SLIP_ODDS`, and what follows stays as it was: the base policy is wrong often, and its
errors are not always the same.
"""

from __future__ import annotations

from random import Random

from g2rl.tasks.detour import MOVES, Grid, draw_training, prompt_of, search
from g2rl.tasks.streams import stream

STYLES = ("right", "down", "random")
STYLE_ODDS = (0.80, 0.12, 0.08)
SLIP_ODDS = 0.12

_TRACE_STREAM = 0xD77A  # a kind of random stream, as in `detour`


def write_trace(grid: Grid, rng: Random) -> str:
    """One demonstration for a grid, in a random style, perhaps with slips: ``R R D ...``."""
    # which move the search tries first in each place
    places = 2 * (grid.size - 1)
    style = rng.choices(STYLES, STYLE_ODDS)[0]
    if style == "random":
        preferences = rng.choices("RD", k=places)
    else:
        preferences = ["R" if style == "right" else "D"] * places
    path = search(grid, preferences)

    # slips, of which one in four changes nothing
    moves = list(path)
    for place in range(len(moves)):
        if rng.random() < SLIP_ODDS:
            moves[place] = rng.choice(list(MOVES))
    return " ".join(moves)


def trace(seed: int, index: int, held_out: int) -> tuple[str, str]:
    """Prompt and demonstration number `index`; never of one of the first held-out grids."""
    grid = draw_training(seed, index, held_out)
    return prompt_of(grid), write_trace(grid, stream(_TRACE_STREAM, seed, index))
