"""Names in the tables of `g2rl-analyze fidelity`, apart from what computes them and needs a model
library."""

from __future__ import annotations

TRUE = "true/"
"""Prefix of the columns of true cosines: "true/all", "true/layer.0"."""
TOTAL = "all"
"""Name of the sum over the chosen blocks."""
DISTINCT = "distinct"
"""Pairs whose token sequences differ: identical responses have every cosine 1, whatever the
predictor."""
