"""How the responses behind a cosine were sampled and scored, for captions of figures and tables.

The mean cosine over pairs depends on the sampling temperature, on truncation and on the temperature
of p_t (docs/method.md, "The zero-mean identity"), so all of them stand under every table and figure
of cosines. Imports neither torch nor matplotlib.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from g2rl.analysis.geometry.records import GeometrySettings


def truncation(top_p: float, top_k: float) -> str:
    """``top-p 0.9 and top-k 50``, or ``no truncation``."""
    # 1 and 0 are the settings that cut nothing
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
    if scored_at is None:
        scored_at = sampled_at
    return (
        f"sampled at temperature {sampled_at:g}, {truncation(top_p, top_k)}; "
        f"p_t scored at temperature {scored_at:g}"
    )


def sampled_with_features(
    sampled_at: float, top_p: float, top_k: float, feature_temperature: float | None
) -> str:
    """``sampled at temperature 1 with no truncation; Φ at temperature 1``.

    The same conditions where features Φ stand beside true gradients, whose temperature is that of
    the responses.
    """
    if feature_temperature is None:
        feature_temperature = sampled_at
    return (
        f"sampled at temperature {sampled_at:g} with {truncation(top_p, top_k)}; "
        f"Φ at temperature {feature_temperature:g}"
    )


def probe_caption(row: Mapping[str, float]) -> str:
    """How the responses of a probe were sampled and scored, from its metrics."""
    return sampled_and_scored(
        row["probe/sampled_at"], row["probe/top_p"], row["probe/top_k"], row["probe/scored_at"]
    )


def probe_identity(row: Mapping[str, float]) -> str:
    """``identity ratio +0.01, 3% of the pairs identical``; "" where it was not measured."""
    if "probe/identity_ratio" not in row:
        return ""
    text = f"identity ratio {row['probe/identity_ratio']:+.2f}"
    if "probe/identical_pairs" in row:
        text += f", {row['probe/identical_pairs']:.0%} of the pairs identical"
    return text


def conditions(about: GeometrySettings, sampled_at: float, scored_at: float) -> str:
    """How one cell of `g2rl-analyze geometry` was sampled and scored."""
    return sampled_and_scored(sampled_at, about["top_p"], about["top_k"], scored_at)


def one_or_mixed(captions: Iterable[str]) -> str:
    """The caption that all runs share; ``mixed: A | B`` where they have several."""
    # sorted, so that the text does not depend on the order of runs
    distinct = sorted(set(captions))
    if len(distinct) == 1:
        return distinct[0]
    return f"mixed: {' | '.join(distinct)}"
