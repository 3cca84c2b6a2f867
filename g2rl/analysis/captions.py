"""Captions of figures and tables of cosines: what the mean cosine depends on (docs/method.md).

Every figure of cosines says at which temperature its responses were sampled, whether the sampler was
truncated, and at which temperature p_t was scored. Imports neither torch nor matplotlib.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def truncation(top_p: float, top_k: float) -> str:
    """``top-p 0.9 and top-k 50``, or ``no truncation``."""
    cuts: list[str] = []
    if top_p < 1:
        cuts.append(f"top-p {top_p:g}")
    if top_k:
        cuts.append(f"top-k {top_k:g}")
    return " and ".join(cuts) or "no truncation"


def sampled_and_scored(
    sampled_at: float, top_p: float, top_k: float, scored_at: float | None
) -> str:
    """``sampled at temperature 0.6, top-p 0.9; p_t scored at temperature 1``.

    Args:
        sampled_at: temperature of the responses.
        top_p, top_k: of the sampler; 1 and 0 cut nothing.
        scored_at: temperature of p_t in the gradient features; None is that of the responses.
    """
    scored = sampled_at if scored_at is None else scored_at
    return (
        f"sampled at temperature {sampled_at:g}, {truncation(top_p, top_k)}; "
        f"p_t scored at temperature {scored:g}"
    )


def probe_caption(row: Mapping[str, float]) -> str:
    """How the responses of a probe were sampled and scored, from its metrics."""
    return sampled_and_scored(
        row["probe/sampled_at"], row["probe/top_p"], row["probe/top_k"], row["probe/scored_at"]
    )


def conditions(about: Mapping[str, Any], sampled_at: float, scored_at: float) -> str:
    """How one cell of `g2rl-analyze geometry` was sampled and scored."""
    return sampled_and_scored(sampled_at, about["top_p"], about["top_k"], scored_at)


def one_or_mixed(captions: Iterable[str]) -> str:
    """The caption that all share, or ``mixed: ... | ...``."""
    different = sorted(set(captions))
    return different[0] if len(different) == 1 else f"mixed: {' | '.join(different)}"
