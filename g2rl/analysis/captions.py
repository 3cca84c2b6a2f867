"""TODO docstring."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def probe_caption(row: Mapping[str, float]) -> str:
    """How the responses of a probe were sampled and scored: what the mean cosine depends on."""
    return (
        f"{sampling_caption(row['probe/sampled_at'], row['probe/top_p'], row['probe/top_k'])}; "
        f"p_t scored at temperature {row['probe/scored_at']:g}"
    )


def sampling_caption(sampled_at: float, top_p: float, top_k: float) -> str:
    """``sampled at temperature 0.6, top-p 0.9``; "no truncation" where nothing was cut."""
    return f"sampled at temperature {sampled_at:g}, {truncation(top_p, top_k)}"


def truncation(top_p: float, top_k: float) -> str:
    """``top-p 0.9 and top-k 50``, or ``no truncation``."""
    cuts = [f"top-p {top_p:g}"] if top_p < 1 else []
    cuts += [f"top-k {top_k:g}"] if top_k else []
    return " and ".join(cuts) or "no truncation"


def conditions(about: Mapping[str, Any], sampled_at: float, scored_at: float) -> str:
    """What the mean cosine depends on: temperatures and truncation. Stands under every table and
    figure."""
    cut = truncation(about["top_p"], about["top_k"])
    return f"sampled at temperature {sampled_at:g}, {cut}; p_t scored at temperature {scored_at:g}"
