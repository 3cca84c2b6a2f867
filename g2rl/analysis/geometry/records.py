"""The records of geometry.json. Needs no torch, unlike what computes them."""

from __future__ import annotations

from typing import Any, TypedDict

GRADIENT, SEMANTIC = "gradient", "semantic"
"""Spaces in which cosines are taken: gradient features, and embeddings of the texts."""


class GeometrySettings(TypedDict):
    """How the responses were drawn and measured, beside the temperatures of the cells."""

    model: str
    benchmark: str
    problems: int
    responses: int
    max_tokens: int
    top_p: float
    top_k: int
    seed: int
    near_orthogonal: float
    encoder: str | None


class CellSummary(TypedDict):
    """Everything about one sampling and scoring temperature; None stands for what is undefined."""

    sampled_at: float
    scored_at: float
    caption: str
    zero_features: int
    responses: dict[str, dict[str, float]]
    strategies: list[dict[str, Any]] | None
    gradient: list[dict[str, Any]]
    """Rows of the table of numbers."""
    semantic: list[dict[str, Any]] | None


class GeometrySummary(TypedDict):
    """The content of geometry.json."""

    settings: GeometrySettings
    histogram_bins: int
    cells: list[CellSummary]
