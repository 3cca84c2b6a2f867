"""TODO docstring."""

from __future__ import annotations

CURVE_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")

OTHER_COLOURS = ("#009E73", "#CC79A7", "#56B4E9", "#F0E442")


# Okabe-Ito, one colour a signal in every figure
SIGNAL_COLOURS = {"none": "#000000", "entropy": "#E69F00", "evol": "#0072B2", "g2rl": "#D55E00"}


# Okabe-Ito: distinguishable with any colour vision; one colour a pair class everywhere
PAIR_COLOURS = {"correct-correct": "#009E73", "correct-wrong": "#0072B2", "wrong-wrong": "#D55E00"}
