"""Names in the tables of `g2rl-analyze fidelity`. Needs no torch, unlike what computes them."""

from __future__ import annotations

TRUE = "true/"
"""Prefix of the columns of true cosines: "true/all", "true/layer.0"."""
TOTAL = "all"
"""Name of the sum over the chosen blocks."""
DISTINCT = "distinct"
"""Pairs whose token sequences differ. Identical responses have cosine 1 whatever the predictor."""
