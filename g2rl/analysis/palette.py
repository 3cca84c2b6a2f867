"""Colours of the figures, told apart under any colour vision (the palette of Okabe and Ito).

A signal and a pair class have the same colour in every figure. Loads neither torch nor matplotlib.
"""

from __future__ import annotations

from g2rl.formulas.pairs import CORRECT_CORRECT, CORRECT_WRONG, WRONG_WRONG

SIGNAL_COLOURS = {"none": "#000000", "entropy": "#E69F00", "evol": "#0072B2", "g2rl": "#D55E00"}
"""Colour of each signal; the order is that of arms in tables and legends."""

PAIR_COLOURS = {
    CORRECT_CORRECT: "#009E73",
    CORRECT_WRONG: "#0072B2",
    WRONG_WRONG: "#D55E00",
}
"""Colour of each class of pairs of responses."""

OTHER_COLOURS = ("#009E73", "#CC79A7", "#56B4E9", "#F0E442")
"""For arms that are no signal."""

CURVE_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
"""For several metrics of one run."""
